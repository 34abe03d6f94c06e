"""How weights in blocks lie in memory: tiles of 16 rows by 64 columns, read and unpacked here.

A tile holds the rows' quants interleaved so that one 64-byte vector has four columns (a quartet) of
sixteen rows: for 8 bits one quartet a vector; else two, low and high nibbles, and behind them
vectors with the upper bits of four quartets (6 bits) or eight (5). Then come, group of columns
after group, sixteen rows' scales, then likewise minimums where the format has them. Scales are f16,
or, where they are `nested`, whole numbers of a byte whose f16 factors stand before every fourth
tile, which is what ggml's K formats say of 256 columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from anychip.compilers.native.ir import F32, F32V, I8, I32, I32V, Function, Value, vector
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import number

ROWS, COLUMNS = 16, 64
_TOGETHER, _HEAD = 4, 2 * ROWS * 2
"""Tiles that share factors, and the bytes of these: sixteen for scales, sixteen for minimums."""


@dataclass(frozen=True)
class BlockLayout:
    """How a format lies in a tile: bits of a quant, what is subtracted from a quant to get the
    number that the scale multiplies, whether there are minimums, and columns that share a scale."""

    bits: int
    zero: int = 0
    has_minimum: bool = False
    group: int = 32
    is_nested: bool = False

    @property
    def groups(self) -> int:
        """In a tile."""
        return COLUMNS // self.group

    @property
    def quant_bytes(self) -> int:
        return ROWS * COLUMNS * self.bits // 8

    @property
    def scale_bytes(self) -> int:
        """Of one group's scales."""
        return ROWS * (1 if self.is_nested else 2)

    @property
    def tile_bytes(self) -> int:
        return self.quant_bytes + self.groups * self.scale_bytes * (2 if self.has_minimum else 1)

    def row_bytes(self, blocks: int) -> int:
        """Of one row of tiles."""
        heads = blocks // _TOGETHER * _HEAD if self.is_nested else 0
        return blocks * self.tile_bytes + heads

    def tile(self, row: Value, block: Value) -> Value:
        """Where a tile begins."""
        if not self.is_nested:
            return row.at(block * self.tile_bytes)
        return row.at(block * self.tile_bytes).at((block // _TOGETHER + 1) * _HEAD)

    def quartets(self, w: Value, first: int, count: int, lane: Value | None = None) -> list[Value]:
        """Quants of a tile's quartets as bytes: in vectors i32[16], or one row's in i32."""

        def line(offset: int) -> Value:
            if lane is None:
                return w.at(offset).load(I32V, align=64)
            return w.at(offset).at(lane * 4).load(I32)

        if self.bits == 8:
            return [line(64 * i) for i in range(first, first + count)]
        low: dict[int, Value] = {}
        high: dict[int, Value] = {}
        more = self.bits - 4
        made: list[Value] = []
        for i in range(first, first + count):
            if i // 2 not in low:
                low[i // 2] = line(64 * (i // 2))
            quants = (low[i // 2] >> 4 if i % 2 else low[i // 2]) & 0x0F0F0F0F
            if more:
                at, place = divmod(i * more, 8)
                if at not in high:
                    high[at] = line(512 + 64 * at)
                mask = 0x10101010 * ((1 << more) - 1)
                quants = quants | (_moved(high[at], 4 - place) & mask)
            made.append(quants)
        return made

    def scales(
        self,
        f: Function,
        isa: Isa,
        row: Value,
        block: Value,
        group: int,
        lane: Value | None = None,
    ) -> tuple[Value, Value | None]:
        """Sixteen rows' scales and minimums of a group as f32, exactly; or one row's."""
        w = self.tile(row, block).at(self.quant_bytes)
        places = [w.at(group * self.scale_bytes)]
        if self.has_minimum:
            places.append(w.at((self.groups + group) * self.scale_bytes))
        size = self.scale_bytes // ROWS
        places = [place if lane is None else place.at(lane * size) for place in places]
        lanes = ROWS if lane is None else 1
        if not self.is_nested:
            values = [number.load(f, isa, place, "f16", lanes) for place in places]
        else:
            head = row.at(block // _TOGETHER * (_TOGETHER * self.tile_bytes + _HEAD))
            head = head if lane is None else head.at(lane * 2)
            values = [
                _bytes(place, lane) * number.load(f, isa, head.at(2 * ROWS * i), "f16", lanes)
                for i, place in enumerate(places)
            ]
        return values[0], values[1] if self.has_minimum else None


def _bytes(place: Value, lane: Value | None) -> Value:
    """Signed bytes as f32."""
    if lane is None:
        return place.load(vector(I8)).to(I32V).to(F32V)
    return place.load(I8).to(I32).to(F32)


def _moved(bits: Value, left: int) -> Value:
    return bits << left if left >= 0 else bits >> -left


LAYOUTS = {
    "q4_0": BlockLayout(4, zero=8),
    "q4_1": BlockLayout(4, has_minimum=True),
    "q8_0": BlockLayout(8, zero=128),
    "q4_K": BlockLayout(4, has_minimum=True, is_nested=True),
    "q5_K": BlockLayout(5, has_minimum=True, is_nested=True),
    "q6_K": BlockLayout(6, zero=32, group=16, is_nested=True),
}
"""By format. Minimums are added: q4_K's and q5_K's factors are negated while packing."""
