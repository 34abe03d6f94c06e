"""Target `h100:xla` and its kin: a Module through XLA's CUDA compiler, on a host without a GPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from anychip.compilers import hlo, topology
from anychip.compilers.cache import Cache
from anychip.compilers.deviceless import Build, check, saved
from anychip.compilers.ledger import ledger
from anychip.compilers.store import Parts, not_kept
from anychip.compilers.toolchains import CUDA
from anychip.compilers.xla_executable import Artifacts
from anychip.compilers.xla_gpu import DEVICE
from anychip.compilers.xla_gpu.job import ENVIRONMENT, compile
from anychip.compilers.xla_gpu.roofline import roofline
from anychip.compilers.xla_input import prepare
from anychip.compilers.xla_trace import HloOp, hlo_origins
from anychip.core import (
    CompileOptions,
    Coverage,
    Module,
    Signature,
    Trace,
    UnsupportedError,
    UsageError,
)

if TYPE_CHECKING:
    from anychip.core import Chip


@dataclass(frozen=True)
class XlaGpuTarget:
    """XLA:GPU for one chip. `cache` keeps what it made; None compiles each time.

    Nothing is autotuned: that takes the device. Tile sizes in the PTX are XLA's defaults.
    """

    chip: Chip
    cache: Cache | None = None
    runs: bool = False

    @property
    def name(self) -> str:
        return f"{self.chip.name or self.chip.spec.name}:xla"

    @property
    def toolchain(self) -> str:
        found = CUDA.installed
        known = found.version if found else "(not installed)"
        return f"XLA:GPU of jax-cuda12-pjrt {known} through jaxlib {version('jaxlib')}"

    def compile(self, module: Module, options: CompileOptions) -> XlaGpuExecutable:
        """Compile in a child process, or take the result from the cache.

        Raises SetupError without the CUDA plug-in, UsageError for symbolic dimensions and unknown
        options, CompileError when XLA says no, dies, or takes longer than `options.timeout_s`, and
        for a program larger than the chip's memory, which XLA:GPU lets pass.
        """
        found = CUDA.need(self.name)
        check(self.name, module, options, {})
        if self.chip.folder is None or not (self.chip.folder / DEVICE).exists():
            raise UsageError(f"{self.name}: the chip's folder has no {DEVICE}")
        device = (self.chip.folder / DEVICE).read_text(encoding="utf-8")
        bytecode, table = prepare(module)
        build = Build(
            target=self.name,
            toolchain=f"{self.toolchain} {os.environ.get('XLA_FLAGS', '')}",
            chip=self.chip,
            module=module,
            table=table,
            options=options,
            request=topology.Request(
                bytecode=bytecode,
                topology=topology.Topology(
                    platform="cuda",
                    library=str(found.library),
                    name="",
                    arguments={"target_config": device, "topology": "1x1x1"},
                ),
                flags=dict(options.extra),
                data_folder=str(found.root / "nvidia" / "cuda_nvcc"),
            ),
            cache=self.cache,
            environment=ENVIRONMENT,
        )
        parts = build.cached("program", lambda: _compile(build))
        build.check_memory(parts)
        return XlaGpuExecutable(self.chip, self.name, module, table, parts)


def _compile(build: Build) -> Parts:
    with tempfile.TemporaryDirectory(prefix="anychip-gpu-") as folder:
        dumping = replace(build, request=replace(build.request, dump_folder=folder))
        done, texts = dumping.child(compile)
    return {**build.accepted(done), **{stage: text.encode() for stage, text in texts.items()}}


class XlaGpuExecutable:
    """A compiled program with its PTX. It never runs here."""

    def __init__(
        self, chip: Chip, target: str, module: Module, table: tuple[str, ...], parts: Parts
    ):
        self.signature: Signature = module.signature
        self._chip, self._target, self._module, self._table = chip, target, module, table
        self._parts = parts
        stages: dict[str, Callable[[], str | bytes]] = {
            "stablehlo": lambda: module.text(locations=True),
            "hlo": lambda: parts["hlo"].decode(),
            "ptx": lambda: parts["ptx"].decode(),
            "thunks": lambda: parts["thunks"].decode(),
            "buffers": lambda: parts["buffers"].decode(),
            "memory.json": lambda: parts["memory.json"].decode(),
            "executable": lambda: saved(parts),
        }
        self.artifacts: Mapping[str, str | bytes] = Artifacts(stages | not_kept(parts))

    @property
    def coverage(self) -> Coverage:
        """Every op is native: XLA:GPU compiles all of a module or refuses it."""
        return self._coverage

    @cached_property
    def _coverage(self) -> Coverage:
        return ledger(self._module)

    def run(self, *inputs: Any) -> Sequence[Any]:
        """Always raises UnsupportedError: there is no GPU here."""
        raise UnsupportedError(
            f"{self._target} compiled {self._module.name} but cannot run it: this host has no GPU. "
            "Use .trace() for the estimate, or a target that runs, such as cpu:xla."
        )

    def trace(self, *inputs: Any) -> Trace:
        """The roofline of each kernel XLA made, one after another; inputs are not looked at."""
        program = hlo.parse(self._parts["hlo"].decode())
        ops = {
            i.name: HloOp(i.name, i.opcode, i.operands, i.op_name) for i in program.instructions()
        }
        spans, note = roofline(program, self._chip.spec, hlo_origins(ops, self._table))
        return Trace("estimated", self._target, spans, note)
