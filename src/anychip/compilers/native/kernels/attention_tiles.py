"""Attention of many new tokens on tile registers (AMX-BF16): blocks of 64 keys by 16 queries, with
an online softmax whose lanes are queries (arXiv:2205.14135; keys are rows, so nothing is summed
across lanes).

Each number goes in as two bf16: itself rounded, and the rest, rounded. So it is right to 2^-17
(f16 and bf16 numbers exactly); of the four products that of the two rests, at most 2^-18 of the
whole, is left out. Scores are in powers of two, which saves the softmax some arithmetic.
"""

from __future__ import annotations

from typing import Any

from anychip.compilers.native.ir import (
    BF16,
    F32V,
    I16,
    I32,
    I32V,
    I64,
    POINTER,
    Cell,
    Function,
    Value,
    vector,
)
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import number
from anychip.compilers.native.kernels.matmul_tiles import operate, tiles

KEYS, QUERIES = 64, 16
_LOWEST, _LOW = -1e30, -1e29
"""A score that is not seen, and what the highest score begins with."""
_TILE = 1024
_HIGH = -65536
"""The upper half of 32 bits."""
_PAIRS = ((4, 6), (4, 7), (5, 6))
"""Registers of left and right parts."""
_LOG2_E = 1.4426950408889634
_EXP2 = (1.33813021e-3, 9.66636837e-3, 5.55038117e-2, 2.40223497e-1, 6.93147182e-1, 1.0)
"""2^r within 2.6e-7 of itself for |r| <= 1/2: (2^r - 1) / r at its five Chebyshev nodes."""


class Tiles:
    """A unit's emission: `kernel.together` queries of all heads that share a key head."""

    def __init__(self, f: Function, isa: Isa, kernel: Any):
        self.f, self.isa, self.kernel = f, isa, kernel
        self.size = number.SIZES[kernel.element]
        self.group = kernel.heads // kernel.kv_heads
        self.steps, self.parts = kernel.width // 32, kernel.value_width // 16
        self.pairs = kernel.together // QUERIES * self.group
        """(sixteen queries, head) of a unit."""
        self.q = f.room(self.pairs * self.steps * 2 * _TILE)
        self.sums = f.room(self.pairs * self.parts * _TILE)
        self.top, self.mass = f.room(64 * self.pairs), f.room(64 * self.pairs)
        self.keys = f.room(KEYS * kernel.width * 4)
        self.values = f.room(KEYS * kernel.value_width * 4)
        self.scores, self.odds = f.room(4 * _TILE), f.room(4 * _TILE)

    def emit(self, batch: Value, kv_head: Value, first: Value) -> None:
        """Queries first … first + together - 1 of one sequence and key head."""
        f, kernel = self.f, self.kernel
        start = f.arguments["start"].at(batch * 4).load(I32)
        count = self._least(f.i64(kernel.queries) - first, f.i64(kernel.together))
        blocks = (count + (QUERIES - 1)) // QUERIES
        shapes: dict[int, tuple[int, int]] = dict.fromkeys(range(8), (16, 64))
        with tiles(f, shapes):
            with f.loop(0, blocks) as block, f.loop(0, self.group) as head:
                self._begin(batch, kv_head, first, block, head)
            last = start + (first + count - 1).to(I32)
            high = self._seen(last).to(I64)
            low = f.i64(0)
            if kernel.window:
                low = (start + first.to(I32) - (kernel.window - 1)).to(I64)
                low = f.select(low < 0, f.i64(0), low) // KEYS * KEYS
            line = (batch * kernel.kv_heads + kv_head) * kernel.slots
            keys = f.arguments["k"].at(line * (self.size * kernel.width))
            values = f.arguments["v"].at(line * (self.size * kernel.value_width))
            with f.loop(low, high, KEYS) as key:
                self._split_keys(keys, key)
                self._split_values(values, key)
                with f.loop(0, blocks) as block:
                    at = start + (first + block * QUERIES).to(I32)
                    seen = self._seen(at + (QUERIES - 1)).to(I64)
                    with f.when(key < seen), f.loop(0, self.group) as head:
                        self._attend(block * self.group + head, key, at)
            with f.loop(0, blocks) as block, f.loop(0, self.group) as head:
                self._finish(batch, kv_head, first, block, head)

    def _least(self, a: Value, b: Value) -> Value:
        return self.f.select(a < b, a, b)

    def _seen(self, position: Value) -> Value:
        """How many keys a query at this position sees: 0 … slots."""
        f, slots = self.f, self.kernel.slots
        seen = f.select(position > slots - 1, f.constant(I32, slots), position + 1)
        return f.select(seen < 0, f.constant(I32, 0), seen)

    def _begin(self, batch: Value, kv_head: Value, first: Value, block: Value, head: Value) -> None:
        """A head's sixteen queries, scaled, in the order of a right-hand tile; nothing seen yet."""
        f, kernel = self.f, self.kernel
        pair = block * self.group + head
        base = f.arguments["q"].at(batch * (4 * kernel.strides[0]))
        base = base.at((kv_head * self.group + head) * (4 * kernel.strides[2]))
        queries = [
            self._least(first + block * QUERIES + i, f.i64(kernel.queries - 1))
            for i in range(QUERIES)
        ]
        rows = [base.at(q * (4 * kernel.strides[1])) for q in queries]
        scale = kernel.scale if kernel.softcap else kernel.scale * _LOG2_E
        for step in range(self.steps):
            halves: list[tuple[Value, Value]] = []
            for row in rows:
                parts = [row.at(128 * step + 64 * i).load(F32V) * scale for i in (0, 1)]
                halves.append(self._in_order(*parts))
            for which in (0, 1):
                out = self.q.at(pair * (self.steps * 2 * _TILE)).at((2 * step + which) * _TILE)
                _transpose(f, out, [half[which] for half in halves])
        sums = self.sums.at(pair * (self.parts * _TILE))
        with f.loop(0, self.parts * _TILE, 64) as at:
            sums.at(at).store(f.constant(F32V, 0.0))
        self.top.at(pair * 64).store(f.constant(F32V, _LOW))
        self.mass.at(pair * 64).store(f.constant(F32V, 0.0))

    def _near(self, x: Value) -> Value:
        """Bits whose upper half is the nearest bf16, halves away from zero."""
        return x.bits_as(I32V) + 0x8000

    def _rest(self, x: Value) -> Value:
        """What rounding f32 to bf16 leaves over."""
        return x - (self._near(x) & _HIGH).bits_as(F32V)

    def _in_order(self, a: Value, b: Value) -> tuple[Value, Value]:
        """32 numbers as bf16 one after the other, and what is left over likewise."""
        words = vector(I16, 32)
        odd = [*range(1, 64, 2)]
        cut = self._near(a).bits_as(words).take(odd, self._near(b).bits_as(words))
        return cut.bits_as(I32V), self._rounded(self._rest(a), self._rest(b)).bits_as(I32V)

    def _rounded(self, a: Value, b: Value) -> Value:
        """32 numbers rounded to bf16, as words: a's, then b's."""
        name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
        made = self.f.intrinsic(name, vector(BF16, 32), b, a)
        return made.bits_as(vector(I16, 32))

    def _side_by_side(self, a: Value, b: Value) -> tuple[Value, Value]:
        """a's numbers in the lower, b's in the upper half of each lane; likewise the rest."""

        cut = (self._near(a) >> 16) | (self._near(b) & _HIGH)
        mixed = [lane for pair in zip(range(16), range(16, 32), strict=True) for lane in pair]
        rest = self._rounded(self._rest(a), self._rest(b)).take(mixed)
        return cut, rest.bits_as(I32V)

    def _slot(self, key: Value) -> Value:
        """A slot that exists: what lies behind the last one is never seen, but it is read."""
        if self.kernel.slots % KEYS == 0:
            return key
        return self._least(key, self.f.i64(self.kernel.slots - 1))

    def _split_keys(self, keys: Value, key: Value) -> None:
        """[which, 64 keys, width] in bf16: left-hand tiles."""
        f, width = self.f, self.kernel.width
        with f.loop(0, KEYS) as j:
            row = keys.at(self._slot(key + j) * (self.size * width))
            for step in range(self.steps):
                parts = [
                    number.load(
                        f, self.isa, row.at(self.size * (32 * step + i)), self.kernel.element
                    )
                    for i in (0, 16)
                ]
                for which, one in enumerate(self._in_order(*parts)):
                    out = self.keys.at(which * KEYS * width * 2).at(j * (2 * width))
                    out.at(64 * step).store(one)

    def _split_values(self, values: Value, key: Value) -> None:
        """[32 keys, part, which] tiles of sixteen value columns by 32 keys: left-hand tiles."""
        f, width = self.f, self.kernel.value_width
        with f.loop(0, KEYS // 32) as half, f.loop(0, self.parts) as part:
            both: list[tuple[Value, Value]] = []
            for p in range(16):
                loaded: list[Value] = []
                for i in (0, 1):
                    slot = self._slot(key + half * 32 + (2 * p + i))
                    at = values.at((slot * width + part * 16) * self.size)
                    loaded.append(number.load(f, self.isa, at, self.kernel.element))
                both.append(self._side_by_side(*loaded))
            for which in (0, 1):
                out = self.values.at(((half * self.parts + part) * 2 + which) * _TILE)
                _transpose(f, out, [pair[which] for pair in both])

    def _attend(self, pair: Value, key: Value, position: Value) -> None:
        """One head's sixteen queries, the first at `position`, with the 64 keys from `key` on."""
        f, kernel, stride = self.f, self.kernel, self.f.i64(64)
        width = f.i64(2 * kernel.width)
        q = self.q.at(pair * (self.steps * 2 * _TILE))
        for tile in range(4):
            operate(f, "tilezero", tile)
        for step in range(self.steps):
            for which in (0, 1):
                at = q.at((2 * step + which) * _TILE)
                operate(f, "tileloadd64", 6 + which, at, stride)
            for tile in range(4):
                for which in (0, 1):
                    at = self.keys.at(which * KEYS * kernel.width * 2)
                    at = at.at(tile * 16 * 2 * kernel.width + 64 * step)
                    operate(f, "tileloadd64", 4 + which, at, width)
                for left, right in _PAIRS:
                    operate(f, "tdpbf16ps", tile, left, right)
        for tile in range(4):
            operate(f, "tilestored64", tile, self.scores.at(tile * _TILE), stride)
        sums = self.sums.at(pair * (self.parts * _TILE))
        self._soften(pair, key, position, sums)
        for begin in range(0, self.parts, 4):
            some = range(begin, min(begin + 4, self.parts))
            for part in some:
                operate(f, "tileloadd64", part - begin, sums.at(part * _TILE), stride)
            for half in (0, 1):
                for which in (0, 1):
                    at = self.odds.at((2 * half + which) * _TILE)
                    operate(f, "tileloadd64", 6 + which, at, stride)
                for part in some:
                    for which in (0, 1):
                        at = self.values.at(((half * self.parts + part) * 2 + which) * _TILE)
                        operate(f, "tileloadd64", 4 + which, at, stride)
                    for left, right in _PAIRS:
                        operate(f, "tdpbf16ps", part - begin, left, right)
            for part in some:
                operate(f, "tilestored64", part - begin, sums.at(part * _TILE), stride)

    def _soften(self, pair: Value, key: Value, position: Value, sums: Value) -> None:
        """Scores to weights of the softmax so far, in `odds`: right-hand tiles of 32 keys."""
        f, kernel = self.f, self.kernel
        old = self.top.at(pair * 64).load(F32V, align=64)
        tops = [f.cell(old) for _ in range(4)]
        seen_by_all = self._least((position + 1).to(I64), f.i64(kernel.slots))
        if kernel.window:
            self._mask(key, position, tops)
        else:
            with f.either(key + KEYS <= seen_by_all) as (yes, no):
                with yes, f.loop(0, KEYS, 4) as j:
                    for i, best in enumerate(tops):
                        at = self.scores.at((j + i) * 64)
                        score = at.load(F32V, align=64)
                        if kernel.softcap:
                            score = self._capped(score)
                            at.store(score, align=64)
                        best.value = f.larger(best.value, score)
                with no:
                    self._mask(key, position, tops)
        first, second = (f.larger(tops[i].value, tops[i + 2].value) for i in (0, 1))
        top = f.larger(first, second)
        masses = [f.cell(f.constant(F32V, 0.0)) for _ in range(4)]
        with f.loop(0, KEYS // 2, 2) as p:
            for i in (0, 1):
                weights: list[Value] = []
                for j in (0, 1):
                    at = self.scores.at((p + i) * 128 + 64 * j)
                    weights.append(_power(f, at.load(F32V, align=64) - top))
                    masses[2 * i + j].value = masses[2 * i + j].value + weights[-1]
                pair_at = self.odds.at((p + i) // 16 * (2 * _TILE)).at((p + i) % 16 * 64)
                for which, one in enumerate(self._side_by_side(weights[0], weights[1])):
                    pair_at.at(which * _TILE).store(one, align=64)
        first, second = (masses[i].value + masses[i + 2].value for i in (0, 1))
        shrink = _power(f, old - top)
        before = self.mass.at(pair * 64)
        before.store(f.fma(before.load(F32V, align=64), shrink, first + second), align=64)
        self.top.at(pair * 64).store(top, align=64)
        with f.when(f.largest(top - old) > 0.0), f.loop(0, self.parts * _TILE, 64) as at:
            line = sums.at(at)
            line.store(line.load(F32V, align=64) * shrink, align=64)

    def _capped(self, score: Value) -> Value:
        cap = self.kernel.softcap
        return number.tanh(self.f, score * (1 / cap)) * (cap * _LOG2_E)

    def _mask(self, key: Value, position: Value, tops: list[Cell]) -> None:
        """Scores of what a query does not see to the lowest; the highest of the others."""
        f, kernel = self.f, self.kernel
        places = position.splat() + f.constant(I32V, range(QUERIES))
        seen = f.select(places > kernel.slots - 1, f.constant(I32V, kernel.slots), places + 1)
        lowest = f.constant(F32V, _LOWEST)
        with f.loop(0, KEYS, 4) as j:
            for i, best in enumerate(tops):
                at = self.scores.at((j + i) * 64)
                score = at.load(F32V, align=64)
                score = self._capped(score) if kernel.softcap else score
                index = (key + j + i).to(I32).splat()
                score = f.select(index < seen, score, lowest)
                if kernel.window:
                    score = f.select(index > places - kernel.window, score, lowest)
                at.store(score, align=64)
                best.value = f.larger(best.value, score)

    def _finish(
        self, batch: Value, kv_head: Value, first: Value, block: Value, head: Value
    ) -> None:
        """Sums over the denominator, to rows of queries."""
        f, kernel = self.f, self.kernel
        pair = block * self.group + head
        mass = self.mass.at(pair * 64).load(F32V, align=64)
        scale = f.constant(F32V, 1.0) / f.larger(mass, f.constant(F32V, 1e-37))
        sums = self.sums.at(pair * (self.parts * _TILE))
        with f.loop(0, self.parts) as part:
            tile = sums.at(part * _TILE)
            rows = [tile.at(64 * d).load(F32V, align=64) * scale for d in range(16)]
            _transpose(f, tile, [row.bits_as(I32V) for row in rows])
            with f.loop(0, QUERIES) as i:
                query = first + block * QUERIES + i
                with f.when(query < kernel.queries):
                    place = (batch * kernel.queries + query) * kernel.heads
                    place = place + (kv_head * self.group + head)
                    out = f.arguments["out"].at(place * (4 * kernel.value_width))
                    out.at(part * 64).store(tile.at(i * 64).load(F32V, align=64))


def _power(f: Function, x: Value) -> Value:
    """2^x for x <= 0; nothing below 2^-126."""
    rounded = x + number.ROUND
    rest = x - (rounded - number.ROUND)
    made = f.constant(F32V, _EXP2[0])
    for factor in _EXP2[1:]:
        made = f.fma(made, rest, f.constant(F32V, factor))
    made = (made.bits_as(I32V) + (rounded.bits_as(I32V) << 23)).bits_as(F32V)
    return f.select(x > -126.0, made, f.constant(F32V, 0.0))


def _transpose(f: Function, tile: Value, rows: list[Value]) -> None:
    """Sixteen rows to a tile in memory, lane i of row j becoming lane j of row i."""
    for i, row in enumerate(rows):
        tile.at(64 * i).store(row, align=64)
    name = "transpose_tile"
    known = f.module.globals.get(name)
    if known is None:
        once = Function(f.module, name, [("tile", POINTER)])
        once.raw.linkage = "internal"
        once.raw.attributes.add("noinline")
        with once:
            _write_transpose(once.arguments["tile"])
        known = once.raw
    f.builder.call(known, [tile.raw])


def _write_transpose(tile: Value) -> None:
    rows = [tile.at(64 * i).load(I32V, align=64) for i in range(16)]
    for span in (1, 2, 4, 8):
        made = list(rows)
        for i in range(16):
            if i & span:
                continue
            a, b = rows[i], rows[i + span]
            low = [lane if not lane & span else lane - span + 16 for lane in range(16)]
            high = [lane + span if not lane & span else lane + 16 for lane in range(16)]
            made[i], made[i + span] = a.take(low, b), a.take(high, b)
        rows = made
    for i, row in enumerate(rows):
        tile.at(64 * i).store(row, align=64)
