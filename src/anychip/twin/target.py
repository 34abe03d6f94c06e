"""`chip:twin`: predicts time and energy of a Module on one chip, and runs it in its arithmetic.

Time is closed form: nothing is scheduled, kernels follow one another. Numbers are simulated on
this host (see `numerics`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from anychip.core import (
    Chip,
    CompileOptions,
    Coverage,
    Module,
    OpCoverage,
    Origin,
    Signature,
    Span,
    Trace,
    UnsupportedError,
    UsageError,
    unknown,
)
from anychip.core.target import Fate
from anychip.ops.view import program
from anychip.ops.walk import Step, walk
from anychip.twin.arithmetic import Arithmetic, arithmetic, recast
from anychip.twin.cost import StepCost, kernel_ways, step_cost
from anychip.twin.deploy import OPTIONS, deployment
from anychip.twin.energy import joules_by_source, step_joules
from anychip.twin.formats import way
from anychip.twin.left_out import WHOLE_STEPS, left_out
from anychip.twin.lowered import AMOUNTS, Lowered, Table
from anychip.twin.machine import Machine, machine
from anychip.twin.reading import Reader, title
from anychip.twin.shard import ONE_CHIP, Shards
from anychip.twin.simulate import MODELS, Simulated, kernels_of, simulate, untraced

if TYPE_CHECKING:
    from anychip.twin.numerics import Simulation

TOOLCHAIN = "anychip twin closed-form v1"
EXTRA = {"matmul": "the format all products of floats wider than 8 bits are multiplied in"}
"""Extra compile options."""


@dataclass(frozen=True)
class Twin:
    """A chip's closed-form twin."""

    chip: Chip
    runs: bool = True
    simulates: str = "simulated numerics"
    toolchain: str = TOOLCHAIN

    @property
    def name(self) -> str:
        return f"{self.chip.spec.name}:twin"

    def compile(self, module: Module, options: CompileOptions) -> TwinExecutable:
        """Lower and cost the module.

        Raises UsageError for options it cannot honour. Unsupported ops are rows of the coverage;
        a module that has some still gets a time for the rest.
        """
        if options.threads is not None:
            raise UsageError(f"{self.name} takes no threads; leave them out")
        one = machine(self.chip.spec)
        known = {**EXTRA, **(OPTIONS if one.family in MODELS else {})}
        for name in options.extra:
            if name not in known:
                raise unknown(f"option of {self.name}", name, known)
        own = arithmetic(self.chip.spec)
        if "matmul" in options.extra:
            own = own.multiplying_in(options.extra["matmul"])
        lowered = _recast(kernels_of(module, one.family), own)
        table = Table.of(lowered)
        shards = ONE_CHIP
        if one.family in MODELS:
            asked = {name: text for name, text in options.extra.items() if name in OPTIONS}
            shards = deployment(table, one, asked)
        cost = step_cost(table, one, shards)
        artifacts: dict[str, str | bytes] = {
            "kernels.json": _kernel_json(table, one, cost),
            "arithmetic.json": json.dumps(asdict(own), indent=1),
        }
        if one.family in MODELS:
            artifacts["schedule.txt"] = simulate(table, one, shards).listing()
        return TwinExecutable(
            target=self.name,
            signature=module.signature,
            coverage=_coverage(self.chip, module, one, own),
            artifacts=artifacts,
            module=module,
            lowered=lowered,
            machine=one,
            arithmetic=own,
            shards=shards,
        )


def twin(chip: Chip) -> Twin:
    """The TargetFactory of `chip:twin`."""
    return Twin(chip)


@dataclass(frozen=True, kw_only=True)
class TwinExecutable:
    """A costed Module. `lowered` and `machine` are what its times come from, `arithmetic` its
    numbers."""

    target: str
    signature: Signature
    coverage: Coverage
    artifacts: Mapping[str, str | bytes]
    module: Module = field(repr=False)
    lowered: Lowered = field(repr=False)
    machine: Machine = field(repr=False)
    arithmetic: Arithmetic = field(repr=False)
    shards: Shards = ONE_CHIP

    @cached_property
    def _simulation(self) -> Simulation:
        from anychip.twin.numerics import Simulation

        return Simulation(self.module, self.arithmetic)

    @property
    def tolerance(self) -> float:
        """How far results may lie from exact arithmetic, ‖Δ‖ / ‖result‖, and be as expected."""
        return self.arithmetic.tolerance

    def run(self, *inputs: Any) -> Sequence[Any]:
        """The results in the chip's arithmetic, simulated on this host, as JAX arrays.

        Raises UnsupportedError for ops the chip cannot do, UsageError for arrays that do not fit.
        """
        refused = [row for row in self.coverage.rows if row.fate == "unsupported"]
        if refused:
            first = refused[0]
            raise UnsupportedError(
                f"{self.target} cannot run {self.lowered.name}: {len(refused)} kinds of op are "
                f"unsupported, first {first.op} at {first.origin}: {first.why}"
            )
        return self._simulation(*inputs)

    def simulate(self) -> Simulated:
        """The step on its family's machine model. Raises UsageError for a family without one."""
        return simulate(Table.of(self.lowered), self.machine, self.shards)

    def energy(self) -> dict[str, float] | None:
        """Joules of one call by source, as the closed form has them; None where the spec tells no
        power."""
        table = Table.of(self.lowered)
        cost = step_cost(table, self.machine, self.shards)
        return joules_by_source(table, self.machine, cost, cost.seconds)

    def trace(self, *inputs: Any) -> Trace:
        """The Trace of one call, simulated where the family has a machine model, else estimated.
        Inputs are not looked at."""
        table = Table.of(self.lowered)
        cost = step_cost(table, self.machine, self.shards)
        why_not = untraced(self.machine)
        if not why_not:
            made = self.simulate()
            joules = step_joules(table, self.machine, cost, made.seconds)
            trace = made.trace(self.target, joules)
            return replace(trace, note=f"{trace.note}; {_certainty(self.machine.family)}")
        rows = {id(kernel): index for index, kernel in enumerate(table.kernels)}
        joules = step_joules(table, self.machine, cost, cost.seconds)
        watts = None if joules is None else joules / cost.seconds
        layers = max(1, len({caller.layer for _, caller in self.lowered.schedule if caller.layer}))
        now = 0.0
        spans: list[Span] = []
        for block, caller in self.lowered.schedule:
            for kernel in self.lowered.blocks[block]:
                index = rows[id(kernel)]
                seconds = float(cost.kernel_s[index])
                amounts = kernel.amounts
                spans.append(
                    Span(
                        resource=kernel.unit,
                        op=kernel.name,
                        start_s=now,
                        end_s=now + seconds,
                        origin=kernel.origin.inside(caller),
                        flops=amounts.flops + amounts.vector_flops,
                        read_bytes=amounts.weight_bytes
                        + amounts.state_read_bytes
                        + amounts.read_bytes,
                        written_bytes=amounts.state_written_bytes + amounts.written_bytes,
                        joules=None if watts is None else watts * seconds,
                        bound=cost.bound(index),
                    )
                )
                now += seconds
            if caller.layer:
                now = _wait(spans, now, self.machine.per_layer_s * table.layers / layers, watts)
        _wait(spans, now, cost.seconds - now, watts)
        return Trace(
            "estimated",
            self.target,
            tuple(spans),
            note=f"{TOOLCHAIN}: kernels follow one another; no overlap is assumed; {why_not}; "
            + _certainty(self.machine.family, is_closed_form=True),
        )


def _certainty(family: str, is_closed_form: bool = False) -> str:
    """How far off the whole step may be, and by which figures, for a trace's note."""
    if not is_closed_form and family in WHOLE_STEPS:
        count, half, most = WHOLE_STEPS[family]
        return (
            f"of {count} published whole steps, to none of which it was fitted, half are within "
            f"{half:.0%} and nine in ten within {most:.0%}: bench/whole_steps.py"
        )
    if not is_closed_form and family not in MODELS:
        return "whole steps of this model were not held against published ones"
    own = left_out(family, "tpot_s")
    return (
        f"beyond what its facts leave open the step is within a factor "
        f"{math.exp(own.half_width):.2f}, eight times in ten: {own.evidence}"
    )


def _wait(spans: list[Span], now: float, seconds: float, watts: float | None) -> float:
    """Time that no kernel uses: synchronisation of a layer, start of a step."""
    if seconds <= 0:
        return now
    spans.append(
        Span(
            resource="wait",
            op="overhead",
            start_s=now,
            end_s=now + seconds,
            joules=None if watts is None else watts * seconds,
            bound="overhead",
        )
    )
    return now + seconds


def _recast(lowered: Lowered, own: Arithmetic) -> Lowered:
    """The kernels with the formats the chip's arithmetic really multiplies in."""
    blocks = tuple(
        tuple(replace(k, formats=recast(k.formats, own)) for k in block) for block in lowered.blocks
    )
    return replace(lowered, blocks=blocks)


def _coverage(chip: Chip, module: Module, one: Machine, own: Arithmetic) -> Coverage:
    """Every executed op in one row: unsupported by a declared limit, emulated, or native.

    Native and emulated ops are counted together by kind; unsupported ones by place.
    """
    read = program(module)
    reader = Reader(read)
    counts: Counter[tuple[str, Fate, str, Origin]] = Counter()
    for step in walk(read, enter=lambda op: op.name != "stablehlo.composite"):
        if step.op.name == "func.call":
            continue
        why = _limit(chip, step, reader)
        if why:
            counts[title(step.op), "unsupported", why, step.origin] += step.count
            continue
        emulated = ""
        if reader.is_matmul(step.op):
            asked = reader.matmul(step.op)
            formats = recast(asked.formats, own)
            emulated = way(formats, one.matmul_flops_per_s, asked.stored).why
            if formats != asked.formats:
                changed = f"{asked.formats[0]} products are rounded to {formats[0]}"
                emulated = f"{changed}; {emulated}" if emulated else changed
        fate: Fate = "emulated" if emulated else "native"
        counts[title(step.op), fate, emulated, Origin()] += step.count
    return Coverage(
        tuple(
            OpCoverage(op=op, fate=fate, count=count, origin=origin, why=why)
            for (op, fate, why, origin), count in counts.items()
        )
    )


def _limit(chip: Chip, step: Step, reader: Reader) -> str:
    """Why the chip cannot do this op (or one inside this composite), "" when it can."""
    inside = [step.op]
    if step.op.callee is not None:
        inside += reader.inside(step.op.callee)
    for limit in chip.spec.limits:
        for op in inside:
            types = {spec.dtype for spec in (*op.inputs, *op.outputs)}
            if limit.op in (op.name, title(op)) and (not limit.dtype or limit.dtype in types):
                on = f" on {limit.dtype}" if limit.dtype else ""
                return f"{limit.op}{on}: {limit.why}"
    return ""


def _kernel_json(table: Table, one: Machine, cost: StepCost) -> str:
    """The kernel table: amounts of one run, how often it runs, its time, and what bounds it."""
    ways = kernel_ways(table, one)
    rows = [
        {
            "kernel": kernel.name,
            "unit": kernel.unit,
            "count": int(table.counts[i]),
            "seconds": float(cost.kernel_s[i]),
            "bound": cost.bound(i),
            "format": ways[i].format if kernel.formats else "",
            "emulated": ways[i].why,
            "split": kernel.is_split,
            "ops": list(kernel.ops),
            "layer": kernel.origin.layer,
            "source": kernel.origin.source,
            **{name: getattr(kernel.amounts, name) for name in AMOUNTS},
        }
        for i, kernel in enumerate(table.kernels)
    ]
    level = one.levels[cost.placement.level]
    summary = {
        "toolchain": TOOLCHAIN,
        "seconds": cost.seconds,
        "layers": table.layers,
        "weight_bytes": table.weight_bytes,
        "state_bytes": table.state_bytes,
        "held_in": level.name,
        "fits": bool(cost.placement.fits),
        "kernels": rows,
    }
    return json.dumps(summary, indent=1)
