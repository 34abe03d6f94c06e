"""Block products judged twice: to the last rounding by the same whole-number arithmetic in numpy,
and within the stated bound by dequantised weights. Memory has guard pages on both sides.
"""

import ctypes
import mmap

import numpy as np
import pytest

from anychip.compilers.native.alone import load_kernels
from anychip.compilers.native.fuse import fuse_rounding
from anychip.compilers.native.isa import NAMES, Isa, choose
from anychip.compilers.native.kernels.embed import Embed
from anychip.compilers.native.kernels.layout import LAYOUTS
from anychip.compilers.native.kernels.matmul_block import BlockMatmul
from anychip.compilers.native.kernels.matmul_dense import DenseMatmul
from anychip.compilers.native.kernels.pointwise import Pointwise, Source
from anychip.compilers.native.kernels.quantize import Quantize, records_bytes
from anychip.compilers.native.pack import pack_blocks, pack_dense
from anychip.compilers.native.plan import Buffer, Operand, Task
from anychip.core import Origin, SetupError, dtype
from anychip.core.blocks import block_format

PAGE = mmap.PAGESIZE


class Guarded:
    """Bytes that begin right behind, or end right before, a page that must not be touched."""

    def __init__(self, data: np.ndarray, *, at_end: bool):
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        inner = -(-max(raw.size, 1) // PAGE) * PAGE
        self._memory = mmap.mmap(-1, inner + 2 * PAGE)
        base = np.frombuffer(self._memory, np.uint8).ctypes.data
        libc = ctypes.CDLL(None, use_errno=True)
        for page in (base, base + PAGE + inner):
            none = libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0)
            assert none == 0
        start = PAGE + (inner - raw.size if at_end else 0)
        self.address = base + start
        self.bytes = np.frombuffer(self._memory, np.uint8, raw.size, start)
        self.bytes[...] = raw

    def of(self, kind: type, *shape: int) -> np.ndarray:
        return self.bytes.view(kind).reshape(shape)


def isa_of(name: str) -> Isa:
    try:
        return choose(name)
    except SetupError as error:
        pytest.skip(str(error))


def rounded(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(quants i64[T, G, 32], scales f32[T, G]) as kernels/quantize.py says."""
    groups = x.reshape(len(x), -1, 32)
    most = np.abs(groups).max(-1)
    with np.errstate(divide="ignore"):
        inverse = np.where(most > 0, np.float32(127) / most, np.float32(0)).astype(np.float32)
    quants = np.rint(groups * inverse[..., None]).astype(np.int64)
    return quants, most / np.float32(127)


def whole_number_product(blocks: np.ndarray, form: str, x: np.ndarray) -> np.ndarray:
    """The kernel's arithmetic: exact integer dots, then f32 scaling, group after group."""
    layout = LAYOUTS[form]
    raw = blocks.reshape(len(blocks), -1, block_format(form).nbytes)
    scale = raw[..., :2].copy().view(np.float16).astype(np.float32)[..., 0]
    if layout.bits == 8:
        w = raw[..., 2:].view(np.int8).astype(np.int64)
    else:
        packed = raw[..., 4 if layout.has_minimum else 2 :]
        w = np.concatenate([packed & 15, packed >> 4], -1).astype(np.int64) - layout.zero
    quants, x_scale = rounded(x)
    dots = np.einsum("ngk,tgk->tng", w, quants)
    sums = np.zeros((len(x), len(blocks)), np.float32)
    for group in range(w.shape[1]):
        both = scale[None, :, group] * x_scale[:, None, group]
        sums += (both.astype(np.float64) * dots[..., group]).astype(np.float32)
        if layout.has_minimum:
            least = raw[:, group, 2:4].copy().view(np.float16).astype(np.float64)[:, 0]
            total = x_scale[:, group] * quants[:, group].sum(-1).astype(np.float32)
            sums += (least[None] * total[:, None]).astype(np.float32)
    return sums


SIMPLE = sorted(name for name, one in LAYOUTS.items() if not one.is_nested)
SHAPES = [(16, 64, 1), (33, 96, 1), (64, 4128, 1), (5, 32, 2), (48, 160, 3), (40, 128, 11)]
SHAPES += [(208, 2112, 20)]  # two strips, two parts of the columns, tokens left over


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", SIMPLE)
def test_block_products_are_exact_in_whole_numbers_and_stay_in_their_memory(name, form):
    isa = isa_of(name)
    random = np.random.default_rng(3)
    shapes = SHAPES if name == NAMES[0] else (SHAPES[1], SHAPES[4])
    jobs = [
        (Quantize(t, k, k), BlockMatmul(form, n, k, t, has_residual=t == 2)) for n, k, t in shapes
    ]
    run = load_kernels([kernel for job in jobs for kernel in job], isa)
    for (quantize, matmul), (n, k, t) in zip(jobs, shapes, strict=True):
        weights = random.standard_normal((n, k)).astype(np.float32)
        x = random.standard_normal((t, k)).astype(np.float32)
        x[0, :32] = 0
        residual = random.standard_normal((t, n)).astype(np.float32)
        blocks = block_format(form).quantize(weights)
        want = whole_number_product(blocks, form, x)
        dense = block_format(form).dequantize(blocks).astype(np.float64)
        for at_end in (False, True):
            packed = Guarded(pack_blocks(blocks, form, k), at_end=at_end)
            assert packed.bytes.size == matmul.packed_bytes
            records = Guarded(np.zeros(records_bytes(t, k), np.uint8), at_end=at_end)
            more = Guarded(residual, at_end=at_end)
            out = Guarded(np.full((t, n), np.nan, np.float32), at_end=at_end)
            source = Guarded(x, at_end=at_end)
            run[quantize](source.address, records.address)
            extra = [more.address] if matmul.has_residual else []
            run[matmul](packed.address, records.address, *extra, out.address)
            got = out.of(np.float32, t, n) - (residual if matmul.has_residual else 0)
            size = np.abs(dense) @ np.abs(x.T).astype(np.float64)
            assert (np.abs(got - want) <= 1e-6 * (1 + size.T)).all(), (n, k, t)
            # 8 bits move each activation by at most half a step.
            half = np.repeat(rounded(x)[1] / 2, 32, axis=-1).astype(np.float64) * (1 + 2**-15)
            bound = half @ np.abs(dense).T + 1e-5 * (1 + size.T)
            assert (np.abs(got - x @ dense.T) <= bound).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("element", ["f32", "bf16", "f16"])
def test_dense_products_agree_with_numpy_and_stay_in_their_memory(name, element):
    isa = isa_of(name)
    random = np.random.default_rng(4)
    shapes = [(16, 8, 1), (21, 33, 2), (40, 24, 9)]
    kernels = [DenseMatmul(element, n, k, t, k, has_residual=t == 2) for n, k, t in shapes]
    run = load_kernels(kernels, isa)
    for kernel, (n, k, t) in zip(kernels, shapes, strict=True):
        weights = random.standard_normal((n, k)).astype(dtype(element).numpy)
        x = random.standard_normal((t, k)).astype(np.float32)
        residual = random.standard_normal((t, n)).astype(np.float32)
        for at_end in (False, True):
            packed = Guarded(pack_dense(weights), at_end=at_end)
            source, more = Guarded(x, at_end=at_end), Guarded(residual, at_end=at_end)
            out = Guarded(np.zeros((t, n), np.float32), at_end=at_end)
            extra = [more.address] if kernel.has_residual else []
            run[kernel](packed.address, source.address, *extra, out.address)
            want = x.astype(np.float64) @ weights.astype(np.float64).T
            want = want + residual if kernel.has_residual else want
            np.testing.assert_allclose(out.of(np.float32, t, n), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", [*SIMPLE, "f32", "bf16", "f16"])
def test_embedded_rows_are_the_weights_own_numbers(name, form):
    isa = isa_of(name)
    random = np.random.default_rng(5)
    rows, depth = 37, 96
    weights = random.standard_normal((rows, depth)).astype(np.float32)
    if form in LAYOUTS:
        stored = block_format(form).quantize(weights)
        packed, want = pack_blocks(stored, form, depth), block_format(form).dequantize(stored)
    else:
        stored = weights.astype(dtype(form).numpy)
        packed, want = pack_dense(stored), stored.astype(np.float32)
    tokens = np.array([0, 36, 15, 16, 99, -4], np.int32)  # outside: the nearest row
    kernel = Embed(form, rows, depth, len(tokens))
    table, ids = Guarded(packed, at_end=True), Guarded(tokens, at_end=True)
    out = Guarded(np.zeros((len(tokens), depth), np.float32), at_end=True)
    load_kernels([kernel], isa)[kernel](table.address, ids.address, out.address)
    got = out.of(np.float32, len(tokens), depth)
    np.testing.assert_allclose(got, want[np.clip(tokens, 0, rows - 1)], rtol=2e-7)


def test_a_share_of_the_units_writes_only_its_own_rows():
    isa = choose()
    kernel = DenseMatmul("f32", 64, 8, 1, 8)
    weights = pack_dense(np.ones((64, 8), np.float32))
    x, out = np.ones((1, 8), np.float32), np.zeros(64, np.float32)
    run = load_kernels([kernel], isa)[kernel]
    run(weights.ctypes.data, x.ctypes.data, out.ctypes.data, first=1, last=3)
    assert (out == np.repeat([0, 8, 8, 0], 16)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", [*SIMPLE, "bf16"])
def test_a_tokens_product_does_not_depend_on_who_goes_along(name, form):
    isa = isa_of(name)
    random = np.random.default_rng(6)
    rows, depth, most = 48, 2080, 21
    weights = random.standard_normal((rows, depth)).astype(np.float32)
    x = random.standard_normal((most, depth)).astype(np.float32)
    alone: list[bytes] = []
    for count in (1, most):
        if form in LAYOUTS:
            packed = pack_blocks(block_format(form).quantize(weights), form, depth)
            kernels = [Quantize(count, depth, depth), BlockMatmul(form, rows, depth, count)]
        else:
            packed = pack_dense(weights.astype(dtype(form).numpy))
            kernels = [DenseMatmul(form, rows, depth, count, depth)]
        table = Guarded(packed, at_end=True)
        run = load_kernels(kernels, isa)
        for first in range(0, most, count):
            source = Guarded(x[first : first + count], at_end=True)
            records = Guarded(np.zeros(records_bytes(count, depth), np.uint8), at_end=True)
            out = Guarded(np.zeros((count, rows), np.float32), at_end=True)
            operand = source
            if form in LAYOUTS:
                run[kernels[0]](source.address, records.address)
                operand = records
            run[kernels[-1]](table.address, operand.address, out.address)
            got = out.of(np.float32, count, rows)
            if count == 1:
                alone.append(got.tobytes())
            else:
                assert [row.tobytes() for row in got] == alone


@pytest.mark.parametrize("count", [1, 21])
def test_numbers_made_while_they_are_rounded_are_the_same(count):
    isa, depth = choose(), 96
    row = Source("f32", (depth, 1))
    swiglu = Pointwise("swiglu", (count, depth), (row, row), (1.0, 0.0, 0.0))
    apart, fused = Quantize(count, depth, depth), Quantize(count, depth, depth, swiglu)
    places = {name: Buffer(name, 1) for name in ("gate", "up", "middle", "records")}
    gate, up, middle, records = (Operand(place) for place in places.values())
    tasks = [
        Task(swiglu, [gate, up, middle], "swiglu", Origin()),
        Task(apart, [middle, records], "product", Origin()),
    ]
    (task,) = fuse_rounding(tasks)
    assert (task.kernel, task.operands) == (fused, [gate, up, records])
    again = Task(swiglu, [middle, up, gate], "swiglu", Origin())  # reads them too: both stay
    kernels = [one.kernel for one in fuse_rounding([*_fresh(tasks, apart), again])]
    assert kernels == [swiglu, apart, swiglu]

    random = np.random.default_rng(8)
    inputs = random.standard_normal((2, count, depth)).astype(np.float32)
    x = np.zeros((count, depth), np.float32)
    made = [np.zeros(records_bytes(count, depth) + 64, np.uint8) for _ in range(2)]
    where = [-(-one.ctypes.data // 64) * 64 for one in made]
    run = load_kernels([swiglu, apart, fused], isa)
    run[swiglu](inputs[0].ctypes.data, inputs[1].ctypes.data, x.ctypes.data)
    run[apart](x.ctypes.data, where[0])
    run[fused](inputs[0].ctypes.data, inputs[1].ctypes.data, where[1])
    first, second = (o[w - o.ctypes.data :] for o, w in zip(made, where, strict=True))
    size = records_bytes(count, depth)
    assert first[:size].any()
    assert first[:size].tobytes() == second[:size].tobytes()


def _fresh(tasks, quantize):
    """As they were before one took over the other's work."""
    return [
        tasks[0],
        Task(quantize, [tasks[0].written, tasks[1].written], "product", Origin()),
    ]
