"""The seam between a family and the engine: a Task goes in, a Program of jobs comes out.

To add a family, write one file with one function `program(task: Task) -> Program` and name it in
simulate.MODELS. What the function gets and owes:

- `task.table` is the model after lowering: rows of kernels with their numbers, and `table.order`,
  which rows run when. `task.part` has the same rows after sharding: what *one* chip of the tensor
  group does. `task.formats` says in which format each matmul runs. `task.machine` has the rates
  programs reach, the links, and `machine.detail(name)` for facts only this family has; every
  number comes from there, so that an interval can turn it. Do not add `machine.per_kernel_s`,
  `per_layer_s` or an overlap: the closed form has those in place of what you simulate.
- Make one Block for each distinct `range` of `table.order` (a layer), and one Run for each entry.
  Chips of a tensor group do the same at the same time: schedule one and say so in `stands_for`.
  Stages of a pipeline are different places: name resources `chip/unit` and let each Run say which
  chip (`at={"chip": "chips 8-15"}`); one block then serves all stages (`task.staged`).
- Pass activations from block to block through ports (`writes=("token",)`, `reads=("token",)`).
  Work that may run ahead (a prefetch) does not read the token; bound it by a port that its consumer
  sets ("buffer is free"), as the hardware's buffers do.
- Durations must not shrink when the batch or the context grows, nor grow when a rate does: choose
  tile sizes from shapes and capacities, or take the fastest of several; never from a rate alone.
- Jobs carry the chip's flops and bytes, so that work is conserved: their sum over a run's jobs is
  `task.part`'s. Never let two resources both count them.
- The trace is drawn from the jobs; name resources as people of that chip do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from anychip.core import Origin
from anychip.twin.collective import send_s
from anychip.twin.engine import Block, Job, Run, ticks
from anychip.twin.floor import Floor
from anychip.twin.formats import Way
from anychip.twin.lowered import Table
from anychip.twin.machine import Link, Machine
from anychip.twin.shard import Placement, Portion, Shards


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a family's machine model is asked to run: one step of one model copy."""

    table: Table
    machine: Machine
    shards: Shards
    placement: Placement
    part: Portion
    formats: tuple[Way, ...]
    held: dict[range, float] = field(
        default_factory=dict[range, float], init=False, repr=False, compare=False
    )

    def stage_of(self) -> list[int]:
        """The pipeline stage of each entry of `table.order`: whole entries, evenly by what they
        store."""
        order = self.table.order
        sizes = [self.stored(rows) for rows, _ in order]
        sizes = sizes if sum(sizes) > 0 else [1.0] * len(order)
        stages = min(self.shards.pipeline, max(1, len(order)))
        each: list[int] = []
        stage, here, left = 0, 0.0, sum(sizes)
        for size in sizes:
            target = (left + here) / (stages - stage)  # what this stage and those after it average
            if here and stage < stages - 1 and here + size / 2 > target:
                stage, here = stage + 1, 0.0
            each.append(stage)
            here += size
            left -= size
        return each

    def rows(self, row: int) -> float:
        """Rows that go through a matmul's weights; of experts' rows, those each one read gets."""
        kernel = self.table.kernels[row]
        each = sum(inner * cols for inner, cols in kernel.dots)
        rows = float(self.table.numbers["flops"][row]) / 2 / each
        if not kernel.experts:
            return rows
        read = self.part.weight_bytes[row] * self.shards.tensor / kernel.amounts.weight_bytes
        return rows / max(float(read) * kernel.experts, 1.0)

    def stored(self, rows: range) -> float:
        """Bytes of weights and cache that one chip keeps of a part."""
        if rows not in self.held:
            self.held[rows] = self._stored(rows)
        return self.held[rows]

    def _stored(self, rows: range) -> float:
        number, ways = self.table.numbers, self.shards.tensor
        held = 0.0
        for row in rows:
            kernel = self.table.kernels[row]
            held += kernel.amounts.weight_bytes / (ways if kernel.is_split else 1)
            held += float(number["state_read_bytes"][row]) / min(ways, kernel.state_splits)
        if rows == self.table.order[0][0]:  # the embedding is stored whole, however little is read
            blocks = [row for part, _ in self.table.order for row in part]
            read = sum(self.table.kernels[row].amounts.weight_bytes for row in blocks)
            held += max(0.0, self.table.weight_bytes - read) / ways
        return held

    def title(self, rows: range, caller: Origin) -> str:
        """The layer that a part of the model is, or what its first kernel belongs to."""
        each = [caller.layer, *(self.table.kernels[row].origin.layer for row in rows)]
        return next((name for name in each if name), "part")

    def places(self, name: Callable[[int, int], str]) -> list[str]:
        """The chips of each stage, as `name` calls them by its number and how many they are."""
        return [
            name(stage, self.shards.tensor) for stage in range(max(self.stage_of(), default=0) + 1)
        ]

    def staged(
        self, names: Sequence[str], block: Callable[[range], Block], hop: Callable[[int], Block]
    ) -> tuple[tuple[Block, ...], tuple[Run, ...]]:
        """A block for each distinct part of the model, and a run of each part on the chips of its
        stage, after a run of `hop(stage)` from `chip` to `next` where a stage begins."""
        at = {rows: i for i, rows in enumerate(dict.fromkeys(rows for rows, _ in self.table.order))}
        blocks = [block(rows) for rows in at]
        runs: list[Run] = []
        last = 0
        for stage, (rows, caller) in zip(self.stage_of(), self.table.order, strict=True):
            if stage != last:
                ends = {"chip": names[last], "next": names[stage]}
                runs.append(Run(len(blocks), at=ends, stage=last, tag=caller))
                blocks.append(hop(stage))
                last = stage
            runs.append(Run(at[rows], at={"chip": names[stage]}, stage=stage, tag=caller))
        return tuple(blocks), tuple(runs)

    def send_on(self, link: Link | None, unit: str) -> Block:
        """Hand a stage's activations to the next: each chip its part over the link, drawn as
        `unit`."""
        size = float(self.table.numbers["reduce_bytes"].max(initial=0.0)) / self.shards.tensor
        chain = Chain()
        seconds = 0.0 if link is None else send_s(size, link)
        chain.add("send on", f"chip/{unit}", f"next/{unit}", seconds=seconds, bound="link")
        return chain.block()

    def occupancy(self, names: Sequence[str]) -> Occupancy:
        """What a chip of each stage (named in `names`) holds."""
        held: dict[str, list[tuple[str, float]]] = {name: [] for name in names}
        for stage, (rows, caller) in zip(self.stage_of(), self.table.order, strict=True):
            held[names[stage]].append((self.title(rows, caller), self.stored(rows)))
        return Occupancy(
            groups=tuple((name, tuple(parts)) for name, parts in held.items()),
            capacity_bytes=self.machine.levels[self.placement.level].capacity_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class Occupancy:
    """What one chip of each place holds: (part, bytes) in order of use."""

    groups: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
    capacity_bytes: float


@dataclass(frozen=True, kw_only=True)
class Program:
    """Jobs of one step. `stands_for` says how many chips a place in the resources' names stands
    for; `shared` are resources served by readiness (see engine); `note` what is not modelled."""

    blocks: tuple[Block, ...]
    runs: tuple[Run, ...]
    note: str
    shared: frozenset[str] = frozenset()
    stands_for: Mapping[str, int] = field(default_factory=dict[str, int])
    before_s: float = 0.0  # before the first job: the host starts a step
    picture: Occupancy | Floor | None = None  # what `anychip show` draws beside the schedule


Model = Callable[[Task], Program]


def cards(stage: int, tensor: int) -> str:
    """A stage's cards by their numbers."""
    first = stage * tensor
    return f"card {first}" if tensor == 1 else f"cards {first}-{first + tensor - 1}"


TOKEN = "flow/token"
"""The port by which blocks hand on activations; runs that put a name for `flow` in their `at` are
of different tokens, which need not wait for each other."""


class Chain:
    """Jobs in the making. Each waits for the one before it, the first for the token of the block
    before, and the block's last hands the token on. Times are in seconds."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.tip: int | None = None

    def add(
        self,
        name: str,
        *resources: str,
        seconds: float = 0.0,
        delay_s: float = 0.0,
        after: Sequence[int] | None = None,
        is_ahead: bool = False,
        reads: Sequence[str] = (),
        writes: Sequence[str] = (),
        kernel: int = -1,
        flops: float = 0.0,
        read_bytes: float = 0.0,
        written_bytes: float = 0.0,
        bound: str = "",
    ) -> int:
        """The job's position. `after` replaces the wait for the job before; `is_ahead` drops it,
        and the token's too: the job does not need the activations and is not the new tip.
        `reads` and `writes` are further ports."""
        waits = () if is_ahead else after
        token: tuple[str, ...] = ()
        if waits is None:
            waits = () if self.tip is None else (self.tip,)
            token = (TOKEN,) if self.tip is None else ()
        self.jobs.append(
            Job(
                name,
                resources,
                ticks(seconds),
                tuple(waits),
                ticks(delay_s),
                reads=(*reads, *token),
                writes=tuple(writes),
                kernel=kernel,
                flops=float(flops),
                read_bytes=float(read_bytes),
                written_bytes=float(written_bytes),
                bound=bound,
            )
        )
        if not is_ahead:
            self.tip = len(self.jobs) - 1
        return len(self.jobs) - 1

    def block(self) -> Block:
        """The jobs so far; the tip sets the token."""
        if self.tip is not None:
            last = self.jobs[self.tip]
            self.jobs[self.tip] = last._replace(writes=(*last.writes, TOKEN))
        return Block(tuple(self.jobs))
