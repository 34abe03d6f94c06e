"""What libtpu made of a Module: its stages, its ledger, and an estimated Trace. It never runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from anychip.compilers import hlo
from anychip.compilers.deviceless import saved
from anychip.compilers.ledger import ledger
from anychip.compilers.libtpu.generations import Generation
from anychip.compilers.libtpu.schedule import Clockwork, replay
from anychip.compilers.spread import Spread
from anychip.compilers.store import Parts, not_kept
from anychip.compilers.xla_executable import Artifacts
from anychip.compilers.xla_trace import HloOp, hlo_origins
from anychip.core import (
    CompileError,
    Coverage,
    Module,
    Signature,
    Trace,
    UnsupportedError,
    UsageError,
)
from anychip.ops.view import OpView

if TYPE_CHECKING:
    from anychip.compilers.libtpu import LinkModel
    from anychip.core import Chip

_WIDE = frozenset({"i64", "ui64", "f64", "complex<f64>"})


class LibtpuExecutable:
    """A compiled program. The static profile is made when a trace or the artifact is asked for."""

    def __init__(
        self,
        *,
        chip: Chip,
        generation: Generation,
        link_model: LinkModel,
        target: str,
        module: Module,
        table: tuple[str, ...],
        parts: Parts,
        spread: Spread | None,
        profiled: Callable[[], Parts] | None,
    ):
        self.signature: Signature = module.signature
        self._chip, self._generation, self._link_model = chip, generation, link_model
        self._target, self._module, self._table = target, module, table
        self._parts, self._make_profile, self._spread = parts, profiled, spread
        stages: dict[str, Callable[[], str | bytes]] = {
            "stablehlo": lambda: module.text(locations=True),
            "hlo": lambda: parts["hlo"].decode(),
            "memory.json": lambda: parts["memory.json"].decode(),
        }
        if profiled is not None:
            stages["llo_profile"] = lambda: self._profile[1]
        if spread is not None:
            stages["spread.json"] = spread.to_json
        stages["executable"] = lambda: saved(parts)
        self.artifacts: Mapping[str, str | bytes] = Artifacts(stages | not_kept(parts))

    @property
    def coverage(self) -> Coverage:
        """Every op is native or emulated: libtpu compiles all of a module or refuses it."""
        return self._coverage

    def run(self, *inputs: Any) -> Sequence[Any]:
        """Always raises UnsupportedError: there is no TPU here."""
        raise UnsupportedError(
            f"{self._target} compiled {self._module.name} but cannot run it: this host has no TPU. "
            "Use .trace() for the estimate, or a target that runs, such as cpu:xla."
        )

    def trace(self, *inputs: Any) -> Trace:
        """The estimated Trace of one call in steady state; inputs are not looked at.

        One trace is of one device: a whole chip, except where a chip is two devices.
        """
        text, why = self._profiled_hlo
        program = hlo.parse(text)
        ops = {
            i.name: HloOp(i.name, i.opcode, i.operands, i.op_name) for i in program.instructions()
        }
        spans, note = replay(program, self._clockwork(), hlo_origins(ops, self._table))
        if self._spread is not None:
            note = f"one of {self._spread.devices} devices; {note}"
        share = self._generation.devices_per_chip
        if share > 1:
            note += f"; one device is 1/{share} of the chip, with that share of its bandwidth"
        if why:
            note += f"; {why}"
        return Trace("estimated", self._target, spans, note)

    def _clockwork(self) -> Clockwork:
        spec = self._chip.spec
        if spec.clock_hz is None:
            raise UsageError(f"chip {spec.name} has no clock_hz, which turns cycles into seconds")

        def collective_s(kind: str, size: float, chips: int) -> float:
            if spec.link is None:
                raise UsageError(f"chip {spec.name} has no link, and the program has collectives")
            return self._link_model(kind, size, chips, spec.link)

        bandwidth = spec.main_memory.read_bytes_per_s.value / self._generation.devices_per_chip
        return Clockwork(spec.clock_hz.value, bandwidth, collective_s)

    @cached_property
    def _coverage(self) -> Coverage:
        return ledger(self._module, emulated)

    @cached_property
    def _profile(self) -> tuple[str, str]:
        """(HLO with static cycles, profile text); without them ("", why not)."""
        if self._make_profile is None:
            return "", "no static profile: option profile=no"
        try:
            made = self._make_profile()
        except CompileError as error:
            last = error.log.strip().splitlines()[-1:] or [""]
            return "", f"no static profile: {error} {last[0]}".strip()
        return made["hlo"].decode(), made["llo_profile"].decode()

    @property
    def _profiled_hlo(self) -> tuple[str, str]:
        text, said = self._profile
        return (text, "") if text else (self._parts["hlo"].decode(), said)


def emulated(op: OpView) -> str:
    """Why a TPU core does this op by other means than its own, "" when it does not."""
    if any(spec.dtype in _WIDE for spec in (*op.inputs, *op.outputs)):
        return "the core has 32-bit lanes: 64-bit numbers are pairs"
    if op.name in ("stablehlo.dot_general", "stablehlo.convolution"):
        if any(spec.dtype == "f32" for spec in op.inputs):
            return "the matrix unit multiplies bf16: f32 takes several passes, or is rounded"
    return ""
