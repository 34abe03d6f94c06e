"""Rows of a weight by token id, read out of the tiles its product uses, widened to f32."""

from __future__ import annotations

from dataclasses import dataclass

from anychip.compilers.native.ir import F32V, I8, I32, I64, Function, Value, vector
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import number
from anychip.compilers.native.kernels.matmul_block import GROUPS, LAYOUTS, ROWS
from anychip.compilers.native.kernels.quantize import depth64


@dataclass(frozen=True)
class Embed:
    """tokens i32[count] → f32[count, depth]; ids outside the vocabulary take its nearest row.

    A unit is a token. `format` is a block format or an element type.
    """

    format: str
    rows: int
    depth: int
    count: int

    is_light, row_local = True, True
    operands = ("weights", "tokens", "out")

    @property
    def name(self) -> str:
        return f"embed_{self.format}_{self.count}x{self.depth}_{self.rows}"

    @property
    def units(self) -> int:
        return self.count

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        with f.loop(first, last) as token:
            row = f.arguments["tokens"].at(token * 4).load(I32).to(I64)
            row = f.select(row > self.rows - 1, f.i64(self.rows - 1), row)
            row = f.select(row < 0, f.i64(0), row)
            out = f.arguments["out"].at(token * (4 * self.depth))
            tile, lane = row // ROWS, row % ROWS
            if self.format in LAYOUTS:
                self._blocks(f, isa, tile, lane, out)
            else:
                size = number.SIZES[self.format]
                w = f.arguments["weights"].at((tile * (self.depth * ROWS) + lane) * size)
                with f.loop(0, self.depth) as i:
                    value = number.load(f, isa, w.at(i * (ROWS * size)), self.format, 1)
                    out.at(i * 4).store(value)

    def _blocks(self, f: Function, isa: Isa, tile: Value, lane: Value, out: Value) -> None:
        layout = LAYOUTS[self.format]
        columns = depth64(self.depth) // 64
        with f.loop(0, self.depth // 32) as group:
            block = (tile * columns + group // GROUPS) * layout.tile_bytes
            w = f.arguments["weights"].at(block)
            inner = group % GROUPS
            half = w.at(layout.quant_bytes).at((inner * ROWS + lane) * 2)
            scale = _half(f, isa, half).splat()
            least = None
            if layout.has_minimum:
                least = _half(f, isa, half.at(GROUPS * ROWS * 2)).splat()
            quartets = self._quartets(f, w, inner, lane)
            for part, codes in enumerate(quartets):
                value = (codes - layout.zero).to(F32V) * scale
                value = value if least is None else value + least
                out.at(group * 128).at(64 * part).store(value)

    def _quartets(self, f: Function, w: Value, group: Value, lane: Value) -> list[Value]:
        """The group's 32 quants, 16 to a vector."""
        layout = LAYOUTS[self.format]
        made: list[Value] = []
        for part in range(2):
            whole: list[Value] = []
            for quartet in range(4 * part, 4 * part + 4):
                vectors = 8 * layout.bits // 8  # a group's
                index, high = (quartet, 0) if layout.bits == 8 else divmod(quartet, 2)
                word = w.at((group * vectors + index) * 64 + lane * 4).load(I32)
                word = (word >> 4 * high) & 0x0F0F0F0F if layout.bits == 4 else word
                whole.append(word)
            four = f.constant(vector(I32, 4), 0)
            for at, word in enumerate(whole):
                four = Value(f, f.builder.insert_element(four.raw, word.raw, I32(at)))
            made.append(four.bits_as(vector(I8)).unsigned_to(vector(I32)))
        return made


def _half(f: Function, isa: Isa, pointer: Value) -> Value:
    return number.load(f, isa, pointer, "f16", 1)
