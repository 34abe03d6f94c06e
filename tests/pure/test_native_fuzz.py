"""Kernels of cpu:native on random shapes, strides and formats, beside slow and obvious numpy. Every
buffer has a page on both sides that must not be touched.

A few seeds run as tests. `python tests/pure/test_native_fuzz.py SECONDS [SEED]` goes on with more.
"""

import ctypes
import mmap
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from anychip.compilers.native.alone import load_kernels
from anychip.compilers.native.isa import NAMES, choose
from anychip.compilers.native.kernels.attention import Attention, MergeChunks
from anychip.compilers.native.kernels.cache import CacheUpdate
from anychip.compilers.native.kernels.embed import Embed
from anychip.compilers.native.kernels.layout import LAYOUTS
from anychip.compilers.native.kernels.matmul_block import BlockMatmul
from anychip.compilers.native.kernels.matmul_dense import DenseMatmul
from anychip.compilers.native.kernels.norm import RmsNorm
from anychip.compilers.native.kernels.paged import PagedAttention, PagedUpdate
from anychip.compilers.native.kernels.quantize import Quantize, records_bytes
from anychip.compilers.native.kernels.rope import Rope, Turns
from anychip.compilers.native.pack import pack_blocks, pack_dense
from anychip.core import SetupError
from anychip.core.blocks import block_format

PAGE = mmap.PAGESIZE
FLOATS = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
Random = np.random.Generator


class Guarded:
    """Bytes that begin right behind, or end right before, a page that must not be touched."""

    def __init__(self, data: Any, at_end: bool):
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        inner = -(-max(raw.size, 1) // PAGE) * PAGE
        self._memory = mmap.mmap(-1, inner + 2 * PAGE)
        base = np.frombuffer(self._memory, np.uint8).ctypes.data
        for page in (base, base + PAGE + inner):
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0) == 0
        # Packed weights and records lie on cache lines; what ends before a page may then not.
        start = PAGE + (inner - raw.size if at_end else 0)
        self.address = base + start
        self.array = np.frombuffer(self._memory, np.uint8, raw.size, start)
        self.array[...] = raw

    def of(self, like: np.ndarray) -> np.ndarray:
        return self.array.view(like.dtype).reshape(like.shape)


@dataclass
class Case:
    """Kernels one after the other on buffers by name; the last one's last buffer is judged."""

    kernels: list[tuple[Any, list[str]]]
    buffers: dict[str, np.ndarray]
    want: np.ndarray
    near: float


def run(case: Case, isa: Any, at_end: bool) -> None:
    loaded = load_kernels([kernel for kernel, _ in case.kernels], isa)
    memory = {name: Guarded(array, at_end) for name, array in case.buffers.items()}
    for kernel, names in case.kernels:
        cut = kernel.units // 3  # in two shares, as two threads would
        addresses = [memory[name].address for name in names]
        loaded[kernel](*addresses, first=0, last=cut)
        loaded[kernel](*addresses, first=cut, last=kernel.units)
    name = case.kernels[-1][1][-1]
    got = memory[name].of(case.buffers[name]).astype(np.float64)
    size = np.abs(case.want).max() + 1e-3
    kernel = case.kernels[-1][0]
    assert np.abs(got - case.want).max() <= case.near * size, (isa.name, at_end, kernel)
    for name in memory.keys() - {names[-1] for _, names in case.kernels}:
        assert memory[name].array.tobytes() == case.buffers[name].tobytes(), f"{name} written"


def random_blocks(random: Random, form: str, rows: int, depth: int) -> np.ndarray:
    """Any bytes, with scales that are small numbers."""
    block = block_format(form)
    raw = random.integers(0, 256, (rows, depth // block.elements, block.nbytes), np.uint8)
    scales = random.uniform(-0.004, 0.004, (*raw.shape[:2], 2)).astype(np.float16).view(np.uint8)
    where = slice(208, 210) if form == "q6_K" else slice(0, 4 if LAYOUTS[form].has_minimum else 2)
    raw[..., where] = scales[..., : where.stop - where.start]
    return raw.reshape(rows, -1)


def block_product(random: Random) -> Case:
    form = str(random.choice(list(LAYOUTS)))
    unit = block_format(form).elements
    rows, tokens = (
        int(random.integers(1, random.choice([90, 90, 500]))),
        int(random.choice([1, 1, 2, 5, 6, 9, 16, 23, 37])),
    )
    depth = unit * int(random.integers(1, 2400 // unit))
    stride = depth + 16 * int(random.integers(0, 3))
    blocks = random_blocks(random, form, rows, depth)
    x = random.standard_normal((tokens, stride)).astype(np.float32)
    residual = random.standard_normal((tokens, rows)).astype(np.float32)
    groups = x[:, :depth].reshape(tokens, -1, 32)
    step = np.abs(groups).max(-1, keepdims=True) / np.float32(127)
    rounded = (np.rint(groups * (1 / step)).astype(np.float64) * step).reshape(tokens, depth)
    want = rounded @ block_format(form).dequantize(blocks).astype(np.float64).T
    add = bool(random.integers(2))
    kernel = BlockMatmul(form, rows, depth, tokens, has_residual=add)
    names = ["weights", "records", *(["residual"] if add else []), "out"]
    buffers = {
        "weights": pack_blocks(blocks, form, depth),
        "x": x,
        "records": np.zeros(records_bytes(tokens, depth), np.uint8),
        "residual": residual,
        "out": np.zeros((tokens, rows), np.float32),
    }
    kernels = [(Quantize(tokens, depth, stride), ["x", "records"]), (kernel, names)]
    # A number halfway between two steps may go to either.
    return Case(kernels, buffers, want + residual * add, 2e-3)


def dense_product(random: Random) -> Case:
    element = str(random.choice(list(FLOATS)))
    rows, depth = int(random.integers(1, 70)), int(random.integers(1, 300))
    tokens, more = int(random.integers(1, 20)), int(random.integers(0, 9))
    weights = random.standard_normal((rows, depth)).astype(FLOATS[element])
    x = random.standard_normal((tokens, depth + more)).astype(np.float32)
    kernel = DenseMatmul(element, rows, depth, tokens, depth + more)
    out = np.zeros((tokens, rows), np.float32)
    want = x[:, :depth].astype(np.float64) @ weights.astype(np.float64).T
    buffers = {"weights": pack_dense(weights), "x": x, "out": out}
    return Case([(kernel, ["weights", "x", "out"])], buffers, want, 1e-5)


def embedded(random: Random) -> Case:
    form = str(random.choice([*LAYOUTS, *FLOATS]))
    rows, count = int(random.integers(1, 60)), int(random.integers(1, 6))
    if form in LAYOUTS:
        depth = block_format(form).elements * int(random.integers(1, 4))
        stored = random_blocks(random, form, rows, depth)
        packed, dense = pack_blocks(stored, form, depth), block_format(form).dequantize(stored)
    else:
        depth = int(random.integers(1, 100))
        stored = random.standard_normal((rows, depth)).astype(FLOATS[form])
        packed, dense = pack_dense(stored), stored
    ids = random.integers(-3, rows + 3, count).astype(np.int32)
    out = np.zeros((count, depth), np.float32)
    buffers = {"weights": packed, "ids": ids, "out": out}
    kernel = Embed(form, rows, depth, count)
    want = dense.astype(np.float64)[np.clip(ids, 0, rows - 1)]
    return Case([(kernel, ["weights", "ids", "out"])], buffers, want, 1e-6)


def attended(random: Random) -> Case:
    element = str(random.choice(list(FLOATS)))
    batch, kv_heads, group = (int(random.integers(1, n)) for n in (3, 4, 5))
    queries = int(random.choice([1, 1, 3, 16, 21, 70]))
    slots = int(random.integers(queries, 200))
    width, value_width = (16 * int(random.integers(1, 6)) for _ in range(2))
    window = int(random.choice([0, 0, 5, 40]))
    softcap = float(random.choice([0, 0, 10]))
    heads = kv_heads * group
    together = int(random.choice([16, 32, 64])) if queries >= 16 else 1
    chunks = int(random.integers(1, 4)) if queries == 1 else 1
    q = random.standard_normal((batch, queries, heads, width)).astype(np.float32)
    k = random.standard_normal((batch, kv_heads, slots, width)).astype(FLOATS[element])
    v = random.standard_normal((batch, kv_heads, slots, value_width)).astype(FLOATS[element])
    start = random.integers(-2, slots + 3, batch).astype(np.int32)
    scale = width**-0.5
    scores = np.einsum("bqhd,bhsd->bhqs", q.astype(np.float64), wide(k, group)) * scale
    if softcap:
        scores = np.tanh(scores / softcap) * softcap
    position = start[:, None, None] + np.arange(queries)[None, :, None]
    slot = np.arange(slots)
    seen = slot <= position
    if window:
        seen &= slot > position - window
    odds = np.exp(scores) * seen[:, None]
    odds /= np.maximum(odds.sum(-1, keepdims=True), 1e-300)
    want = np.einsum("bhqs,bhsd->bqhd", odds, wide(v, group))
    strides = (queries * heads * width, heads * width, width)
    sizes = (batch, queries, heads, kv_heads, slots, width, value_width)
    kernel = Attention(*sizes, scale, window, softcap, element, strides, chunks, together)
    out = np.zeros((batch, queries, heads, value_width), np.float32)
    buffers = {"q": q, "k": k, "v": v, "start": start, "out": out}
    names = ["q", "k", "v", "start", "out"]
    if chunks == 1:
        return Case([(kernel, names)], buffers, want, 1e-4)
    buffers["parts"] = np.zeros(kernel.out_bytes // 4, np.float32)
    merge = MergeChunks(batch * queries, heads, value_width, chunks)
    names[-1] = "parts"
    return Case([(kernel, names), (merge, ["parts", "out"])], buffers, want, 1e-4)


def wide(cache: np.ndarray, group: int) -> np.ndarray:
    return np.repeat(cache.astype(np.float64), group, axis=1)


def cached(random: Random) -> Case:
    element = str(random.choice(list(FLOATS)))
    batch, heads, length = (int(random.integers(1, n)) for n in (4, 4, 5))
    slots, width = length + int(random.integers(0, 30)), int(random.integers(1, 70))
    ring = length == 1 and bool(random.integers(2))
    new = random.standard_normal((batch, length, heads, width)).astype(np.float32)
    cache = random.standard_normal((batch, heads, slots, width)).astype(FLOATS[element])
    start = random.integers(0, 2 * slots, batch).astype(np.int32)
    want = cache.astype(np.float64)
    for b, i in np.ndindex(batch, length):
        first = start[b] % slots if ring else min(start[b], slots - length)
        want[b, :, first + i] = new[b, i].astype(FLOATS[element])
    strides = (length * heads * width, width, heads * width)
    kernel = CacheUpdate(batch, heads, slots, width, length, strides, element, ring)
    buffers = {"new": new, "start": start, "cache": cache}
    return Case([(kernel, ["new", "start", "cache"])], buffers, want, 0.0)


def pages(random: Random, element: str, count: int, heads: int, page: int, width: int) -> Any:
    """(a pool as it is held, its numbers)."""
    numbers = random.standard_normal((count, heads, page, width)).astype(np.float32)
    if element != "q8_0":
        held = numbers.astype(FLOATS[element])
        return held, held.astype(np.float64)
    held = block_format(element).quantize(numbers)
    return held, block_format(element).dequantize(held).astype(np.float64)


def placed(random: Random, tokens: int, page: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(the table of two sequences, each token's own place, pages in all)."""
    per = -(-tokens // page) + int(random.integers(1, 4))
    table = random.permutation(2 * per + 1)[: 2 * per].reshape(2, per).astype(np.int32)
    cells = random.permutation(2 * per * page)[:tokens]
    return table, np.stack([cells % 2, cells // 2]).astype(np.int32), 2 * per + 1


def attended_pages(random: Random) -> Case:
    element = str(random.choice([*FLOATS, "q8_0", "q8_0"]))
    kv_heads, group = (int(random.integers(1, n)) for n in (4, 5))
    heads, page = kv_heads * group, 16 * int(random.choice([1, 2, 4]))
    step = 32 if element == "q8_0" else 16
    width, value_width = (step * int(random.integers(1, 4)) for _ in range(2))
    tokens = int(random.choice([1, 1, 3, 20]))
    window, softcap = int(random.choice([0, 0, 5, 40])), float(random.choice([0, 0, 10]))
    chunks = int(random.integers(1, 4)) if tokens == 1 else 1
    table, places, count = placed(random, tokens, page)
    k, k_numbers = pages(random, element, count, kv_heads, page, width)
    v, v_numbers = pages(random, element, count, kv_heads, page, value_width)
    q = random.standard_normal((heads, tokens, width)).astype(np.float32)
    want = np.zeros((tokens, heads, value_width))
    for token, (sequence, position) in enumerate(places.T):
        first = max(0, position - window + 1) if window else 0
        at = np.arange(first, position + 1)
        where = table[sequence, at // page], slice(None), at % page
        keys, values = (np.repeat(x[where], group, 1) for x in (k_numbers, v_numbers))
        scores = np.einsum("hd,shd->hs", q[:, token].astype(np.float64), keys) * width**-0.5
        scores = np.tanh(scores / softcap) * softcap if softcap else scores
        odds = np.exp(scores - scores.max(-1, keepdims=True))
        odds /= odds.sum(-1, keepdims=True)
        want[token] = np.einsum("hs,shd->hd", odds, values)
    sizes = (tokens, heads, kv_heads, page, table.shape[1], width, value_width)
    strides = (tokens * width, width)
    kernel = PagedAttention(*sizes, width**-0.5, window, softcap, element, strides, chunks)
    out = np.zeros((tokens, heads, value_width), np.float32)
    buffers = {"q": q, "k": k, "v": v, "table": table, "places": places, "out": out}
    names = ["q", "k", "v", "table", "places", "out"]
    if chunks == 1:
        return Case([(kernel, names)], buffers, want, 1e-4)
    buffers["parts"] = np.zeros(kernel.out_bytes // 4, np.float32)
    names[-1] = "parts"
    merge = MergeChunks(tokens, heads, value_width, chunks), ["parts", "out"]
    return Case([(kernel, names), merge], buffers, want, 1e-4)


def updated_pages(random: Random) -> Case:
    element = str(random.choice([*FLOATS, "q8_0"]))
    heads, page, tokens = int(random.integers(1, 4)), 16, int(random.integers(1, 9))
    width = 32 * int(random.integers(1, 4)) if element == "q8_0" else int(random.integers(1, 70))
    table, places, count = placed(random, tokens, page)
    pool, _ = pages(random, element, count, heads, page, width)
    new = random.standard_normal((tokens, heads, width)).astype(np.float32)
    new[0] *= random.choice([0, 1e-7, 1, 1e4])  # nothing, f16's smallest numbers, large ones
    is_blocks = element == "q8_0"
    rows = block_format("q8_0").quantize(new) if is_blocks else new.astype(FLOATS[element])
    want = pool.astype(np.float64)
    for token, (sequence, position) in enumerate(places.T):
        want[table[sequence, position // page], :, position % page] = rows[token]
    sizes = (tokens, heads, page, width, table.shape[1])
    kernel = PagedUpdate(*sizes, (width, heads * width), element)
    buffers = {"new": new, "table": table, "places": places, "pool": pool}
    return Case([(kernel, ["new", "table", "places", "pool"])], buffers, want, 0.0)


def normed(random: Random) -> Case:
    rows, depth = int(random.integers(1, 9)), int(random.integers(1, 300))
    stride, scale = depth + int(random.integers(0, 9)), str(random.choice(["", *FLOATS]))
    x = random.standard_normal((rows, stride)).astype(np.float32)
    weight = random.standard_normal(depth).astype(FLOATS[scale or "f32"])
    wide_x = x[:, :depth].astype(np.float64)
    want = wide_x / np.sqrt((wide_x**2).mean(-1, keepdims=True) + 1e-5)
    want = want * weight.astype(np.float64) if scale else want
    buffers = {"x": x, "scale": weight, "out": np.zeros((rows, depth), np.float32)}
    names = ["x", *(["scale"] if scale else []), "out"]
    return Case([(RmsNorm(rows, depth, stride, 1e-5, 0.0, scale), names)], buffers, want, 1e-5)


def turned(random: Random) -> Case:
    batch, heads, length = (int(random.integers(1, n)) for n in (3, 4, 6))
    half = int(random.integers(1, 40))
    width, pairs = 2 * half + int(random.integers(0, 5)), bool(random.integers(2))
    x = random.standard_normal((batch, length, heads, width)).astype(np.float32)
    positions = random.integers(0, 500, (batch, length)).astype(np.int32)
    frequencies = (10000.0 ** (-np.arange(half) / half)).astype(np.float32)
    angle = (positions[..., None].astype(np.float32) * frequencies)[:, :, None].astype(np.float64)
    want = x.astype(np.float64)
    first = slice(0, 2 * half, 2) if pairs else slice(0, half)
    second = slice(1, 2 * half, 2) if pairs else slice(half, 2 * half)
    a, b = want[..., first].copy(), want[..., second].copy()
    want[..., first] = a * np.cos(angle) - b * np.sin(angle)
    want[..., second] = b * np.cos(angle) + a * np.sin(angle)
    strides = (length * heads * width, width, heads * width)
    rope = Rope(batch, heads, length, width, half, pairs, strides)
    buffers = {
        "x": x,
        "positions": positions,
        "frequencies": frequencies,
        "turns": np.zeros(batch * length * 2 * half, np.float32),
        "out": np.zeros_like(x),
    }
    turns = Turns(batch * length, half), ["positions", "frequencies", "turns"]
    return Case([turns, (rope, ["x", "turns", "out"])], buffers, want, 1e-5)


MAKERS: list[Callable[[Random], Case]] = [
    *(block_product, attended, embedded, dense_product, cached, normed, turned),
    *(attended_pages, updated_pages),
]


def one(seed: int) -> str:
    """One random case on every instruction set this CPU has; what it was."""
    random = np.random.default_rng(seed)
    maker = MAKERS[seed % len(MAKERS)]
    case = maker(random)
    for name in NAMES:
        try:
            isa = choose(name)
        except SetupError:
            continue
        for at_end in (False, True):
            run(case, isa, at_end)
    return f"{maker.__name__}: {case.kernels[-1][0]}"


@pytest.mark.parametrize("seed", range(18))
def test_kernels_agree_with_numpy_inside_guarded_memory(seed):
    one(seed)


if __name__ == "__main__":
    end = time.monotonic() + float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    while time.monotonic() < end:
        print(seed, one(seed), flush=True)
        seed += 1
