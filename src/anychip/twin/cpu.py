"""Machine model of this host under XLA:CPU: all cores on one op at a time, streams beside them.

Its parameters are micro-benchmarks (chips/cpu/measure.py), taken through the compiler that models
run on. XLA:CPU runs thunks one after another, so the engine's schedule is a chain; what is modelled
is a thunk: packing a product's operand, a short product, memory streams that the cores wait for.
docs/twins/cpu.md has the page and what bench/cpu_twin.py measured.
"""

from __future__ import annotations

from anychip.twin.engine import Block, Run
from anychip.twin.formats import VECTOR
from anychip.twin.lowered import Kernel
from anychip.twin.machine import Machine
from anychip.twin.products import Product, product
from anychip.twin.program import Chain, Program, Task
from anychip.twin.shard import TRANSCENDENTAL_FLOPS

NOTE = (
    "cpu machine model: XLA:CPU's thunks one after another, each the longest of its arithmetic and "
    "its streams; not modelled: other programs, clock changes, how XLA splits a fusion"
)
NEEDS = ("convolution_flops_per_s", "transcendentals_per_s", "fresh_write_bytes_per_s")
FRESH_BYTES = float(32 << 20)
"""From here on malloc asks the system for every array anew (glibc's M_MMAP_THRESHOLD_MAX), and
writing it takes a page fault for each of its pages."""
ROWS = 64.0
"""Rows of the benchmark that the cost of packing is read off (`matmul_efficiency`)."""


def program(task: Task) -> Program:
    """One step on this host."""
    at = {rows: index for index, rows in enumerate(dict.fromkeys(r for r, _ in task.table.order))}
    blocks = [_block(task, rows) for rows in at]
    return Program(
        blocks=tuple(blocks),
        runs=tuple(Run(at[rows], tag=caller) for rows, caller in task.table.order),
        note=NOTE,
        before_s=task.machine.per_step_s,
    )


def _block(task: Task, rows: range) -> Block:
    chain = Chain()
    for row in rows:
        kernel = task.table.kernels[row]
        part = task.part
        product_s, vector_s = _product_s(task, row, kernel), _vector_s(task, row)
        stream = _stream_s(task, row)
        # Packing reads the weights before the first multiply; vector loops stream as they go.
        seconds = product_s + max(vector_s, stream)
        arithmetic = product_s + vector_s
        chain.add(
            kernel.name,
            "cores",
            seconds=seconds + task.machine.per_kernel_s,
            kernel=row,
            flops=float(part.flops[row] + part.vector_flops[row]),
            read_bytes=float(part.weight_bytes[row] + part.state_bytes[row])
            + kernel.amounts.read_bytes,
            written_bytes=kernel.amounts.written_bytes,
            bound="compute" if arithmetic > stream else "memory",
        )
    return chain.block()


def _vector_s(task: Task, row: int) -> float:
    """Adds and multiplies, and exponentials and their like at their own measured rate."""
    one, number = task.machine, task.table.numbers
    unpacked = 0.0 if task.formats[row].is_native else float(task.part.unpack_flops[row])
    share = float(task.part.vector_flops[row]) / max(
        float(number["vector_flops"][row] + number["transcendentals"][row] * TRANSCENDENTAL_FLOPS),
        1.0,
    )
    plain = float(number["vector_flops"][row]) * share + unpacked
    special = float(number["transcendentals"][row]) * share
    return plain / one.vector_flops_per_s + special / one.detail("transcendentals_per_s")


def _product_s(task: Task, row: int, kernel: Kernel) -> float:
    """A product's time in the cores: multiply-adds at the rate of a large one, and k·n numbers to
    pack, which is what a product of few rows pays besides."""
    flops = float(task.part.flops[row])
    if not flops:
        return 0.0
    one = task.machine
    way = task.formats[row]
    if way.format == VECTOR:
        return flops / one.vector_flops_per_s
    peak = one.peak_flops_per_s[way.format] / way.slowdown
    if any(op == "stablehlo.convolution" for op in kernel.ops):
        return flops / min(peak, one.detail("convolution_flops_per_s"))
    shape = product(kernel)
    if shape.m <= 1:
        return 0.0  # a matrix-vector product is its stream
    return flops / peak + _pack_s(one, shape, peak)


def _pack_s(one: Machine, shape: Product, peak: float) -> float:
    """From the benchmark of ROWS rows, t = 2 ROWS k n / peak + k n p: p = 2 ROWS / peak (1/e - 1),
    where e is that benchmark's rate over the peak."""
    efficiency = one.matmul_flops_per_s["f32"] / one.peak_flops_per_s["f32"]
    each = 2 * ROWS / peak * (1 / efficiency - 1)
    return shape.k * shape.n * shape.count * each


def _stream_s(task: Task, row: int) -> float:
    """Weights and state from where they lie, activations from the last cache as far as they fit."""
    one, part = task.machine, task.part
    held = float(part.weight_bytes[row] + part.state_bytes[row])
    moved = float(part.activation_bytes[row])
    cache = one.levels[-1]
    resident = task.table.weight_bytes + task.table.state_bytes <= cache.capacity_bytes / 2
    # The best seen, as all of this host's rates are; `memory_efficiency` is what a busy one loses.
    slow, fast = one.peak_bytes_per_s[0], one.peak_bytes_per_s[-1]
    near = fast if resident else slow
    fits = moved <= cache.capacity_bytes / 2
    written = task.table.kernels[row].amounts.written_bytes
    fresh = written if written >= FRESH_BYTES else 0.0
    rate = fast if fits else slow
    return held / near + (moved - fresh) / rate + fresh / one.detail("fresh_write_bytes_per_s")
