"""Machine model of GPUs (`simt`): tiles in waves over SMs, fed from HBM or L2, kernel by kernel.

A product is cut into tiles of its result; SMs take them in waves, and where there are fewer tiles
than SMs each tile's sum is divided among several. While a wave is multiplied the next one's numbers
are on their way, so arithmetic hides behind memory but for a first load. Resources are HBM, L2, SMs
and, between chips, NVLink or what stands for it. docs/twins/simt.md has the page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from anychip.twin.collective import all_gather_s, all_reduce_s
from anychip.twin.engine import Block
from anychip.twin.formats import VECTOR
from anychip.twin.lowered import Kernel
from anychip.twin.products import product
from anychip.twin.program import Chain, Program, Task

NOTE = (
    "simt machine model: tiles in waves over SMs, kernels one after another in a captured graph; "
    "not modelled: clocks under load, bank conflicts, kernels side by side, caches below L2"
)
NEEDS = ("sms_count",)
TILES = ((16, 64), (16, 128), (64, 64), (64, 128), (128, 128), (128, 256), (256, 128))
"""Rows and columns of a result's tile that libraries choose among (CUTLASS's default profiler sets,
recalled); 16 rows are a tensor core's fewest."""
STAGES = 8
"""Parts of a kernel that follow one another through memory and SMs: the depth of the pipeline of
loads that kernels keep (three to five a SM, recalled), and its waves."""
SUSTAINED = 0.75
"""Of the peak that tensor cores keep up on full tiles, clocks under load included. Fit: the matmuls
of rows VD-* and LC-*; 0.75 to 0.9 leave a median error of 7 to 11 %."""
FIRST_BYTE_S = 0.7e-6
"""From a load's issue to its first byte from HBM; why short transfers see less of the bandwidth.
Recalled: microbenchmarks of A100 and H100, 500 to 800 ns."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one chip does for one kernel: seconds of its tensor cores, its vector units, HBM and L2,
    each alone."""

    tensor_s: float
    vector_s: float
    hbm_s: float
    l2_s: float
    hbm_read: float
    l2_read: float
    hbm_written: float
    l2_written: float


def program(task: Task) -> Program:
    """One step; of a tensor group one chip, of a pipeline every stage."""
    names = task.places(lambda stage, tensor: f"GPU {stage}")
    blocks, runs = task.staged(
        names,
        lambda rows: _block(task, rows),
        lambda stage: task.send_on(task.machine.link, "link"),
    )
    return Program(
        blocks=blocks,
        runs=runs,
        note=NOTE,
        stands_for=dict.fromkeys(names, task.shards.tensor),
        before_s=task.machine.per_step_s,
    )


def _block(task: Task, rows: range) -> Block:
    chain = Chain()
    for row in rows:
        _kernel(task, chain, row)
        _collective(task, chain, row)
    return chain.block()


def _kernel(task: Task, chain: Chain, row: int) -> None:
    """A launch, then parts of the kernel: all loads are asked for at once and come one behind the
    other (so the way from HBM is waited for once); a part is computed when it is loaded and the one
    before is done."""
    one, part, kernel = task.machine, task.part, task.table.kernels[row]
    work = _work(task, row, kernel)
    compute = max(work.tensor_s, work.vector_s)
    streams = (
        ("HBM", work.hbm_s, work.hbm_read, work.hbm_written, FIRST_BYTE_S),
        ("L2", work.l2_s, work.l2_read, work.l2_written, 0.0),
    )
    flops = float(part.flops[row] + part.vector_flops[row])
    start = chain.add("launch", delay_s=one.per_kernel_s, kernel=row, bound="overhead")
    done = start
    for _ in range(STAGES):
        loads: list[int] = []
        for name, seconds, read, written, delay in streams:
            if not seconds:
                continue
            load = chain.add(
                f"move {kernel.name}",
                f"chip/{name}",
                seconds=seconds / STAGES,
                delay_s=delay,
                after=(start,),
                kernel=row,
                read_bytes=read / STAGES,
                written_bytes=written / STAGES,
                bound="memory",
            )
            loads.append(load)
        done = chain.add(
            kernel.name,
            "chip/SMs",
            seconds=compute / STAGES,
            after=(done, *loads),
            kernel=row,
            flops=flops / STAGES,
            bound="compute" if work.tensor_s >= work.vector_s else "vector",
        )


def _work(task: Task, row: int, kernel: Kernel) -> Work:
    one, part = task.machine, task.part
    levels = one.levels
    held = float(part.weight_bytes[row] + part.state_bytes[row])
    passing = float(part.activation_bytes[row])
    near = levels[-1]
    in_l2 = len(levels) > 1 and passing <= near.capacity_bytes / 2
    read, written = kernel.amounts.read_bytes, kernel.amounts.written_bytes
    share = passing / (read + written) if read + written else 0.0
    read, written = read * share, written * share
    hbm = held + (0.0 if in_l2 else passing)
    native = task.formats[row].is_native
    unpack = 0.0 if native else float(part.unpack_flops[row])
    vector = float(part.vector_flops[row]) + unpack
    if task.formats[row].format == VECTOR:
        vector += float(part.flops[row])
    return Work(
        tensor_s=_tensor_s(task, row, kernel),
        vector_s=vector / one.vector_flops_per_s,
        hbm_s=hbm / levels[task.placement.level].bytes_per_s,
        l2_s=passing / near.bytes_per_s if in_l2 else 0.0,
        hbm_read=held + (0.0 if in_l2 else read),
        l2_read=read if in_l2 else 0.0,
        hbm_written=0.0 if in_l2 else written,
        l2_written=written if in_l2 else 0.0,
    )


def _tensor_s(task: Task, row: int, kernel: Kernel) -> float:
    """The best of the tiles: waves x a tile's multiply-adds at one SM's rate. Where tiles are fewer
    than SMs, as many SMs as go evenly divide each tile's sum (split-k)."""
    flops, way = float(task.part.flops[row]), task.formats[row]
    if not flops or way.format == VECTOR:
        return 0.0
    one = task.machine
    # Formats timed apart keep up as much less (or more) of their peak as was measured.
    own = one.matmul_flops_per_s[way.format] / one.matmul_efficiency
    peak = own / way.slowdown
    shape, sms = product(kernel), one.detail("sms_count")
    columns = max(1.0, shape.n * flops / max(kernel.amounts.flops, 1.0))
    fewest = math.inf
    for tall, wide in TILES:
        tiles = math.ceil(shape.m / tall) * math.ceil(columns / wide)
        share = max(1, math.floor(sms / tiles))
        waves = math.ceil(tiles * share / sms)
        fewest = min(fewest, waves * 2.0 * tall * wide * shape.k / share)
    return max(fewest * sms, flops) / (peak * SUSTAINED)


def _collective(task: Task, chain: Chain, row: int) -> None:
    """The all-reduce or all-gather a kernel split over chips ends with: a hop's time, software
    included, and its bytes at the rate that large messages see."""
    link = task.machine.link
    if task.shards.tensor == 1 or link is None:
        return
    kernel = task.table.kernels[row]
    seconds = all_reduce_s(kernel.amounts.reduce_bytes, task.shards.tensor, link)
    seconds += all_gather_s(kernel.amounts.gather_bytes, task.shards.tensor, link)
    if seconds:
        chain.add("collective", "chip/link", seconds=seconds, kernel=row, bound="link")
