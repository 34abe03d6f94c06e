"""Machine model of this host under XLA:CPU: all cores on one op at a time, streams beside them.

Its parameters are micro-benchmarks (chips/cpu/measure.py), taken through the compiler that models
run on. XLA:CPU runs thunks one after another, so the engine's schedule is a chain; what is modelled
is a thunk: packing a product's operand, a short product, memory streams that the cores wait for.
docs/twins/cpu.md has the page and what bench/cpu_twin.py measured.
"""

from __future__ import annotations

from anychip.ops.view import OpView
from anychip.twin.engine import Block, Run
from anychip.twin.formats import VECTOR
from anychip.twin.lowered import Kernel
from anychip.twin.machine import Machine
from anychip.twin.products import Product, product
from anychip.twin.program import Chain, Program, Task
from anychip.twin.reading import title
from anychip.twin.shard import TRANSCENDENTAL_FLOPS

NOTE = (
    "cpu machine model: XLA:CPU's thunks one after another, each the longest of its arithmetic and "
    "its streams; not modelled: other programs, clock changes, how XLA splits a fusion"
)
NEEDS = (
    *("convolution_flops_per_s", "transcendentals_per_s", "fresh_write_bytes_per_s"),
    *("rows_64_flops_per_s", "row_attention_flops_per_s", "read_1_thread_bytes_per_s"),
    *("call_s", "argument_s", "cores_count", "turn_bytes_per_s"),
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
ALONE_MACS = 5.5e5
"""Products of one row and fewer multiply-adds run on one thread (Eigen, TensorCostModel.h,
numThreads: another thread for each 100,000 cycles it expects). Seen: 524,288 do, 589,824 do not."""
ATTENTION = frozenset({"anychip.attention", "anychip.cached_attention"})


def opens(op: OpView) -> bool:
    """XLA inlines composites: of many rows, attention's products and its softmax are ops of their
    own. One row's loops have a benchmark of their own."""
    return title(op) in ATTENTION and op.inputs[0].sizes[-2] > 1


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
            seconds=seconds + _thunks(kernel) * task.machine.per_kernel_s,
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
    if kernel.name in ATTENTION:
        return flops / min(peak, one.detail("row_attention_flops_per_s"))
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
    alone = min(
        near, max(near / one.detail("cores_count"), one.detail("read_1_thread_bytes_per_s"))
    )
    share = _alone(task.table.kernels[row])
    fits = moved <= cache.capacity_bytes / 2
    written = task.table.kernels[row].amounts.written_bytes
    fresh = max(written - room, 0.0) if written >= FRESH_BYTES else 0.0
    # A store reads its line first, but for memory the system has just filled.
    moved += written - fresh
    rate = fast if fits else slow
    apart = _apart_s(one, task.table.kernels[row], rate)
    weights = held * (share / alone + (1 - share) / near)
    made = fresh / one.detail("fresh_write_bytes_per_s")
    return weights + (moved - fresh) / rate + made + apart


def _alone(kernel: Kernel) -> float:
    """The share of a kernel's weights whose products are too small for a second thread."""
    sizes = [inner * columns for inner, columns in kernel.dots]
    if not kernel.amounts.weight_bytes or not sizes or product(kernel).m >= FEW_ROWS:
        return 0.0
    return sum(size for size in sizes if size < ALONE_MACS) / sum(sizes)


def _thunks(kernel: Kernel) -> int:
    """Products are calls of a library, one each; what the lowering fuses with them is a loop."""
    if not kernel.dots:
        return 1
    return len(kernel.dots) + (len(kernel.ops) > len(kernel.dots))


def _results_bytes(kernel: Kernel) -> float:
    """Of all products of a kernel, in f32."""
    rows = kernel.amounts.flops / 2 / sum(inner * columns for inner, columns in kernel.dots)
    return NUMBER_BYTES * rows * sum(columns for _, columns in kernel.dots)


def _apart_s(one: Machine, kernel: Kernel, rate: float) -> float:
    """What the lowering fuses with a product reads its result again: written (its lines read
    first) and read, three times its bytes. A transpose of it is a copy, but of a single row."""
    if _thunks(kernel) <= len(kernel.dots) or not kernel.dots:
        return 0.0
    size = _results_bytes(kernel)
    turns = sum(op == "stablehlo.transpose" for op in kernel.ops)
    share = min(turns / len(kernel.dots), 1.0) if product(kernel).m > 1 else 0.0
    return 3 * size / rate + share * size / one.detail("turn_bytes_per_s")
