"""Machine model of systolic chips (TPU, Trainium, Gaudi, Maia): matrix units fed by DMA.

A kernel is cut into tiles of its weights, or rows. DMA brings them from HBM into one of two buffers
while the tile before is multiplied; what the vector unit does to a tile follows its product, and
results leave by DMA again where they do not stay on chip. Resources are HBM, MXU, VPU and, between
chips, the link. docs/twins/systolic.md has the page, and how far it is from libtpu's own schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from anychip.twin.collective import all_gather_s, all_reduce_s
from anychip.twin.engine import Block
from anychip.twin.formats import VECTOR
from anychip.twin.lowered import Kernel
from anychip.twin.machine import Machine
from anychip.twin.products import product
from anychip.twin.program import Chain, Program, Task

NOTE = (
    "systolic machine model: double-buffered tiles; not modelled: layout changes, scalar code, the "
    "compiler's choice of what to keep on chip between kernels"
)
NEEDS = ("mxu_side_count", "mxus_count", "dma_latency_s")
TILES = 8
"""Tiles of a kernel with much to move: the first load and the last store are what does not overlap.
"""
TILE_BYTES = 1 << 20
"""The least that is worth a tile of its own: at 1 TB/s a megabyte takes a DMA's latency."""


@dataclass(frozen=True, kw_only=True)
class Core:
    """The matrix units: `units` arrays of `side` by `side`; the vector unit; DMA."""

    cycle_s: float
    side: float
    units: float
    dma_s: float

    @staticmethod
    def of(one: Machine) -> Core:
        return Core(
            cycle_s=1 / one.clock,
            side=one.detail("mxu_side_count"),
            units=one.detail("mxus_count"),
            dma_s=one.detail("dma_latency_s"),
        )


def program(task: Task) -> Program:
    """One step; of a tensor group one chip, of a pipeline every stage."""
    core = Core.of(task.machine)
    first = task.table.order[0][0].start if task.table.order else 0
    last = task.table.order[-1][0].stop - 1 if task.table.order else 0
    names = task.places(lambda stage, tensor: f"chip {stage}")
    blocks, runs = task.staged(
        names,
        lambda rows: _block(task, core, rows, first, last),
        lambda stage: task.send_on(task.machine.link, "link"),
    )
    return Program(
        blocks=blocks,
        runs=runs,
        note=NOTE,
        stands_for=dict.fromkeys(names, task.shards.tensor),
        before_s=task.machine.per_step_s,
    )


def _block(task: Task, core: Core, rows: range, first: int, last: int) -> Block:
    chain = Chain()
    for row in rows:
        _kernel(task, core, chain, row, row == first, row == last)
    return chain.block()


def _kernel(task: Task, core: Core, chain: Chain, row: int, is_first: bool, is_last: bool) -> None:
    """The tiles of one kernel. The program's own inputs and results lie in HBM."""
    one, part, kernel = task.machine, task.part, task.table.kernels[row]
    memory = one.levels[0]
    held = float(part.weight_bytes[row] + part.state_bytes[row])
    read, written = kernel.amounts.read_bytes, kernel.amounts.written_bytes
    stays = _stays(one, float(part.activation_bytes[row]))
    inward = 0.0 if stays and not is_first else read
    outward = 0.0 if stays and not is_last else written
    tiles = _tiles(held + inward)
    matrix = _matrix_s(task, core, row, kernel)
    vector = (
        float(part.vector_flops[row])
        + (0.0 if task.formats[row].is_native else float(part.unpack_flops[row]))
    ) / one.vector_flops_per_s
    if task.formats[row].format == VECTOR and part.flops[row]:
        vector += float(part.flops[row]) / one.vector_flops_per_s
    flops = float(part.flops[row] + part.vector_flops[row])
    done: list[int] = []
    for tile in range(tiles):
        waits: list[int] = [] if chain.tip is None else [chain.tip]
        ahead = held > 0 and inward == 0
        if held + inward:
            load = chain.add(
                f"load {kernel.name}",
                "chip/HBM",
                seconds=(held + inward) / memory.bytes_per_s / tiles,
                delay_s=core.dma_s,
                after=None if not (ahead or tile) else tuple(done[-2:-1]),
                is_ahead=ahead and not done[-2:-1],
                kernel=row,
                read_bytes=(held + inward) / tiles,
                bound="memory",
            )
            waits = [*waits, load]
        step = chain.add(
            kernel.name,
            "chip/MXU" if matrix else "chip/VPU",
            seconds=(matrix or vector) / tiles,
            after=tuple(dict.fromkeys(waits)) or None,
            kernel=row,
            flops=flops / tiles,
            bound="compute" if matrix else "vector",
        )
        done.append(step)
        if matrix and vector:
            chain.add(
                f"{kernel.name} epilogue",
                "chip/VPU",
                seconds=vector / tiles,
                kernel=row,
                bound="vector",
            )
    if outward:
        chain.add(
            f"store {kernel.name}",
            "chip/HBM",
            seconds=outward / memory.bytes_per_s,
            delay_s=core.dma_s,
            kernel=row,
            written_bytes=outward,
            bound="memory",
        )
    _collective(task, chain, row)


def _stays(one: Machine, activation_bytes: float) -> bool:
    """Whether a kernel's activations fit on chip, half of which is for buffers."""
    near = one.levels[-1]
    return len(one.levels) > 1 and activation_bytes <= near.capacity_bytes / 2


def _tiles(moved: float) -> int:
    return max(1, min(TILES, math.floor(moved / TILE_BYTES)))


def _matrix_s(task: Task, core: Core, row: int, kernel: Kernel) -> float:
    """Cycles of a weight-stationary array (Jouppi et al., "In-Datacenter Performance Analysis of a
    Tensor Processing Unit", ISCA 2017, section 2): for each side-by-side tile of k and n, its
    weights shift in (side cycles, behind the tile before) and m rows stream through, so a tile
    takes the longer of the two; the first one's weights and the last one's rows are not hidden.
    Units take tiles in parallel. A format slower than bf16 by its peak takes so much longer."""
    flops = float(task.part.flops[row])
    way = task.formats[row]
    if not flops or way.format == VECTOR:
        return 0.0
    one = task.machine
    shape = product(kernel)
    share = flops / max(kernel.amounts.flops, 1.0)
    tiles = math.ceil(shape.k / core.side) * math.ceil(shape.n / core.side)
    each = max(shape.m, core.side / 2)
    peak = one.peak_flops_per_s[way.format] / way.slowdown
    ideal = 2 * core.side**2 * core.units / core.cycle_s  # one multiply-add a cell and cycle
    cycles = math.ceil(tiles / core.units) * each * ideal / peak + 2 * core.side
    return max(cycles * core.cycle_s * share, flops / peak)


def _collective(task: Task, chain: Chain, row: int) -> None:
    """The all-reduce or all-gather a kernel split over chips ends with."""
    if task.shards.tensor == 1:
        return
    kernel, link = task.table.kernels[row], task.machine.link
    assert link is not None  # task.shards was checked against it
    seconds = all_reduce_s(kernel.amounts.reduce_bytes, task.shards.tensor, link)
    seconds += all_gather_s(kernel.amounts.gather_bytes, task.shards.tensor, link)
    if seconds:
        chain.add("collective", "chip/link", seconds=seconds, kernel=row, bound="link")
