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
NEEDS = (
    *("convolution_flops_per_s", "transcendentals_per_s", "fresh_write_bytes_per_s"),
    *("rows_64_flops_per_s", "call_s", "argument_s"),
)
FRESH_BYTES = float(32 << 20)
"""From here on malloc asks the system for every array anew (glibc's M_MMAP_THRESHOLD_MAX), and
writing it takes a page fault for each of its pages."""
NUMBER_BYTES = 4.0
"""Of an f32 number, as that benchmark's are."""
ROWS = 64.0
"""Rows of the benchmark that the cost of packing is read off (`rows_64_flops_per_s`)."""
FEW_ROWS = 8.0
"""Products of fewer rows read the weights where they lie. Measured with 1024 x 1024: 4 rows take
the time of one, 16 that of packing."""


def program(task: Task) -> Program:
    """One step on this host."""
    at = {rows: index for index, rows in enumerate(dict.fromkeys(r for r, _ in task.table.order))}
    blocks = [_block(task, rows) for rows in at]
    return Program(
        blocks=tuple(blocks),
        runs=tuple(Run(at[rows], tag=caller) for rows, caller in task.table.order),
        note=NOTE,
        before_s=task.machine.detail("call_s")
        + task.machine.detail("argument_s") * task.table.arguments,
    )


def _block(task: Task, rows: range) -> Block:
    chain = Chain()
    room = 0.0  # the largest array of the step so far, which later ones may have once it is read
    for row in rows:
        kernel = task.table.kernels[row]
        part = task.part
        product_s, vector_s = _product_s(task, row, kernel), _vector_s(task, row)
        stream = _stream_s(task, row, room)
        room = max(room, kernel.amounts.written_bytes)
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
    if shape.m < FEW_ROWS:
        return 0.0  # its stream is longer
    return flops / peak + _pack_s(one, shape, peak)


def _pack_s(one: Machine, shape: Product, peak: float) -> float:
    """From the benchmark of ROWS rows: t = 2 ROWS k n / peak + k n p, and k n numbers read."""
    whole = 2 * ROWS / one.detail("rows_64_flops_per_s")
    apart = 2 * ROWS / one.peak_flops_per_s["f32"] + NUMBER_BYTES / one.peak_bytes_per_s[-1]
    each = max(whole - apart, 0.0) * one.peak_flops_per_s["f32"] / peak
    return shape.k * shape.n * shape.count * each


def _stream_s(task: Task, row: int, room: float) -> float:
    """Weights and state from where they lie, activations from the last cache as far as they fit; a
    large result beyond the `room` of one before it is new memory."""
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
    fresh = max(written - room, 0.0) if written >= FRESH_BYTES else 0.0
    # A store reads its line first, but for memory the system has just filled.
    moved += written - fresh + _apart_bytes(task.table.kernels[row])
    rate = fast if fits else slow
    return held / near + (moved - fresh) / rate + fresh / one.detail("fresh_write_bytes_per_s")


def _apart_bytes(kernel: Kernel) -> float:
    """XLA:CPU's products are calls of a library: what the lowering fuses with one reads its result
    again. Written (its lines read first) and read: three times its bytes."""
    if len(kernel.ops) < 2 or not kernel.dots:
        return 0.0
    rows = product(kernel).m
    return 3 * NUMBER_BYTES * rows * sum(columns for _, columns in kernel.dots)
