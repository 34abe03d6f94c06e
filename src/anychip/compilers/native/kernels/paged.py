"""Attention over a KV cache in pages, and its update (the composites anychip.paged_attention and
anychip.paged_update). Tokens may be of any sequences; how one is computed depends on it alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from anychip.compilers.native.ir import I32, I64, Function, Value
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import number
from anychip.compilers.native.kernels.attend import Block, Rows, Softmax, visible


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
    rounded to the pool's type, which may be q8_0. A unit is one row of one head; `strides` are
    those of `new` in elements, along heads and tokens."""

    tokens: int
    heads: int
    page: int
    width: int
    table: int
    strides: tuple[int, int]
    element: str

    is_light, row_local, piece = False, False, 0
    operands = ("new", "table", "places", "pool")

    @property
    def name(self) -> str:
        sizes = (self.tokens, self.heads, self.page, self.width, self.table, *self.strides)
        return f"paged_update_{self.element}_{'_'.join(map(str, sizes))}"

    @property
    def units(self) -> int:
        return self.tokens * self.heads

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        with f.loop(first, last) as unit:
            head, token = unit % self.heads, unit // self.heads
            sequence, position = _place(f, token, self.tokens)
            page = _page(f, sequence, position, self.table, self.page)
            row = (page * self.heads + head) * self.page + position % self.page
            pool = f.arguments["pool"].at(row * number.row_bytes(self.element, self.width))
            new = (
                f.arguments["new"]
                .at(head * (4 * self.strides[0]))
                .at(token * (4 * self.strides[1]))
            )
            self._row(f, isa, pool, new)

    def _row(self, f: Function, isa: Isa, pool: Value, new: Value) -> None:
        if self.element == "q8_0":
            for i in range(self.width // number.BLOCK):
                block = pool.at(number.BLOCK_BYTES * i)
                number.store_block(f, isa, block, new.at(4 * number.BLOCK * i))
            return
        size, whole = number.SIZES[self.element], self.width // 16 * 16
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

    is_light, row_local, piece = False, False, 1
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
        with f.loop(first, last) as unit:
            chunk, rest = unit % self.chunks, unit // self.chunks
            kv_head, token = rest % self.kv_heads, rest // self.kv_heads
            if self.tokens > 1:  # from both ends in turn: equal shares of units are of work, too
                half = token // 2
                token = f.select((token & 1).equals(0), half, f.i64(self.tokens - 1) - half)
            self._token(f, isa, token, kv_head, chunk)

    def _token(self, f: Function, isa: Isa, token: Value, kv_head: Value, chunk: Value) -> None:
        group = self.heads // self.kv_heads
        sequence, position = _place(f, token, self.tokens)
        seen = visible(f, position, position + 1, self.window, chunk, self.chunks)

        key_bytes = number.row_bytes(self.element, self.width)
        value_bytes = number.row_bytes(self.element, self.value_width)

        def row(slot: Value) -> Value:
            page = _page(f, sequence, slot, self.table, self.page)
            return (page * self.kv_heads + kv_head) * self.page + slot % self.page

        def block(slot: Value) -> Block:
            here, there = row(slot), row(f.select(slot + 16 < seen.high, slot + 16, slot))

            def rows(pool: Value, nbytes: int) -> Rows:
                start = pool.at(here * nbytes)
                return Rows(f, lambda j: start.at(j * nbytes), pool.at(there * nbytes), nbytes)

            return Block(
                rows(f.arguments["k"], key_bytes),
                rows(f.arguments["v"], value_bytes),
            )

        softmax = Softmax(f, isa, self.element, self.width, self.value_width, self.softcap)
        base = f.arguments["q"].at(token * (4 * self.strides[1]))
        for at in range(0, group, softmax.together):
            heads = range(at, min(at + softmax.together, group))
            every = [kv_head * group + head for head in heads]
            rows = [softmax.row(base.at(h * (4 * self.strides[0])), self.scale) for h in every]
            line = token * self.heads
            outs = [
                f.arguments["out"].at(((line + h) * self.chunks + chunk) * (4 * self.out_row))
                for h in every
            ]
            softmax.write(rows, seen, block, outs, self.chunks > 1)
