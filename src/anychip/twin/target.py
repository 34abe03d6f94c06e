"""`chip:twin`, first version: predicts time and energy of a Module on one chip in closed form.

It computes no numbers (`runs` is False) and schedules nothing: kernels follow one another.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
)
from anychip.core.target import Fate
from anychip.ops.view import program
from anychip.ops.walk import Step, walk
from anychip.twin.cost import StepCost, kernel_ways, step_cost
from anychip.twin.energy import step_joules
from anychip.twin.formats import way
from anychip.twin.lower import lower
from anychip.twin.lowered import AMOUNTS, Lowered, Table
from anychip.twin.machine import Machine, machine
from anychip.twin.reading import Reader, title

TOOLCHAIN = "anychip twin closed-form v1"


@dataclass(frozen=True)
class Twin:
    """A chip's closed-form twin."""

    chip: Chip
    runs: bool = False
    toolchain: str = TOOLCHAIN

    @property
    def name(self) -> str:
        return f"{self.chip.spec.name}:twin"

    def compile(self, module: Module, options: CompileOptions) -> TwinExecutable:
        """Lower and cost the module.

        Raises UsageError for options it cannot honour. Unsupported ops are rows of the coverage;
        a module that has some still gets a time for the rest.
        """
        if options.threads is not None or options.extra:
            given = {"threads": options.threads} if options.threads is not None else {}
            raise UsageError(
                f"{self.name} takes no options, got {[*given, *options.extra]}; leave them out"
            )
        lowered = lower(module)
        one = machine(self.chip.spec)
        table = Table.of(lowered)
        cost = step_cost(table, one)
        return TwinExecutable(
            target=self.name,
            signature=module.signature,
            coverage=_coverage(self.chip, module, one),
            artifacts={"kernels.json": _kernel_json(table, one, cost)},
            lowered=lowered,
            machine=one,
        )


def twin(chip: Chip) -> Twin:
    """The TargetFactory of `chip:twin`."""
    return Twin(chip)


@dataclass(frozen=True, kw_only=True)
class TwinExecutable:
    """A costed Module. `lowered` and `machine` are what its times come from."""

    target: str
    signature: Signature
    coverage: Coverage
    artifacts: Mapping[str, str | bytes]
    lowered: Lowered = field(repr=False)
    machine: Machine = field(repr=False)

    def run(self, *inputs: Any) -> Sequence[Any]:
        """Always raises UnsupportedError: this version computes no numbers."""
        raise UnsupportedError(
            f"{self.target} cannot run {self.lowered.name}: {TOOLCHAIN} predicts time and energy "
            "and does not compute numbers. Use .trace() for the prediction, or a target that "
            "runs, such as cpu:xla."
        )

    def trace(self, *inputs: Any) -> Trace:
        """The estimated Trace of one call; inputs are not looked at."""
        table = Table.of(self.lowered)
        cost = step_cost(table, self.machine)
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
            note=f"{TOOLCHAIN}: kernels follow one another; no overlap is assumed",
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


def _coverage(chip: Chip, module: Module, one: Machine) -> Coverage:
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
            emulated = way(asked.formats, one.matmul_flops_per_s, asked.stored).why
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
        "fits": cost.placement.fits,
        "kernels": rows,
    }
    return json.dumps(summary, indent=1)
