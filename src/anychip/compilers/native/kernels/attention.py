"""Attention of new tokens over a KV cache (the composite anychip.cached_attention); long caches are
cut so that all threads have work.
"""

from __future__ import annotations

from dataclasses import dataclass

from anychip.compilers.native.ir import F32V, I32, I64, Function, Value
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import number
from anychip.compilers.native.kernels.attend import Block, Rows, Softmax, inverse, visible
from anychip.compilers.native.kernels.attention_tiles import QUERIES, Tiles


@dataclass(frozen=True)
class Attention:
    """q f32[batch, queries, heads, width] over k, v [batch, kv_heads, slots, ·] →
    f32[batch, queries, heads, value_width], or partial results when `chunks` > 1.

    A unit is `together` queries, a key head (with all its query heads) and a chunk of the visible
    keys. `strides` are q's in elements along batch, queries, heads.
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

    is_light, row_local, piece = False, False, 1
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
        group, first = self.heads // self.kv_heads, kv_head * (self.heads // self.kv_heads)
        start = f.arguments["start"].at(batch * 4).load(I32).to(I64)
        position = start + query
        end = f.select(position > self.slots - 1, f.i64(self.slots), position + 1)
        end = f.select(end < 0, f.i64(0), end)
        seen = visible(f, position, end, self.window, chunk, self.chunks)
        size = number.SIZES[self.element]
        line = (batch * self.kv_heads + kv_head) * self.slots
        keys = f.arguments["k"].at(line * (size * self.width))
        values = f.arguments["v"].at(line * (size * self.value_width))

        def block(slot: Value) -> Block:
            def rows(cache: Value, nbytes: int) -> Rows:
                def at(j: Value | int) -> Value:
                    return cache.at(self._row(f, slot + j) * nbytes)

                return Rows(f, at, cache.at((slot + 16) * nbytes), nbytes)

            return Block(rows(keys, size * self.width), rows(values, size * self.value_width))

        softmax = Softmax(f, isa, self.element, self.width, self.value_width, self.softcap)
        base = f.arguments["q"].at(batch * (4 * self.strides[0])).at(query * (4 * self.strides[1]))
        for at in range(0, group, softmax.together):
            heads = [first + head for head in range(at, min(at + softmax.together, group))]
            rows = [softmax.row(base.at(h * (4 * self.strides[2])), self.scale) for h in heads]
            line = (batch * self.queries + query) * self.heads
            outs = [
                f.arguments["out"].at(((line + h) * self.chunks + chunk) * (4 * self.out_row))
                for h in heads
            ]
            softmax.write(rows, seen, block, outs, self.chunks > 1)

    def _paired(self, f: Function, index: Value) -> Value:
        """First, last, second, … so that equal shares of units are equal shares of work."""
        if self._shares == 1:
            return index
        half = index // 2
        return f.select((index & 1).equals(0), half, f.i64(self._shares - 1) - half)

    def _row(self, f: Function, slot: Value) -> Value:
        """A slot that exists: what lies behind the last one is never seen, but it is read."""
        if self.slots % 16 == 0:
            return slot
        return f.select(slot < self.slots, slot, f.i64(self.slots - 1))


@dataclass(frozen=True)
class MergeChunks:
    """Partial attention results [rows, chunks, ·] → f32[rows, value_width]. A unit is a token."""

    tokens: int
    heads: int
    value_width: int
    chunks: int

    is_light, row_local, piece = True, False, 0
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
            scale = inverse(f, mass)
            for i in range(self.value_width // 16):
                value = f.constant(F32V, 0.0)
                for c, share in enumerate(shares):
                    value = f.fma(share, parts.at(stride * c + 64 * i).load(F32V), value)
                out.at(64 * i).store(value * scale)
