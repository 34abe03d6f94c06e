"""Products of many tokens with weights in blocks on tile registers (AMX-INT8), bit for bit what
matmul_block.py's vectors give: whole numbers are exact, and their scaling keeps its order.

A thread's rows of tiles go in strips. Of a strip and some columns the weights are unpacked once, to
signed bytes in the second cache; then sixteen tokens at a time are multiplied with each row of
tiles. Intel 64 and IA-32 Optimization Reference Manual, chapter on AMX. Not in it, measured: for
some 270 cycles after a tile instruction, multiplications and conversions of 512 bits go to one port
only, while additions still have two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import llvmlite.ir as llvm

from anychip.compilers.native.ir import F32, F32V, I8, I32V, Function, Value, vector
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels.ahead import ask_ahead
from anychip.compilers.native.kernels.layout import COLUMNS, BlockLayout
from anychip.compilers.native.kernels.number import ROUND
from anychip.compilers.native.kernels.quantize import GROUP, TILED_BLOCK, TILED_TOKENS, depth64
from anychip.compilers.native.kernels.store import await_tile, store_tile

STRIP, _COLUMNS, _PARTIAL = 12, 2048, 1 << 19
"""Rows of tiles that share a pass over x; most columns unpacked at once; most bytes of sums kept
from some columns to the next. Measured: with 4 rows and 1,024 columns, which the nearest cache
would hold, x passes by more often, and products of 512 tokens take up to 1.3 times as long."""
_BYTES = vector(I8, 64)
_X, _WEIGHTS, _LAST_X, _LAST_SUMS = 4, 5, 6, 7
"""Tile registers. Those before are sums, one for each of a block's groups; the last two are for the
tokens left over."""


def emit(
    f: Function, isa: Isa, kernel: Any, layout: BlockLayout, first: Value, last: Value
) -> None:
    """Units first … last - 1 of a BlockMatmul, a unit being one row of tiles."""
    Product(f, isa, kernel, layout).emit(first, last)


class Product:
    """One emission: sizes known while writing, and the memory it works in."""

    def __init__(self, f: Function, isa: Isa, kernel: Any, layout: BlockLayout):
        self.f, self.isa, self.kernel, self.layout = f, isa, kernel, layout
        self.blocks = depth64(kernel.depth) // COLUMNS
        strip = min(STRIP, -(-kernel.rows // 16))
        if 64 * kernel.tokens <= _PARTIAL:
            self.parts = -(-self.blocks * COLUMNS // _COLUMNS)
            if self.parts > 1:
                strip = min(strip, _PARTIAL // (64 * kernel.tokens))
        else:  # all columns at once, so that there is nothing to keep
            self.parts = 1
            strip = max(1, min(strip, STRIP * _COLUMNS // (self.blocks * COLUMNS)))
        self.strip, self.part_blocks = strip, -(-self.blocks // self.parts)
        self.full = min(kernel.tokens, TILED_TOKENS)
        self.rest = kernel.tokens % self.full
        self.row_bytes = layout.row_bytes(self.blocks)

    def emit(self, first: Value, last: Value) -> None:
        f = self.f
        self.unpacked = f.room(self.strip * self.part_blocks * 1024)
        self.whole = f.room(self.layout.groups * 1024)
        self.partial = f.room(self.strip * self.kernel.tokens * 64 if self.parts > 1 else 64)
        with tiles(f, self._shapes()), f.loop(first, last, self.strip) as base:
            end = base + self.strip
            end = f.select(end > last, last, end)
            for part in range(self.parts):
                begin = part * self.part_blocks
                blocks = range(begin, min(begin + self.part_blocks, self.blocks))
                with f.loop(base, end) as tile:
                    self._unpack(base, tile, blocks)
                self._multiply(base, end, part, blocks)

    def _shapes(self) -> dict[int, tuple[int, int]]:
        group = self.layout.group
        shapes = dict.fromkeys(range(self.layout.groups), (self.full, 64))
        shapes |= {_X: (self.full, group), _WEIGHTS: (group // 4, 64)}
        if self.rest:
            shapes |= {_LAST_X: (self.rest, group), _LAST_SUMS: (self.rest, 64)}
        return shapes

    def _unpack(self, base: Value, tile: Value, blocks: range) -> None:
        """Columns of a row of tiles as signed bytes, four columns of sixteen rows a line."""
        f, layout = self.f, self.layout
        weights = f.arguments["weights"].at(tile * self.row_bytes)
        out = self.unpacked.at((tile - base) * (self.part_blocks * 1024))
        zero = f.constant(_BYTES, layout.zero if layout.zero < 128 else -128)
        with f.loop(0, len(blocks)) as block:
            w = layout.tile(weights, block + blocks.start)
            for line in range(0, layout.tile_bytes, 64):
                ask_ahead(f, w.at(line))
            for index, quants in enumerate(layout.quartets(w, 0, 16)):
                signed = quants.bits_as(_BYTES)
                signed = signed - zero if layout.zero else signed
                out.at(block * 1024).at(64 * index).store(signed, align=64)

    def _multiply(self, base: Value, end: Value, part: int, blocks: range) -> None:
        """All tokens with the unpacked columns of a strip."""
        f = self.f
        whole = self.kernel.tokens // self.full * self.full
        with f.loop(0, whole, self.full) as token, f.loop(base, end) as tile:
            self._some(base, tile, token, self.full, part, blocks)
        if self.rest:
            with f.loop(base, end) as tile:
                self._some(base, tile, f.i64(whole), self.rest, part, blocks)

    def _some(
        self, base: Value, tile: Value, token: Value, count: int, part: int, blocks: range
    ) -> None:
        """`count` tokens with one row of tiles."""
        f, layout = self.f, self.layout
        x = f.arguments["x"].at(token // TILED_TOKENS * (self.blocks * TILED_BLOCK))
        lines = self.unpacked.at((tile - base) * (self.part_blocks * 1024))
        weights = f.arguments["weights"].at(tile * self.row_bytes)
        partial = self.partial.at(((tile - base) * self.kernel.tokens + token) * 64)
        if part:
            sums = [f.cell(partial.at(64 * t).load(F32V)) for t in range(count)]
        else:
            sums = [f.cell(f.constant(F32V, 0.0)) for _ in range(count)]

        if part == self.parts - 1:
            for t in range(count):
                await_tile(f, self.kernel, tile, token + t)

        def products(block: Value) -> list[_Step]:
            own = x.at(block * TILED_BLOCK)
            return self._products(own, lines.at((block - blocks.start) * 1024), count)

        def scale(block: Value) -> list[_Step]:
            meta = x.at(block * TILED_BLOCK).at(TILED_TOKENS * 64)
            steps: list[_Step] = []
            for group in range(self.layout.groups):
                both = self.layout.scales(f, self.isa, weights, block, group)
                at = group * self.layout.group // GROUP * 8 * TILED_TOKENS
                steps += self._scale(both, group, meta.at(at), sums)
            return steps

        def ask(block: Value) -> None:
            """For what is unpacked after this, while nothing else comes from memory."""
            is_last = part == self.parts - 1
            row = weights.at(self.strip * self.row_bytes) if is_last else weights
            w = layout.tile(row, block + ((0 if is_last else blocks.stop) - blocks.start))
            for line in range(0, layout.tile_bytes, 64):
                f.prefetch(w.at(line), level=2)

        if count == self.full:
            # A block's numbers are scaled while tiles multiply the next block's; and no loads
            # wait behind stores whose numbers are not there yet.
            _in_turns(products(f.i64(blocks.start)))
            self._store()
            with f.loop(blocks.start + 1, blocks.stop) as block:
                if self.kernel.tokens <= TILED_TOKENS:
                    ask(block)
                _in_turns(products(block), scale(block - 1))
                self._store()
            _in_turns(scale(f.i64(blocks.stop - 1)))
        else:
            with f.loop(blocks.start, blocks.stop) as block:
                _in_turns(products(block))
                _in_turns(scale(block))
        for t, one in enumerate(sums):
            if part == self.parts - 1:
                store_tile(f, self.kernel, tile, token + t, one.value)
            else:
                partial.at(64 * t).store(one.value)

    def _products(self, x: Value, lines: Value, count: int) -> list[_Step]:
        """All groups' whole numbers: in registers, or, of the tokens left over, in `whole`."""
        stride, group_bytes = self.f.i64(64), self.layout.group
        steps: list[_Step] = []

        def add(name: str, *arguments: int | Value) -> None:
            steps.append(lambda: operate(self.f, name, *arguments))

        for group in range(self.layout.groups):
            is_last = count != self.full
            sums, rows = (_LAST_SUMS, _LAST_X) if is_last else (group, _X)
            add("tilezero", sums)
            add("tileloadd64", rows, x.at(group_bytes * group), stride)
            add("tileloadd64", _WEIGHTS, lines.at(16 * group_bytes * group), stride)
            add("tdpbssd", sums, rows, _WEIGHTS)
            if is_last:
                add("tilestored64", sums, self.whole.at(1024 * group), stride)
        return steps

    def _store(self) -> None:
        """All groups' whole numbers, [group, token, row], from registers into `whole`."""
        for group in range(self.layout.groups):
            operate(self.f, "tilestored64", group, self.whole.at(1024 * group), self.f.i64(64))

    def _scale(
        self, both: tuple[Value, Value | None], group: int, meta: Value, sums: list[Any]
    ) -> list[_Step]:
        """As matmul_block's `_group`, operation by operation; a token is a step."""
        f, (scale, least) = self.f, both

        def token(t: int) -> None:
            whole = _as_f32(self.whole.at(1024 * group + 64 * t).load(I32V, align=64))
            value = f.fma(scale * meta.at(4 * t).load(F32).splat(), whole, sums[t].value)
            if least is not None:
                total = meta.at(4 * (TILED_TOKENS + t)).load(F32).splat()
                value = f.fma(least, total, value)
            sums[t].value = value

        return [partial(token, t) for t in range(len(sums))]


_Step = Callable[[], None]


def _in_turns(few: list[_Step], many: Sequence[_Step] = ()) -> None:
    """Both lists written, the first spread evenly over the second."""
    done = 0
    for i, step in enumerate(many):
        until = -(-(i + 1) * len(few) // len(many))
        for one in few[done:until]:
            one()
        done = until
        step()
    for one in few[done:]:
        one()


def _as_f32(whole: Value) -> Value:
    """i32 below 2^22, which a group's sum is, as f32, exactly: behind the exponent of 2^23. Around
    tile instructions additions have a port to themselves, which conversions have not."""
    return (whole + 0x4B400000).bits_as(F32V) - ROUND


@contextmanager
def tiles(f: Function, shapes: dict[int, tuple[int, int]]) -> Iterator[None]:
    """Tile registers of (rows, bytes of a row) by number, given back afterwards."""
    content = bytearray(64)
    content[0] = 1
    for number, (rows, columns) in shapes.items():
        content[16 + 2 * number : 18 + 2 * number] = columns.to_bytes(2, "little")
        content[48 + number] = rows
    kind = llvm.ArrayType(I8, 64)
    name = f"{f.raw.name}_tiles"
    known: Any = llvm.GlobalVariable(f.module, kind, name)
    known.linkage, known.global_constant, known.align = "internal", True, 64
    known.initializer = llvm.Constant(kind, content)
    operate(f, "ldtilecfg", f.plain_pointer(known))
    yield
    operate(f, "tilerelease")


def operate(f: Function, name: str, *arguments: int | Value) -> None:
    """One tile instruction; numbers are registers."""
    full = f"llvm.x86.{name}"
    given = [a.raw if isinstance(a, Value) else I8(a) for a in arguments]
    known = f.module.globals.get(full)
    if known is None:
        kind = llvm.FunctionType(llvm.VoidType(), [one.type for one in given])
        known = llvm.Function(f.module, kind, full)
    f.builder.call(known, given)
