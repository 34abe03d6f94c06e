"""Attention of new tokens over a KV cache (the composite anychip.cached_attention), online softmax
(arXiv:2205.14135) over sixteen keys at a time; long caches are cut so that all threads have work.
"""

from __future__ import annotations

from dataclasses import dataclass

from anychip.compilers.native.ir import F32, F32V, I32, I64, Function, Value, vector
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import number
from anychip.compilers.native.kernels.attention_tiles import QUERIES, Tiles

_REGISTERS = 24
"""Vectors of queries and sums held at once."""
_LOWEST = -1e30


@dataclass(frozen=True)
class Attention:
    """q f32[batch, queries, heads, width] over k, v [batch, kv_heads, slots, ·] →
    f32[batch, queries, heads, value_width], or partial results when `chunks` > 1.

    A unit is `together` queries, a key head (with all its query heads) and a chunk of the visible
    keys.
    A partial result is value_width sums, then sixteen times the maximum, then sixteen parts of the
    softmax's denominator. `strides` are q's in elements along batch, queries, heads.
    """

    batch: int
    queries: int
    heads: int
    kv_heads: int
    slots: int
    width: int
    value_width: int
    scale: float
    window: int
    softcap: float
    element: str
    strides: tuple[int, int, int]
    chunks: int = 1
    together: int = 1

    is_light, row_local = False, False
    operands = ("q", "k", "v", "start", "out")

    @property
    def name(self) -> str:
        sizes = (self.batch, self.queries, self.heads, self.kv_heads, self.slots, self.width)
        more = (self.value_width, self.window, self.chunks, self.together, *self.strides)
        cap = f"_cap{self.softcap:g}".replace(".", "d") if self.softcap else ""
        return f"attention_{self.element}{cap}_{'_'.join(map(str, sizes + more))}"

    @property
    def units(self) -> int:
        return self.batch * self.kv_heads * self._shares * self.chunks

    @property
    def _shares(self) -> int:
        return -(-self.queries // self.together)

    @property
    def out_row(self) -> int:
        """f32 numbers a query head writes for one chunk."""
        return self.value_width if self.chunks == 1 else self.value_width + 32

    @property
    def out_bytes(self) -> int:
        return 4 * self.batch * self.queries * self.heads * self.chunks * self.out_row

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        in_tiles = isa.has_tiles and self.together % QUERIES == 0 and self.width % 32 == 0
        work = Tiles(f, isa, self) if in_tiles else None
        with f.loop(first, last) as unit:
            chunk, rest = unit % self.chunks, unit // self.chunks
            share, rest = self._paired(f, rest % self._shares), rest // self._shares
            kv_head, batch = rest % self.kv_heads, rest // self.kv_heads
            if work is not None:
                work.emit(batch, kv_head, share * self.together)
            elif self.together == 1:
                self._query(f, isa, batch, share, kv_head, chunk)
            else:
                begin = share * self.together
                end = begin + self.together
                end = f.select(end > self.queries, f.i64(self.queries), end)
                with f.loop(begin, end) as query:
                    self._query(f, isa, batch, query, kv_head, chunk)

    def _query(
        self, f: Function, isa: Isa, batch: Value, query: Value, kv_head: Value, chunk: Value
    ) -> None:
        group = self.heads // self.kv_heads
        together = max(1, _REGISTERS // ((self.width + self.value_width) // 16))
        start = f.arguments["start"].at(batch * 4).load(I32).to(I64)
        position = start + query
        seen = f.select(position > self.slots - 1, f.i64(self.slots), position + 1)
        seen = f.select(seen < 0, f.i64(0), seen)
        lowest = f.i64(0)
        if self.window:
            lowest = position - (self.window - 1)
            lowest = f.select(lowest < 0, f.i64(0), lowest)
        begin = lowest // 16
        blocks = (seen + 15) // 16 - begin
        blocks = f.select(blocks < 0, f.i64(0), blocks)
        low = (begin + blocks * chunk // self.chunks) * 16
        high = (begin + blocks * (chunk + 1) // self.chunks) * 16
        for at in range(0, group, together):
            heads = range(at, min(at + together, group))
            self._heads(f, isa, batch, query, kv_head, chunk, heads, low, high, seen, lowest)

    def _paired(self, f: Function, index: Value) -> Value:
        """First, last, second, … so that equal shares of units are equal shares of work."""
        if self._shares == 1:
            return index
        half = index // 2
        return f.select((index & 1).equals(0), half, f.i64(self._shares - 1) - half)

    def _heads(
        self,
        f: Function,
        isa: Isa,
        batch: Value,
        query: Value,
        kv_head: Value,
        chunk: Value,
        heads: range,
        low: Value,
        high: Value,
        seen: Value,
        lowest: Value,
    ) -> None:
        size, group = number.SIZES[self.element], self.heads // self.kv_heads
        first_head = kv_head * group
        rows: list[list[Value]] = []
        base = f.arguments["q"].at(batch * (4 * self.strides[0])).at(query * (4 * self.strides[1]))
        for head in heads:
            q = base.at((first_head + head) * (4 * self.strides[2]))
            rows.append([q.at(64 * i).load(F32V) * self.scale for i in range(self.width // 16)])
        line = (batch * self.kv_heads + kv_head) * self.slots
        keys = f.arguments["k"].at(line * (size * self.width))
        values = f.arguments["v"].at(line * (size * self.value_width))
        count, parts = len(heads), self.value_width // 16
        top = [f.cell(f.constant(F32V, _LOWEST)) for _ in range(count)]
        mass = [f.cell(f.constant(F32V, 0.0)) for _ in range(count)]
        sums = [[f.cell(f.constant(F32V, 0.0)) for _ in range(parts)] for _ in range(count)]
        shares = [f.room(64) for _ in heads]
        with f.loop(low, high, 16) as slot:
            at = [self._row(f, slot + j) for j in range(16)]
            # A short cache ends before the machine has noticed that it is being streamed.
            _prefetch(f, values.at(at[0] * (size * self.value_width)), 16 * size * self.value_width)
            _prefetch(f, keys.at((at[0] + 16) * (size * self.width)), 16 * size * self.width)
            index = slot.splat() + f.constant(vector(I64), range(16))
            visible = index < seen.splat()
            if self.window:
                visible = Value(f, f.builder.and_(visible.raw, (lowest.splat() <= index).raw))
            weights: list[Value] = []
            for scores, t, m, row_sums in zip(
                self._scores(f, isa, rows, keys, at), top, mass, sums, strict=True
            ):
                if self.softcap:
                    scores = number.tanh(f, scores * (1 / self.softcap)) * self.softcap
                scores = f.select(visible, scores, f.constant(F32V, _LOWEST))
                best = f.larger(t.value, f.largest(scores).splat())
                shrink = number.exp(f, t.value - best)
                weight = f.select(visible, number.exp(f, scores - best), f.constant(F32V, 0.0))
                t.value = best
                m.value = f.fma(m.value, shrink, weight)
                for one in row_sums:
                    one.value = one.value * shrink
                weights.append(weight)
            for kept, weight in zip(shares, weights, strict=True):
                kept.store(weight, align=64)
            with f.loop(0, 16, 4) as begin:
                for j in range(4):
                    v = values.at(self._row(f, slot + begin + j) * (size * self.value_width))
                    for i in range(parts):
                        part = number.load(f, isa, v.at(16 * size * i), self.element)
                        for kept, row_sums in zip(shares, sums, strict=True):
                            one = kept.at(begin * 4).at(4 * j).load(F32).splat()
                            row_sums[i].value = f.fma(one, part, row_sums[i].value)
        for index, head in enumerate(heads):
            row = (batch * self.queries + query) * self.heads + first_head + head
            out = f.arguments["out"].at((row * self.chunks + chunk) * (4 * self.out_row))
            if self.chunks == 1:
                self._finish(f, out, mass[index].value, [one.value for one in sums[index]])
                continue
            for i, one in enumerate(sums[index]):
                out.at(64 * i).store(one.value)
            out.at(4 * self.value_width).store(top[index].value)
            out.at(4 * self.value_width + 64).store(mass[index].value)

    @staticmethod
    def _finish(f: Function, out: Value, mass: Value, sums: list[Value]) -> None:
        scale = _inverse(f, mass)
        for i, one in enumerate(sums):
            out.at(64 * i).store(one * scale)

    def _row(self, f: Function, slot: Value) -> Value:
        """A slot that exists: what lies behind the last one is never seen, but it is read."""
        if self.slots % 16 == 0:
            return slot
        return f.select(slot < self.slots, slot, f.i64(self.slots - 1))

    def _scores(
        self, f: Function, isa: Isa, rows: list[list[Value]], keys: Value, at: list[Value]
    ) -> list[Value]:
        """Each query row with sixteen keys. Partial sums fold pairwise: lanes end in key order."""
        size = number.SIZES[self.element]

        def folded(first: int, count: int) -> list[Value]:
            if count == 1:
                key = keys.at(at[first] * (size * self.width))
                loaded = [
                    number.load(f, isa, key.at(16 * size * i), self.element)
                    for i in range(self.width // 16)
                ]
                return [_products(f, row, loaded) for row in rows]
            half = count // 2
            pairs = zip(folded(first, half), folded(first + half, half), strict=True)
            return [_fold(a, b, 16 // half) for a, b in pairs]

        return folded(0, 16)


def _inverse(f: Function, mass: Value) -> Value:
    """One over the softmax's denominator; a query that sees nothing gets zeros, not NaN."""
    return (f.f32(1.0) / f.larger(f.total(mass), f.f32(1e-37))).splat()


def _prefetch(f: Function, start: Value, nbytes: int) -> None:
    for offset in range(0, nbytes, 64):
        f.prefetch(start.at(offset))


def _products(f: Function, row: list[Value], key: list[Value]) -> Value:
    made = row[0] * key[0]
    for a, b in zip(row[1:], key[1:], strict=True):
        made = f.fma(a, b, made)
    return made


def _fold(a: Value, b: Value, width: int) -> Value:
    """Groups of `width` lanes, a's then b's, each halved by adding its upper half to its lower."""
    lanes = [g * width + i for g in range(32 // width) for i in range(width // 2)]
    return a.take(lanes, b) + a.take([lane + width // 2 for lane in lanes], b)


@dataclass(frozen=True)
class MergeChunks:
    """Partial attention results [rows, chunks, ·] → f32[rows, value_width]. A unit is a token."""

    tokens: int
    heads: int
    value_width: int
    chunks: int

    is_light, row_local = True, False
    operands = ("parts", "out")

    @property
    def name(self) -> str:
        return f"merge_{self.tokens}_{self.heads}_{self.value_width}_{self.chunks}"

    @property
    def units(self) -> int:
        return self.tokens

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        stride = 4 * (self.value_width + 32)
        with f.loop(first, last) as token, f.loop(0, self.heads) as head:
            row = token * self.heads + head
            parts = f.arguments["parts"].at(row * (stride * self.chunks))
            out = f.arguments["out"].at(row * (4 * self.value_width))
            at = [parts.at(stride * c + 4 * self.value_width) for c in range(self.chunks)]
            top = at[0].load(F32V)
            for one in at[1:]:
                top = f.larger(top, one.load(F32V))
            shares = [number.exp(f, one.load(F32V) - top) for one in at]
            mass = f.constant(F32V, 0.0)
            for share, one in zip(shares, at, strict=True):
                mass = f.fma(share, one.at(64).load(F32V), mass)
            scale = _inverse(f, mass)
            for i in range(self.value_width // 16):
                value = f.constant(F32V, 0.0)
                for c, share in enumerate(shares):
                    value = f.fma(share, parts.at(stride * c + 64 * i).load(F32V), value)
                out.at(64 * i).store(value * scale)
