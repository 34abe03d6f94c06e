"""Attention over a KV cache in pages, and its update (the composites anychip.paged_attention and
anychip.paged_update). Tokens may be of any sequences; how one is computed depends on it alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from anychip.compilers.native.ir import F32V, I32, I64, Function, Value, vector
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import number

_REGISTERS = 24
"""Vectors of queries and sums held at once."""
_LOWEST = -1e30


def _place(f: Function, token: Value, tokens: int) -> tuple[Value, Value]:
    """A token's sequence and position."""
    places = f.arguments["places"]
    sequence = places.at(token * 4).load(I32).to(I64)
    return sequence, places.at((token + tokens) * 4).load(I32).to(I64)


def _page(f: Function, sequence: Value, position: Value, table: int, size: int) -> Value:
    """The page where a position of a sequence lies."""
    return f.arguments["table"].at((sequence * table + position // size) * 4).load(I32).to(I64)


@dataclass(frozen=True)
class PagedUpdate:
    """pool[pages, heads, page, width] gets each token's row of new f32[heads, tokens, width],
    rounded to the pool's type. A unit is one row of one head; `strides` are those of `new` in
    elements, along heads and tokens."""

    tokens: int
    heads: int
    page: int
    width: int
    table: int
    strides: tuple[int, int]
    element: str

    is_light, row_local = False, False
    operands = ("new", "table", "places", "pool")

    @property
    def name(self) -> str:
        sizes = (self.tokens, self.heads, self.page, self.width, self.table, *self.strides)
        return f"paged_update_{self.element}_{'_'.join(map(str, sizes))}"

    @property
    def units(self) -> int:
        return self.tokens * self.heads

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        size = number.SIZES[self.element]
        with f.loop(first, last) as unit:
            head, token = unit % self.heads, unit // self.heads
            sequence, position = _place(f, token, self.tokens)
            page = _page(f, sequence, position, self.table, self.page)
            row = (page * self.heads + head) * self.page + position % self.page
            pool = f.arguments["pool"].at(row * (size * self.width))
            new = (
                f.arguments["new"]
                .at(head * (4 * self.strides[0]))
                .at(token * (4 * self.strides[1]))
            )
            whole = self.width // 16 * 16
            for i in range(0, whole, 16):
                value = number.load(f, isa, new.at(4 * i), "f32", 16)
                number.store(f, isa, pool.at(size * i), value, self.element, 16)
            for i in range(whole, self.width):
                value = number.load(f, isa, new.at(4 * i), "f32", 1)
                number.store(f, isa, pool.at(size * i), value, self.element, 1)


@dataclass(frozen=True)
class PagedAttention:
    """q f32[heads, tokens, width] over the pools k, v [pages, kv_heads, page, ·] →
    f32[tokens, heads, value_width], or partial results like Attention's when `chunks` > 1.

    A unit is a token, a key head (with all its query heads) and a chunk of the visible keys. Pages
    hold multiples of sixteen, so sixteen keys, which are taken at a time, lie in one. `strides` are
    q's in elements along heads and tokens.
    """

    tokens: int
    heads: int
    kv_heads: int
    page: int
    table: int
    width: int
    value_width: int
    scale: float
    window: int
    softcap: float
    element: str
    strides: tuple[int, int]
    chunks: int

    is_light, row_local = False, False
    operands = ("q", "k", "v", "table", "places", "out")

    @property
    def name(self) -> str:
        sizes = (self.tokens, self.heads, self.kv_heads, self.page, self.table, self.width)
        more = (self.value_width, self.window, self.chunks, *self.strides)
        cap = f"_cap{self.softcap:g}".replace(".", "d") if self.softcap else ""
        return f"paged_attention_{self.element}{cap}_{'_'.join(map(str, sizes + more))}"

    @property
    def units(self) -> int:
        return self.tokens * self.kv_heads * self.chunks

    @property
    def out_row(self) -> int:
        """f32 numbers a query head writes for one chunk."""
        return self.value_width if self.chunks == 1 else self.value_width + 32

    @property
    def out_bytes(self) -> int:
        return 4 * self.tokens * self.heads * self.chunks * self.out_row

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        group = self.heads // self.kv_heads
        together = max(1, _REGISTERS // ((self.width + self.value_width) // 16))
        with f.loop(first, last) as unit:
            chunk, rest = unit % self.chunks, unit // self.chunks
            kv_head, token = rest % self.kv_heads, rest // self.kv_heads
            if self.tokens > 1:  # from both ends in turn: equal shares of units are of work, too
                half = token // 2
                token = f.select((token & 1).equals(0), half, f.i64(self.tokens - 1) - half)
            sequence, position = _place(f, token, self.tokens)
            seen, lowest = position + 1, f.i64(0)
            if self.window:
                lowest = position - (self.window - 1)
                lowest = f.select(lowest < 0, f.i64(0), lowest)
            begin = lowest // 16
            blocks = (seen + 15) // 16 - begin
            low = (begin + blocks * chunk // self.chunks) * 16
            high = (begin + blocks * (chunk + 1) // self.chunks) * 16
            for at in range(0, group, together):
                heads = range(at, min(at + together, group))
                self._heads(f, isa, token, sequence, kv_head, chunk, heads, low, high, seen, lowest)

    def _heads(
        self,
        f: Function,
        isa: Isa,
        token: Value,
        sequence: Value,
        kv_head: Value,
        chunk: Value,
        heads: range,
        low: Value,
        high: Value,
        seen: Value,
        lowest: Value,
    ) -> None:
        size, group, parts = (
            number.SIZES[self.element],
            self.heads // self.kv_heads,
            self.width // 16,
        )
        first_head = kv_head * group
        base = f.arguments["q"].at(token * (4 * self.strides[1]))
        rows: list[list[Value]] = []
        for head in heads:
            q = base.at((first_head + head) * (4 * self.strides[0]))
            rows.append([q.at(64 * i).load(F32V) * self.scale for i in range(parts)])
        count, lanes = len(heads), self.value_width // 16
        top = [f.cell(f.constant(F32V, _LOWEST)) for _ in range(count)]
        mass = [f.cell(f.constant(F32V, 0.0)) for _ in range(count)]
        sums = [[f.cell(f.constant(F32V, 0.0)) for _ in range(lanes)] for _ in range(count)]
        with f.loop(low, high, 16) as slot:
            page = _page(f, sequence, slot, self.table, self.page)
            row = (page * self.kv_heads + kv_head) * self.page + slot % self.page
            keys = f.arguments["k"].at(row * (size * self.width))
            values = f.arguments["v"].at(row * (size * self.value_width))
            for offset in range(0, 16 * size * self.value_width, 64):
                f.prefetch(values.at(offset))
            index = slot.splat() + f.constant(vector(I64), range(16))
            visible = index < seen.splat()
            if self.window:
                visible = Value(f, f.builder.and_(visible.raw, (lowest.splat() <= index).raw))
            weights: list[Value] = []
            for scores, t, m, own in zip(
                self._scores(f, isa, rows, keys), top, mass, sums, strict=True
            ):
                if self.softcap:
                    scores = number.tanh(f, scores * (1 / self.softcap)) * self.softcap
                scores = f.select(visible, scores, f.constant(F32V, _LOWEST))
                best = f.larger(t.value, f.largest(scores).splat())
                shrink = number.exp(f, t.value - best)
                weight = f.select(visible, number.exp(f, scores - best), f.constant(F32V, 0.0))
                t.value = best
                m.value = f.fma(m.value, shrink, weight)
                for one in own:
                    one.value = one.value * shrink
                weights.append(weight)
            for j in range(16):
                v = values.at(j * size * self.value_width)
                for i in range(lanes):
                    part = number.load(f, isa, v.at(16 * size * i), self.element)
                    for weight, own in zip(weights, sums, strict=True):
                        own[i].value = f.fma(weight.take([j] * 16), part, own[i].value)
        for index, head in enumerate(heads):
            row = token * self.heads + first_head + head
            out = f.arguments["out"].at((row * self.chunks + chunk) * (4 * self.out_row))
            if self.chunks == 1:
                scale = (f.f32(1.0) / f.total(mass[index].value)).splat()
                for i, one in enumerate(sums[index]):
                    out.at(64 * i).store(one.value * scale)
                continue
            for i, one in enumerate(sums[index]):
                out.at(64 * i).store(one.value)
            out.at(4 * self.value_width).store(top[index].value)
            out.at(4 * self.value_width + 64).store(mass[index].value)

    def _scores(self, f: Function, isa: Isa, rows: list[list[Value]], keys: Value) -> list[Value]:
        """Each query row with sixteen keys. Partial sums fold pairwise: lanes end in key order."""
        size = number.SIZES[self.element]

        def folded(first: int, count: int) -> list[Value]:
            if count == 1:
                key = keys.at(first * size * self.width)
                loaded = [
                    number.load(f, isa, key.at(16 * size * i), self.element)
                    for i in range(self.width // 16)
                ]
                return [_products(f, row, loaded) for row in rows]
            half = count // 2
            pairs = zip(folded(first, half), folded(first + half, half), strict=True)
            return [_fold(a, b, 16 // half) for a, b in pairs]

        return folded(0, 16)


def _products(f: Function, row: list[Value], key: list[Value]) -> Value:
    made = row[0] * key[0]
    for a, b in zip(row[1:], key[1:], strict=True):
        made = f.fma(a, b, made)
    return made


def _fold(a: Value, b: Value, width: int) -> Value:
    """Groups of `width` lanes, a's then b's, each halved by adding its upper half to its lower."""
    lanes = [g * width + i for g in range(32 // width) for i in range(width // 2)]
    return a.take(lanes, b) + a.take([lane + width // 2 for lane in lanes], b)
