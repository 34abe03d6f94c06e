"""Simulate one step: the family's machine model makes jobs, the engine orders them in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anychip.core import Module, Origin, Span, Trace, unknown
from anychip.twin import chiplet, cpu, dimc, lpu, simt, systolic, wafer
from anychip.twin.cost import kernel_ways
from anychip.twin.engine import TICK_S, Scheduled, placed, schedule
from anychip.twin.lower import Opens, lower
from anychip.twin.lowered import Lowered, Table
from anychip.twin.machine import Machine
from anychip.twin.program import Model, Program, Task
from anychip.twin.shard import ONE_CHIP, Placement, Shards, place, portion, share

MODELS: Mapping[str, Model] = {
    "lpu": lpu.program,
    "wafer": wafer.program,
    "dimc": dimc.program,
    "chiplet": chiplet.program,
}
"""The machine model of each family that `compare` predicts with; others have the closed form."""

TRACED: Mapping[str, Model] = {
    **MODELS,
    "cpu": cpu.program,
    "systolic": systolic.program,
    "simt": simt.program,
}
"""Every family's machine model. Traces are theirs; `compare` keeps the closed form for those that
are not in MODELS, for it is fitted on published results and they are not."""

NEEDS: Mapping[str, tuple[str, ...]] = {
    "cpu": cpu.NEEDS,
    "systolic": systolic.NEEDS,
    "simt": simt.NEEDS,
}
"""What these need of a chip's `about` table."""


OPENS: Mapping[str, Opens] = {"cpu": cpu.opens}
"""Families whose compilers know some composites only by their bodies."""


def kernels_of(module: Module, family: str) -> Lowered:
    """The module lowered for a family's machine model."""
    return lower(module, OPENS[family]) if family in OPENS else lower(module)


def untraced(machine: Machine) -> str:
    """Why a chip's step is not simulated event by event; "" when it is."""
    if machine.family not in TRACED:
        return f"the family {machine.family} has no machine model"
    missing = [n for n in NEEDS.get(machine.family, ()) if n not in machine.about]
    return f"its machine model needs about.{', about.'.join(missing)}" if missing else ""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One run of a kernel on one chip: seconds from its first job to its last result, what they
    are mostly spent on ("overhead": waiting for results on their way), and what it did."""

    seconds: float
    bound: str
    flops: float
    bytes: float


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """One step on the engine. `seconds` and `stage_s` mean what StepCost's do."""

    table: Table
    program: Program
    scheduled: Scheduled

    @property
    def seconds(self) -> float:
        return self.program.before_s + self.scheduled.seconds

    @property
    def stage_s(self) -> float:
        """The slowest stage: how often a step can start when a stage serves one at a time."""
        return self.program.before_s + self.scheduled.stage_ticks() * TICK_S

    def kernels(self) -> dict[int, Timed]:
        """One run of each kernel (row of the table), in the first block it is met."""
        found: dict[int, Timed] = {}
        seen: set[int] = set()
        for run, outcome in zip(self.scheduled.runs, self.scheduled.outcomes, strict=True):
            if run.block in seen:
                continue
            seen.add(run.block)
            jobs = self.scheduled.blocks[run.block].jobs
            mine: dict[int, list[int]] = {}
            for index, job in enumerate(jobs):
                if job.kernel >= 0:
                    mine.setdefault(job.kernel, []).append(index)
            for row, indexes in mine.items():
                first = min(outcome.starts[i] for i in indexes)
                last = max(outcome.ends[i] + jobs[i].delay for i in indexes)
                spent: dict[str, int] = {}
                for job in (jobs[i] for i in indexes):
                    on_way = job.delay if job.bound == "link" else 0
                    spent[job.bound] = spent.get(job.bound, 0) + job.busy + on_way
                most = max(spent, key=lambda name: spent[name])
                timed = Timed(
                    seconds=(last - first) * TICK_S,
                    bound=most if 2 * spent[most] >= last - first else "overhead",
                    flops=sum(jobs[i].flops for i in indexes),
                    bytes=sum(jobs[i].read_bytes + jobs[i].written_bytes for i in indexes),
                )
                found.setdefault(row, timed)
        return found

    def listing(self) -> str:
        """The schedule of one run of every kind of block, in the order of time: start and end in
        nanoseconds from the block's first job, resource, instruction."""
        lines: list[str] = []
        seen: set[int] = set()
        for run, outcome in zip(self.scheduled.runs, self.scheduled.outcomes, strict=True):
            if run.block in seen:
                continue
            seen.add(run.block)
            jobs = self.scheduled.blocks[run.block].jobs
            zero = min(outcome.starts, default=0)
            name = run.tag.layer if isinstance(run.tag, Origin) else ""
            lines += [f"# {name or 'outside layers'} on {', '.join(run.at.values())}"]
            timed = sorted(zip(outcome.starts, outcome.ends, range(len(jobs)), strict=True))
            lines += [
                f"{(start - zero) * 1e-6:12.2f} {(end - zero) * 1e-6:12.2f}  "
                f"{'+'.join(r.rpartition('/')[2] for r in jobs[i].resources):<28} {jobs[i].name}"
                for start, end, i in timed
            ]
        return "\n".join(lines) + "\n"

    def trace(self, target: str, joules: float | None = None) -> Trace:
        """Every job as a span on its resource, in a `place/unit` form. `joules` of the whole step
        are spread over spans by their time. Counters stand on a job's first resource."""
        start = self.program.before_s
        spans: list[Span] = []
        if start:
            spans.append(Span(resource="host", op="start of a step", start_s=0.0, end_s=start))
        busy = sum(self.scheduled.busy().values()) * TICK_S
        for run, job, begin, end in self.scheduled.spans():
            seconds = (end - begin) * TICK_S
            origin = run.tag if isinstance(run.tag, Origin) else Origin()
            if job.kernel >= 0:
                origin = self.table.kernels[job.kernel].origin.inside(origin)
            for index, name in enumerate(job.resources):
                spans.append(
                    Span(
                        resource=placed(name, run.at),
                        op=job.name,
                        start_s=start + begin * TICK_S,
                        end_s=start + end * TICK_S,
                        origin=origin,
                        flops=job.flops if not index else None,
                        read_bytes=job.read_bytes if not index else None,
                        written_bytes=job.written_bytes if not index else None,
                        joules=None if joules is None or not busy else joules * seconds / busy,
                        bound=job.bound,
                    )
                )
        return Trace("simulated", target, tuple(spans), note=self.program.note)


def simulate(
    table: Table,
    machine: Machine,
    shards: Shards = ONE_CHIP,
    placement: Placement | None = None,
    model: Model | None = None,
) -> Simulated:
    """Run every kernel of `table` once on `shards.chips` chips like `machine`, event by event.

    `model` defaults to the family's. Raises UsageError for a family without one.
    """
    if model is None:
        if machine.family not in TRACED:
            raise unknown("machine model", machine.family, TRACED)
        model = TRACED[machine.family]
    table = table.settled()
    task = Task(
        table=table,
        machine=machine,
        shards=shards,
        placement=placement or place(share(table, shards), machine),
        part=portion(table, shards),
        formats=tuple(kernel_ways(table, machine)),
    )
    program = model(task)
    made = schedule(program.blocks, program.runs, shared=program.shared)
    return Simulated(table=table, program=program, scheduled=made)
