"""The event engine: jobs on resources → when each starts and ends. It knows no chip and no model.

Time is whole ticks (a femtosecond), so sums are exact, runs are identical on every machine, and a
block that meets its resources in a state it has met before is not scheduled again. There is no
clock, no random number and no state between calls.

A resource does one job at a time. It takes its jobs in the order they were added, as a queue of
instructions or of DMA descriptors does; then every start is a maximum of sums of durations
(Baccelli, Cohen, Olsder and Quadrat, "Synchronization and Linearity", 1992, chapter 2), so a
shorter job never ends anything later. A resource named in `shared` instead takes whichever job is
ready first, ties by (priority, serial): there the anomalies of Graham ("Bounds on multiprocessing
timing anomalies", SIAM J. Appl. Math. 1969) apply, and a shorter job may make the whole longer.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from anychip.core import UsageError

TICK_S = 1e-15


def ticks(seconds: float) -> int:
    """Whole ticks, rounded up: nothing takes less time than it was given."""
    return math.ceil(seconds / TICK_S * (1 - 1e-15))


class Job(NamedTuple):
    """Something that holds all of `resources` for `busy` ticks (a tuple, for millions are made).

    It starts when the jobs in `after` (positions in its block, all earlier) are done, the ports in
    `reads` are set, and its resources are free; with none of these, when the
    latest of the block's are. It is done `delay` ticks after it lets go of them
    (a pipeline's depth, a signal's flight); then its `writes` ports are set. `kernel` is a row of
    the Table it works for, -1 for none; the counters are of this job alone.
    """

    name: str
    resources: tuple[str, ...]
    busy: int
    after: tuple[int, ...] = ()
    delay: int = 0
    priority: int = 0
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    kernel: int = -1
    flops: float = 0.0
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    bound: str = ""


@dataclass(frozen=True)
class Block:
    """Jobs that are scheduled together. A name `role/rest` of a resource or port is rewritten by
    the run's `at` (role → place); a name whose role is not there stands for itself."""

    jobs: tuple[Job, ...]

    def __post_init__(self) -> None:
        for index, job in enumerate(self.jobs):
            if any(not 0 <= other < index for other in job.after):
                raise UsageError(f"job {index} ({job.name}) must come after those it waits for")
            if job.busy < 0 or job.delay < 0:
                raise UsageError(f"job {index} ({job.name}) takes negative time")


@dataclass(frozen=True)
class Run:
    """One execution of block `block`; `stage` is the pipeline stage it belongs to. Jobs of a later
    run never overtake those of an earlier one on the same resource."""

    block: int
    at: Mapping[str, str] = field(default_factory=dict[str, str])
    stage: int = 0
    tag: object = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Start and end (resources let go) of every job of a block, relative to the run's base, and
    what the run left behind: when each of its resources and ports is free or set (None: as it was).

    It holds for every state that agrees on `given` and has no other value above its `limit`.
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    after: tuple[int | None, ...]
    last: int  # when the latest job is done
    given: Mapping[int, int]
    limits: Mapping[int, int]

    def holds(self, state: Sequence[int]) -> bool:
        """Whether a block that finds its names in `state` comes out like this."""
        return all(state[name] == value for name, value in self.given.items()) and all(
            state[name] <= limit for name, limit in self.limits.items()
        )


@dataclass(frozen=True)
class Scheduled:
    """When everything happened. `outcomes[i]` and `bases[i]` belong to `runs[i]`; equal ones are
    the same object, so a model of many equal layers costs little."""

    blocks: tuple[Block, ...]
    runs: tuple[Run, ...]
    outcomes: tuple[Outcome, ...]
    bases: tuple[int, ...]
    ticks: int

    @property
    def seconds(self) -> float:
        """From time zero until the last job is done."""
        return self.ticks * TICK_S

    def spans(self) -> Iterator[tuple[Run, Job, int, int]]:
        """(run, job, start, end) in ticks, in the order of serials."""
        for run, outcome, base in zip(self.runs, self.outcomes, self.bases, strict=True):
            jobs = self.blocks[run.block].jobs
            for job, start, end in zip(jobs, outcome.starts, outcome.ends, strict=True):
                yield run, job, base + start, base + end

    def busy(self) -> dict[str, int]:
        """Ticks each resource was held, by its name in place."""
        each: dict[str, int] = {}
        for run in self.runs:
            for job in self.blocks[run.block].jobs:
                for name in job.resources:
                    full = placed(name, run.at)
                    each[full] = each.get(full, 0) + job.busy
        return each

    def stage_ticks(self) -> int:
        """How long the busiest stage is taken by one pass: the pace of passes in flight when a
        stage serves one at a time."""
        span: dict[int, tuple[int, int]] = {}
        widths: dict[int, tuple[int, int]] = {}  # by identity: equal outcomes are one object
        for run, outcome, base in zip(self.runs, self.outcomes, self.bases, strict=True):
            if not outcome.starts:
                continue
            if id(outcome) not in widths:
                widths[id(outcome)] = min(outcome.starts), max(outcome.ends)
            first, last = (base + end for end in widths[id(outcome)])
            known = span.get(run.stage, (first, last))
            span[run.stage] = (min(known[0], first), max(known[1], last))
        return max((last - first for first, last in span.values()), default=0)


def placed(name: str, at: Mapping[str, str]) -> str:
    """A resource or port name with its role replaced."""
    role, slash, rest = name.partition("/")
    return f"{at[role]}/{rest}" if slash and role in at else name


def schedule(
    blocks: Sequence[Block], runs: Sequence[Run], *, shared: frozenset[str] = frozenset()
) -> Scheduled:
    """Schedule every run. `shared` are resources (by their name in the block) that serve by
    readiness instead of in turn."""
    plans = [_Plan(block, shared) for block in blocks]
    known: list[list[Outcome]] = [[] for _ in blocks]
    state: dict[str, int] = {}
    outcomes: list[Outcome] = []
    bases: list[int] = []
    last = 0
    in_place: dict[tuple[int, tuple[tuple[str, str], ...]], list[str]] = {}
    for run in runs:
        plan = plans[run.block]
        where = (run.block, tuple(run.at.items()))
        if where not in in_place:
            in_place[where] = [placed(name, run.at) for name in plan.names]
        names = in_place[where]
        now = [state.get(name, 0) for name in names]
        base = max(now, default=0)
        relative = [value - base for value in now]
        outcome = next((one for one in known[run.block] if one.holds(relative)), None)
        if outcome is None:
            outcome = plan.schedule(relative)
            known[run.block].append(outcome)
        for name, value in zip(names, outcome.after, strict=True):
            if value is not None:
                state[name] = base + value
        outcomes.append(outcome)
        bases.append(base)
        last = max(last, base + outcome.last)
    return Scheduled(tuple(blocks), tuple(runs), tuple(outcomes), tuple(bases), last)


class _Plan:
    """A block with names as numbers. Its state is one tick a name, of resources and ports alike."""

    def __init__(self, block: Block, shared: frozenset[str]) -> None:
        self.jobs = block.jobs
        names: dict[str, int] = {}
        for job in block.jobs:
            for name in (*job.resources, *job.reads, *job.writes):
                names.setdefault(name, len(names))
        self.names = tuple(names)
        self.resources = [tuple(names[n] for n in job.resources) for job in block.jobs]
        self.reads = [tuple(names[n] for n in job.reads) for job in block.jobs]
        self.writes = [tuple(names[n] for n in job.writes) for job in block.jobs]
        self.shared = frozenset(names[n] for n in shared if n in names)

    def schedule(self, state: list[int]) -> Outcome:
        return self._by_events(state) if self.shared else self._in_turn(state)

    def _in_turn(self, state: list[int]) -> Outcome:
        """All resources in turn: one pass in serial order, no heap. Of what a job waits for, one is
        latest; where that is a name's state, other states of that name come out otherwise."""
        made: list[int | None] = [None] * len(state)
        given: dict[int, int] = {}
        limits: dict[int, int] = {}
        starts: list[int] = []
        ends: list[int] = []
        done: list[int] = []
        for index, job in enumerate(self.jobs):
            needs = (*self.reads[index], *self.resources[index])
            inside = [done[other] for other in job.after]
            inside += [value for name in needs if (value := made[name]) is not None]
            found = [name for name in needs if made[name] is None]
            start = max(inside, default=None)
            if found:
                latest = max(found, key=lambda name: state[name])
                if start is None or state[latest] > start:
                    start = state[latest]
                    given[latest] = start
            start = 0 if start is None else start
            for name in found:
                limits[name] = min(limits.get(name, start), start)
            end = start + job.busy
            for name in self.resources[index]:
                made[name] = end
            for name in self.writes[index]:
                made[name] = end + job.delay
            starts.append(start)
            ends.append(end)
            done.append(end + job.delay)
        last = max(done, default=0)
        return Outcome(tuple(starts), tuple(ends), tuple(made), last, given, limits)

    def _by_events(self, state: list[int]) -> Outcome:
        """The heap of (time, priority, serial). A job on a resource served in turn also waits for
        the one before it there; a port is read as the writer before it in serial order left it."""
        jobs, count = self.jobs, len(self.jobs)
        starts, ends = [0] * count, [0] * count
        ready = [
            min((state[n] for n in (*self.reads[i], *self.resources[i])), default=0)
            for i in range(count)
        ]
        missing = [0] * count
        wakes: list[list[tuple[int, bool]]] = [[] for _ in jobs]  # (job, waits for the result)
        turn: dict[int, int] = {}
        writer: dict[int, int] = {}
        for index, job in enumerate(jobs):
            needs = dict.fromkeys(job.after, True)
            for name in self.reads[index]:
                if name in writer:
                    needs[writer[name]] = True
                else:
                    ready[index] = max(ready[index], state[name])
            for name in self.resources[index]:
                if name not in self.shared:
                    if name in turn:
                        needs.setdefault(turn[name], False)
                    turn[name] = index
            for name in self.writes[index]:
                writer[name] = index
            missing[index] = len(needs)
            for other, result in needs.items():
                wakes[other].append((index, result))
        events = [(ready[i], jobs[i].priority, i) for i in range(count) if not missing[i]]
        heapq.heapify(events)
        free = list(state)
        while events:
            now = events[0][0]
            at_once: list[tuple[int, int]] = []
            while events and events[0][0] == now:
                _, priority, serial = heapq.heappop(events)
                at_once.append((priority, serial))
            for priority, serial in at_once:  # already sorted by (priority, serial)
                wait = max((free[name] for name in self.resources[serial]), default=now)
                if wait > now:
                    heapq.heappush(events, (wait, priority, serial))
                    continue
                end = now + jobs[serial].busy
                starts[serial], ends[serial] = now, end
                for name in self.resources[serial]:
                    free[name] = end
                for other, result in wakes[serial]:
                    known = end + (jobs[serial].delay if result else 0)
                    ready[other] = max(ready[other], known)
                    missing[other] -= 1
                    if not missing[other]:
                        heapq.heappush(events, (ready[other], jobs[other].priority, other))
        for name, index in writer.items():
            free[name] = ends[index] + jobs[index].delay
        last = max((e + j.delay for e, j in zip(ends, jobs, strict=True)), default=0)
        return Outcome(tuple(starts), tuple(ends), tuple(free), last, dict(enumerate(state)), {})
