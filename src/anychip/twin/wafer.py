"""Machine model of a wafer: every part of the model on its own rectangle of cores, the token
streamed from one to the next.

After the PLMR model of WaferLLM (arXiv 2502.04563): many cores, latency that grows with hops, 48 KB
a core, 24 routes. A matrix-vector product is a multicast along rows, a multiply in place, and a
sum along columns in two phases; what it costs is mostly the way. docs/twins/wafer.md has the page.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

from anychip.twin.collective import all_gather_s, all_reduce_s, send_s
from anychip.twin.engine import Block, Run
from anychip.twin.floor import Floor, Rectangle, plan
from anychip.twin.formats import VECTOR
from anychip.twin.machine import Machine
from anychip.twin.program import Chain, Program, Task
from anychip.twin.shard import portion

NOTE = (
    "wafer machine model: one rectangle of cores for each layer, the token streams through them; "
    "not modelled: congestion where streams cross, defective cores, the host's part of a step"
)
COLOURS = {"token in and out": 2, "multicast": 2, "sum in groups": 2, "sum of groups": 2}
"""Routes a rectangle uses, of those every core's router has: each phase alternates between two, so
that a core receives on one while it sends on the other (WaferLLM, section 5)."""


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """The fabric in seconds: a hop, and a core's receive, add and send on in a chain of sums."""

    cycle_s: float
    hop_s: float
    step_s: float
    columns: int
    rows: int

    @staticmethod
    def of(one: Machine) -> Mesh:
        cycle = 1 / one.clock
        return Mesh(
            cycle_s=cycle,
            hop_s=one.detail("hop_cycles_count") * cycle,
            step_s=one.detail("sum_step_cycles_count") * cycle,
            columns=int(one.detail("fabric_columns_count")),
            rows=int(one.detail("fabric_rows_count")),
        )

    def multicast_s(self, length: int) -> float:
        """Until the last of `length` cores in line has the first word: routers forward alone."""
        return length * self.hop_s

    def sum_s(self, length: int) -> float:
        """Sum over `length` cores in line in two phases (WaferLLM's MeshGEMV): within groups of g,
        then over the groups' heads; g + length/g steps are fewest at the root of the length."""
        group = math.ceil(math.sqrt(length))
        return length * self.hop_s + (group + math.ceil(length / group)) * self.step_s


PIECES = 32
"""Most groups of rows that follow one another through the rectangles, so that all of them work: of
a prompt, or of sequences side by side. With one, a step takes layers x a layer's time; with more,
(layers + pieces - 1) x the time of a piece."""


def program(task: Task) -> Program:
    """One step: the token's way over the rectangles of all wafers."""
    mesh, one = Mesh.of(task.machine), task.machine
    order, stages = task.table.order, task.stage_of()
    parts = [
        (task.title(rows, caller), stage, task.stored(rows))
        for stage, (rows, caller) in zip(stages, order, strict=True)
    ]
    names = Counter(name for name, _, _ in parts)
    parts = [
        (name if names[name] == 1 else f"{index} {name}", wafer, max(size, 1.0))
        for index, (name, wafer, size) in enumerate(parts)
    ]
    core = one.detail("core_bytes")
    rectangles = plan(parts, mesh.columns, mesh.rows, core)
    pieces = max(1, min(PIECES, math.floor(_most_rows(task) + 1e-9)))
    piece = _part(task, pieces)
    known: dict[tuple[range, int, int] | Block, int] = {}
    blocks: list[Block] = []
    way: list[Run] = []
    previous: Rectangle | None = None
    for index, ((rows, caller), here) in enumerate(zip(order, rectangles, strict=True)):
        if previous is not None:
            block = _way(piece, mesh, previous, here)
            if block not in known:
                known[block] = len(blocks)
                blocks.append(block)
            ends = {"chip": _place(task, previous), "next": _place(task, here)}
            way.append(Run(known[block], at=ends, stage=index - 1, tag=caller))
        key = (rows, here.columns, here.rows)
        if key not in known:
            known[key] = len(blocks)
            blocks.append(_block(piece, mesh, rows, here))
        way.append(Run(known[key], at={"chip": _place(task, here)}, stage=index, tag=caller))
        previous = here
    flows = [{} if pieces == 1 else {"flow": f"rows {index}"} for index in range(pieces)]
    return Program(
        blocks=tuple(blocks),
        runs=tuple(replace(run, at={**run.at, **flow}) for flow in flows for run in way),
        note=NOTE,
        stands_for={_place(task, r).partition("/")[0]: task.shards.tensor for r in rectangles},
        before_s=one.per_step_s,
        picture=Floor(
            rectangles=rectangles,
            columns=mesh.columns,
            rows=mesh.rows,
            core_bytes=core,
            colours=int(one.detail("colours_count")),
            colours_used=sum(COLOURS.values()),
        ),
    )


def _most_rows(task: Task) -> float:
    """Rows that go through the layers' own weights."""
    kernels = task.table.kernels
    layered = {row for rows, caller in task.table.order if caller.layer for row in rows}
    dense = [row for row in layered if kernels[row].dots and not kernels[row].experts]
    return max((task.rows(r) for r in dense if task.part.weight_bytes[r] > 0), default=1.0)


def _part(task: Task, pieces: int) -> Task:
    """The task for one of `pieces` equal groups of rows."""
    table = task.table.at_batch(1 / pieces)
    return replace(task, table=table, part=portion(table, task.shards))


def _place(task: Task, here: Rectangle) -> str:
    first = here.wafer * task.shards.tensor
    name = (
        f"wafer {first}"
        if task.shards.tensor == 1
        else f"wafers {first}-{first + task.shards.tensor - 1}"
    )
    return f"{name}/{here.name}"


def _way(task: Task, mesh: Mesh, here: Rectangle, there: Rectangle) -> Block:
    """The activations go on: over the fabric to the neighbour, or by Ethernet to the next wafer."""
    chain = Chain()
    size = float(task.table.numbers["reduce_bytes"].max(initial=0.0))
    if here.wafer != there.wafer and task.machine.link is not None:
        seconds, delay = send_s(size, task.machine.link), 0.0
    else:
        # The vector leaves on all rows of the rectangle at once, four bytes a cycle and link.
        seconds = size / 4 / min(here.rows, there.rows) * mesh.cycle_s
        delay = here.hops_to(there) * mesh.hop_s
    chain.add(
        "stream on", "chip/fabric", "next/fabric", seconds=seconds, delay_s=delay, bound="link"
    )
    return chain.block()


def _block(task: Task, mesh: Mesh, rows: range, here: Rectangle) -> Block:
    chain = Chain()
    for row in rows:
        kernel = task.table.kernels[row]
        if kernel.unit == "matmul" and task.part.weight_bytes[row] > 0 and kernel.dots:
            _matmul(chain, task, mesh, row, here)
        elif kernel.unit == "matmul":
            _attention(chain, task, mesh, row, here)
        else:
            _vector(chain, task, mesh, row, here)
        _combine(chain, task, row)
    return chain.block()


def _share(task: Task, here: Rectangle) -> float:
    """The rectangle's share of the wafer's rates."""
    return here.cores / (task.machine.detail("cores_count"))


def _multiply_s(task: Task, row: int, here: Rectangle) -> float:
    """Arithmetic of a matmul in place: rate of the rectangle's cores, or of their SRAM."""
    one, how, part = task.machine, task.formats[row], task.part
    rate = one.vector_flops_per_s if how.format == VECTOR else one.matmul_flops_per_s[how.format]
    flops = float(part.flops[row]) * how.slowdown
    unpack = 0.0 if how.is_native else float(part.unpack_flops[row])
    read = float(part.weight_bytes[row] + part.state_bytes[row]) / one.levels[-1].bytes_per_s
    return max(flops / rate + unpack / one.vector_flops_per_s, read) / _share(task, here)


def _matmul(chain: Chain, task: Task, mesh: Mesh, row: int, here: Rectangle) -> None:
    """MeshGEMV, or for many rows MeshGEMM: vectors enter along rows, sums leave along columns."""
    kernel, part = task.table.kernels[row], task.part
    ways = task.shards.tensor if kernel.is_split and not kernel.experts else 1
    rows = task.rows(row)
    inner = max(k for k, _ in kernel.dots)
    cols = sum(n for _, n in kernel.dots) / ways
    chain.add(
        "multicast",
        "chip/fabric",
        seconds=rows * inner / here.columns / 2 * mesh.cycle_s,  # two f16 a cycle and link
        delay_s=mesh.multicast_s(here.columns),
        kernel=row,
        bound="link",
    )
    chain.add(
        kernel.name,
        "chip/cores",
        seconds=_multiply_s(task, row, here),
        kernel=row,
        flops=float(part.flops[row]),
        read_bytes=float(part.weight_bytes[row]),
        bound="compute",
    )
    chain.add(
        "two-phase sum",
        "chip/fabric",
        seconds=rows * cols / here.columns * mesh.cycle_s,  # one f32 a cycle and link
        delay_s=mesh.sum_s(here.rows),
        kernel=row,
        bound="link",
    )
    _finish(chain, task, row, here)


def _finish(chain: Chain, task: Task, row: int, here: Rectangle) -> None:
    vector = float(task.part.vector_flops[row])
    if vector:
        chain.add(
            "vector",
            "chip/cores",
            seconds=vector / task.machine.vector_flops_per_s / _share(task, here),
            kernel=row,
            flops=vector,
            read_bytes=float(task.part.activation_bytes[row]),
            bound="vector",
        )


def _attention(chain: Chain, task: Task, mesh: Mesh, row: int, here: Rectangle) -> None:
    """The cache stays where it is: queries are spread, scores and values summed along columns;
    the softmax needs a maximum and a sum over all, each sent back."""
    part, each = task.part, _multiply_s(task, row, here) / 2
    for name in ("scores", "values"):
        chain.add(*("multicast", "chip/fabric"), delay_s=mesh.multicast_s(here.columns), kernel=row)
        chain.add(
            name,
            "chip/cores",
            seconds=each,
            kernel=row,
            flops=float(part.flops[row]) / 2,
            read_bytes=float(part.state_bytes[row]) / 2,
            bound="memory",
        )
        chain.add("two-phase sum", "chip/fabric", delay_s=mesh.sum_s(here.rows), kernel=row)
        if name == "scores":
            for what in ("maximum", "sum"):
                chain.add(what, "chip/fabric", delay_s=mesh.sum_s(here.rows), kernel=row)
                back = mesh.multicast_s(here.rows)
                chain.add("multicast", "chip/fabric", delay_s=back, kernel=row)
            _finish(chain, task, row, here)


def _vector(chain: Chain, task: Task, mesh: Mesh, row: int, here: Rectangle) -> None:
    """Elementwise work in place; a norm or another reduction is a sum over the line and back."""
    kernel, part = task.table.kernels[row], task.part
    work = float(part.vector_flops[row] + part.flops[row])
    moved = float(part.activation_bytes[row])
    chain.add(
        kernel.name,
        "chip/cores",
        seconds=work / task.machine.vector_flops_per_s / _share(task, here)
        + moved / 4 / here.rows * mesh.cycle_s,
        kernel=row,
        flops=work,
        read_bytes=moved,
        bound="vector",
    )
    if any(_reduces(op) for op in kernel.ops):
        chain.add("two-phase sum", "chip/fabric", delay_s=mesh.sum_s(here.columns), kernel=row)
        chain.add("multicast", "chip/fabric", delay_s=mesh.multicast_s(here.columns), kernel=row)


def _reduces(op: str) -> bool:
    name = op.rpartition(".")[2]
    return name in ("rms_norm", "layer_norm", "l2_norm", "softmax", "reduce", "sort", "top_k")


def _combine(chain: Chain, task: Task, row: int) -> None:
    """Wafers that share a layer sum over Ethernet."""
    ways, link = task.shards.tensor, task.machine.link
    if ways == 1 or link is None:
        return
    reduce = float(task.table.numbers["reduce_bytes"][row])
    gather = float(task.table.numbers["gather_bytes"][row])
    seconds = all_reduce_s(reduce, ways, link) + all_gather_s(gather, ways, link)
    if seconds:
        chain.add("all-reduce", "chip/ethernet", seconds=seconds, kernel=row, bound="link")
