"""Machine model of the LPU: a static schedule over functional slices; the model spread over chips.

A chip is columns of one function each, between which vectors of 320 lanes flow as streams (Abts et
al., "Think Fast", ISCA 2020): MEM holds weights and cache, SXM permutes lanes, MXM multiplies, VXM
does all else, C2C sends to other chips. Nothing is arbitrated: every job below has its slices to
itself from its first cycle to its last, and two runs are the same. docs/twins/lpu.md has the page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from anychip.twin.engine import Block, Run
from anychip.twin.formats import VECTOR
from anychip.twin.lowered import Kernel
from anychip.twin.machine import Machine
from anychip.twin.program import Chain, Occupancy, Program, Task
from anychip.twin.shard import portion

NOTE = (
    "LPU machine model: one of each stage's chips is shown, the others of its tensor group do the "
    "same; not modelled: instruction fetch, bank conflicts inside MEM, refresh of the clock offsets"
)
PIECES = 4
"""Jobs that the weights of one matmul are cut into, so that multiplying overlaps installing. The
schedule's makespan changes by under a hundredth of a matmul beyond four."""

REDUCE_PASSES = 5
"""Passes that sum or compare over a vector's features: VXM folds the vectors onto 320 lanes, SXM
and VXM then fold 16 lanes of a superlane and 20 superlanes (320 = 20 x 16, ISCA 2020, section 2):
1 + 2 x 2."""
SORT_PASSES = 10
"""Passes of a sort or top-k of up to 320 values: a bitonic network's stages go two to a pass
(assumed)."""


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The chip in cycles. `pass_s` is one dependent trip: MEM to a unit, through it, back to MEM.
    `install` is in bytes a cycle, `subops` in tiles of one row a cycle by bytes of an element."""

    cycle_s: float
    pass_s: float
    lanes: int
    install: float
    planes: int
    alus: int
    link_bytes_per_s: float
    global_links: int
    node: int
    hop_s: float
    efficiency: float

    @staticmethod
    def of(one: Machine) -> Slices:
        lanes = int(one.detail("lanes_count"))
        link = one.link
        return Slices(
            cycle_s=1 / one.clock,
            pass_s=one.detail("slice_pass_cycles_count") / one.clock,
            lanes=lanes,
            install=one.levels[-1].bytes_per_s / one.clock,
            planes=round(one.detail("mxm_macs_count") / lanes**2),
            alus=int(one.detail("vector_alus_count")),
            link_bytes_per_s=link.bytes_per_s / one.detail("c2c_links_count") if link else 1.0,
            global_links=int(one.detail("c2c_global_links_count")),
            node=int(one.detail("node_chips_count")),
            hop_s=link.hop_s if link else 0.0,
            efficiency=max(one.matmul_flops_per_s.values()) / max(one.peak_flops_per_s.values()),
        )


def program(task: Task) -> Program:
    """The static schedule of one step, one chip of each stage."""
    chip = Slices.of(task.machine)
    blocks = [_hop(task, chip)]
    runs: list[Run] = []
    known: dict[tuple[range, int], int] = {}
    held: dict[str, list[tuple[str, float]]] = {}
    chips: dict[str, int] = {}
    last = ""
    for index, (stage, (rows, caller)) in enumerate(
        zip(_stages(task), task.table.order, strict=True)
    ):
        name = _name(stage, task.shards.tensor)
        key = (rows, len(stage))
        if key not in known:
            known[key] = len(blocks)
            blocks.append(_block(_over(task, len(stage)), chip, rows))
        # What all stages do together is no stage's own time.
        serial = stage.start if len(stage) == 1 else task.shards.pipeline + index
        if last and name != last:
            runs.append(Run(0, at={"chip": last, "next": name}, stage=serial, tag=caller))
        runs.append(Run(known[key], at={"chip": name}, stage=serial, tag=caller))
        for each in stage:
            parts = held.setdefault(_name(range(each, each + 1), task.shards.tensor), [])
            parts.append((task.title(rows, caller), task.stored(rows) / len(stage)))
        chips[name] = task.shards.tensor * len(stage)
        last = name
    return Program(
        blocks=tuple(blocks),
        runs=tuple(runs),
        note=NOTE,
        stands_for=chips,
        before_s=task.machine.per_step_s,
        picture=Occupancy(
            groups=tuple((name, tuple(parts)) for name, parts in held.items()),
            capacity_bytes=task.machine.levels[-1].capacity_bytes,
        ),
    )


def _stages(task: Task) -> list[range]:
    """The stages each part of the model runs on. Layers take one each, evenly. An embedding or a
    head that would take more than a tenth of a chip is spread over the chips of all stages, which
    then work on it as one group."""
    order, room = task.table.order, task.machine.levels[-1].capacity_bytes
    stages = task.shards.pipeline
    is_spread = [not c.layer and task.stored(rows) > 0.1 * room for rows, c in order]
    layers = sum(bool(caller.layer) for _, caller in order)
    if stages == 1 or not layers:
        return [range(stage, stage + 1) for stage in task.stage_of()]
    each: list[range] = []
    seen = 0
    for spread, (_, caller) in zip(is_spread, order, strict=True):
        at = min(stages - 1, seen * stages // layers)
        each.append(range(stages) if spread else range(at, at + 1))
        seen += bool(caller.layer)
    return each


def _over(task: Task, stages: int) -> Task:
    """The same task for a group of chips `stages` times as wide."""
    if stages == 1:
        return task
    shards = replace(task.shards, tensor=task.shards.tensor * stages)
    return replace(task, shards=shards, part=portion(task.table, shards))


def _name(stage: range, tensor: int) -> str:
    first, last = stage.start * tensor, stage.stop * tensor - 1
    return f"LPU {first}" if first == last else f"LPU {first}-{last}"


def _hop(task: Task, chip: Slices) -> Block:
    """Hand the token's activations to the next stage: each chip over its global links."""
    size = float(task.table.numbers["reduce_bytes"].max(initial=0.0))
    chain = Chain()
    sending = size / (chip.link_bytes_per_s * chip.global_links)
    chain.add(
        *("send to next stage", "chip/C2C", "next/C2C"),
        seconds=sending,
        delay_s=chip.hop_s,
        bound="link",
    )
    return chain.block()


def _block(task: Task, chip: Slices, rows: range) -> Block:
    chain = Chain()
    for row in rows:
        kernel = task.table.kernels[row]
        if kernel.unit == "matmul" and task.part.weight_bytes[row] > 0 and kernel.dots:
            _matmul(chain, task, chip, row)
        elif kernel.unit == "matmul":
            _attention(chain, task, chip, row)
        else:
            _vector(chain, task, chip, row)
        _combine(chain, task, chip, row)
    return chain.block()


def _matmul(chain: Chain, task: Task, chip: Slices, row: int) -> None:
    """Install weights tile by tile, stream the rows through, fold and finish in the VXM."""
    kernel, part = task.table.kernels[row], task.part
    weights = float(part.weight_bytes[row])
    how = task.formats[row]
    if how.format == VECTOR:
        _vector(chain, task, chip, row)
        return
    width = 1 if how.format == "i8" else 2
    is_widened = bool(kernel.stored) and not how.is_native
    tiles = _tiles(task, chip, row, width)
    cycles = chip.lanes * chip.lanes / chip.install  # a tile is 320 x 320 bytes, whatever its width
    install_s = tiles * cycles * chip.cycle_s
    passes = max(1.0, task.rows(row))
    multiply_s = passes * tiles / (chip.planes / width) * chip.cycle_s / chip.efficiency
    multiply_s *= how.slowdown
    chain.add("SXM distribute", "chip/SXM", seconds=_flow(task, chip, row), delay_s=chip.pass_s)
    ready = chain.tip
    slices = ["chip/MEM weights", "chip/MXM install"]
    # Stored bytes become f16 in the VXM on their way: as fast as 5,120 f16 a cycle are installed.
    slices += ["chip/VXM"] if is_widened else []
    previous: int | None = None
    for piece in range(PIECES):
        waits = [index for index in (ready, previous) if index is not None]
        load = chain.add(
            f"install {kernel.name}",
            *slices,
            seconds=install_s / PIECES,
            after=waits[:1],
            kernel=row,
            read_bytes=weights / PIECES,
            bound="memory",
        )
        previous = chain.add(
            f"multiply {kernel.name}",
            "chip/MXM multiply",
            seconds=multiply_s / PIECES,
            after=[load, *waits[1:]],
            delay_s=chip.pass_s if piece == PIECES - 1 else 0.0,
            kernel=row,
            flops=float(part.flops[row]) / PIECES,
            bound="compute",
        )
    extra = 1 + sum(op in ("anychip.rope", "anychip.cache_update") for op in set(kernel.ops))
    vector_s = float(part.vector_flops[row]) / task.machine.vector_flops_per_s
    chain.add(
        f"VXM finish {kernel.name}",
        "chip/VXM",
        seconds=vector_s,
        delay_s=chip.pass_s * extra,
        kernel=row,
        flops=float(part.vector_flops[row]),
        read_bytes=float(part.activation_bytes[row]),
        written_bytes=float(task.part.state_bytes[row]),
        bound="vector",
    )


def _attention(chain: Chain, task: Task, chip: Slices, row: int) -> None:
    """Keys and values go through the MXM as weights do: scores, softmax, weighted values."""
    part = task.part
    stored = float(part.state_bytes[row]) or float(part.activation_bytes[row])
    load_s = stored / 2 / chip.install * chip.cycle_s
    width = 1 if task.formats[row].format == "i8" else 2
    macs = float(part.flops[row]) / 2 / 2
    per_cycle = chip.planes / width * (chip.lanes * chip.lanes / width) * chip.efficiency
    multiply_s = macs / per_cycle * chip.cycle_s * task.formats[row].slowdown
    vector = float(part.vector_flops[row])
    for name in ("keys", "values"):
        chain.add("SXM distribute", "chip/SXM", seconds=chip.cycle_s, delay_s=chip.pass_s)
        load = chain.add(
            f"install {name}",
            *("chip/MEM cache", "chip/MXM install"),
            seconds=load_s,
            kernel=row,
            read_bytes=stored / 2,
            bound="memory",
        )
        start = chain.jobs[load].after
        chain.add(
            f"multiply {name}",
            "chip/MXM multiply",
            seconds=multiply_s,
            after=[*start],
            kernel=row,
            flops=float(part.flops[row]) / 2,
            bound="compute",
        )
        chain.add("VXM fold", "chip/VXM", after=[load, load + 1], delay_s=chip.pass_s, kernel=row)
        if name == "keys":
            chain.add(
                "VXM softmax",
                *("chip/VXM", "chip/SXM"),
                seconds=vector / task.machine.vector_flops_per_s,
                delay_s=(2 * REDUCE_PASSES + 2) * chip.pass_s,
                kernel=row,
                flops=vector,
                bound="vector",
            )


def _vector(chain: Chain, task: Task, chip: Slices, row: int) -> None:
    """A norm, a softmax, a lookup: the VXM's time and as many dependent passes as it takes."""
    kernel, part = task.table.kernels[row], task.part
    work = float(part.vector_flops[row] + part.flops[row])
    moved = float(
        part.activation_bytes[row] + part.state_bytes[row] + min(part.weight_bytes[row], work)
    )
    unit = "chip/SXM" if kernel.unit == "move" else "chip/VXM"
    chain.add(
        kernel.name,
        *("chip/MEM activations", unit),
        seconds=max(work / task.machine.vector_flops_per_s, moved / chip.install * chip.cycle_s),
        delay_s=_passes(kernel) * chip.pass_s,
        kernel=row,
        flops=work,
        read_bytes=moved,
        bound="vector",
    )


def _passes(kernel: Kernel) -> int:
    """Dependent trips from MEM to MEM that a kernel without a matmul takes."""
    passes = 1
    for op in kernel.ops:
        name = op.rpartition(".")[2]
        if name in ("rms_norm", "layer_norm", "reduce", "l2_norm"):
            passes += REDUCE_PASSES
        elif name == "softmax":
            passes += 2 * REDUCE_PASSES + 1
        elif name in ("sort", "top_k"):
            passes += SORT_PASSES
    return passes


def _combine(chain: Chain, task: Task, chip: Slices, row: int) -> None:
    """All-reduce (each chip sums its part, then all gather) and all-gather, over C2C.

    In a node every chip has a link to every other; beyond, three hops through the dragonfly's
    global links (Abts et al., "A Software-defined Tensor Streaming Multiprocessor", ISCA 2022).
    """
    ways = task.shards.tensor
    reduce = float(task.table.numbers["reduce_bytes"][row])
    gather = float(task.table.numbers["gather_bytes"][row])
    if ways == 1 or not reduce + gather:
        return
    near = min(ways, chip.node)
    hops = 1 if ways <= chip.node else 3
    for name, size in (("reduce-scatter", reduce), ("all-gather", reduce), ("all-gather", gather)):
        if not size:
            continue
        inside = size / ways / chip.link_bytes_per_s
        outside = size * (ways - near) / ways / (chip.link_bytes_per_s * chip.global_links)
        chain.add(
            name,
            "chip/C2C",
            seconds=max(inside, outside),
            delay_s=hops * chip.hop_s,
            kernel=row,
            bound="link",
        )
        if name == "reduce-scatter":
            chain.add(
                *("VXM sum", "chip/VXM"),
                seconds=size / 2 * (ways - 1) / ways / chip.alus * chip.cycle_s,
                delay_s=chip.pass_s,
                kernel=row,
                bound="vector",
            )


def _tiles(task: Task, chip: Slices, row: int, width: int) -> float:
    """Tiles of 320 x 320 bytes that one chip installs, its dots padded to whole tiles.

    A tile is 320 results of 320 (one byte) or 160 (two bytes) contracted elements (ISCA 2022, as
    quoted in row N8GO03). A matmul that is summed over chips is cut along what is contracted.
    """
    kernel = task.table.kernels[row]
    ways = task.shards.tensor if kernel.is_split and not kernel.experts else 1
    is_summed = task.table.numbers["reduce_bytes"][row] > 0
    deep, wide = chip.lanes // width, chip.lanes
    by_inner: dict[int, int] = {}
    for inner, cols in kernel.dots:
        by_inner[inner] = by_inner.get(inner, 0) + cols
    padded = exact = 0.0
    for inner, cols in by_inner.items():
        k = inner / ways if is_summed else inner
        n = cols if is_summed else cols / ways
        padded += math.ceil(k / deep) * math.ceil(n / wide)
        exact += k * n / (deep * wide)
    stored = kernel.amounts.weight_bytes
    elements = sum(k * n for k, n in kernel.dots) * max(kernel.experts, 1)
    held = float(task.part.weight_bytes[row]) / (stored / elements)
    return held / (deep * wide) * padded / exact


def _flow(task: Task, chip: Slices, row: int) -> float:
    """Seconds in which the activations leave MEM: 320 bytes a cycle on each of 32 streams."""
    return float(task.part.activation_bytes[row]) / chip.install * chip.cycle_s
