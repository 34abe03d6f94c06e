"""Rows of a weight by token id, read out of the tiles its product uses, widened to f32."""

from __future__ import annotations

from dataclasses import dataclass

from anychip.compilers.native.ir import F32V, I8, I32, I64, Function, Value, vector
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import number
from anychip.compilers.native.kernels.layout import COLUMNS, LAYOUTS, ROWS
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

    is_light, row_local, piece = True, True, 0
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
        row = f.arguments["weights"].at(tile * layout.row_bytes(depth64(self.depth) // COLUMNS))
        whole, rest = divmod(self.depth, COLUMNS)
        with f.loop(0, whole) as block:
            self._block(f, isa, row, block, lane, out, COLUMNS)
        if rest:
            self._block(f, isa, row, f.i64(whole), lane, out, rest)

    def _block(
        self,
        f: Function,
        isa: Isa,
        row: Value,
        block: Value,
        lane: Value,
        out: Value,
        columns: int,
    ) -> None:
        """The first columns of one tile's row."""
        layout = LAYOUTS[self.format]
        w = layout.tile(row, block)
        for group in range(columns // layout.group):
            both = layout.scales(f, isa, row, block, group, lane)
            scale, least = (None if one is None else one.splat() for one in both)
            assert scale is not None
            words = layout.quartets(w, group * layout.group // 4, layout.group // 4, lane)
            for part in range(0, len(words), 4):
                four = f.constant(vector(I32, 4), 0)
                for at, word in enumerate(words[part : part + 4]):
                    four = Value(f, f.builder.insert_element(four.raw, word.raw, I32(at)))
                codes = four.bits_as(vector(I8)).unsigned_to(vector(I32))
                value = (codes - layout.zero).to(F32V) * scale
                value = value if least is None else value + least
                out.at(block * (4 * COLUMNS)).at(4 * (group * layout.group + 4 * part)).store(value)
