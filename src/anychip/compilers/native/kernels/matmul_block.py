"""Products with weights in blocks (layout.py), activations in 8 bits: y = W x in whole numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from anychip.compilers.native.ir import F32, F32V, I32, I32V, Cell, Function, Value
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import matmul_tiles
from anychip.compilers.native.kernels.ahead import ask_ahead
from anychip.compilers.native.kernels.dot import dot, is_signed
from anychip.compilers.native.kernels.layout import COLUMNS, LAYOUTS, ROWS
from anychip.compilers.native.kernels.passes import in_passes
from anychip.compilers.native.kernels.quantize import (
    BIAS_AT,
    FEWEST_TILED,
    GROUP,
    META_BYTES,
    depth64,
    is_tiled,
    record_bytes,
)
from anychip.compilers.native.kernels.store import store_tile

_DEEP, _TOGETHER = 4096, 2
"""Columns from which rows of tiles are taken in pairs. Measured: 13 % faster at 8,192 columns, some
percent slower at 2,048 and below."""


@dataclass(frozen=True)
class BlockMatmul:
    """out f32[tokens, rows] = x · Wᵀ (+ residual). A unit is 16 rows, or some
    times that (`together`).

    Operands: packed weights, x as `quantize` records, the residual when there is one, out.
    """

    format: str
    rows: int
    depth: int
    tokens: int
    has_residual: bool = False

    is_light, row_local = False, False

    @property
    def name(self) -> str:
        residual = "_add" if self.has_residual else ""
        return f"matmul_{self.format}_{self.tokens}x{self.depth}x{self.rows}{residual}"

    @property
    def code(self) -> BlockMatmul:
        """The product whose code is this one's, too: of one token, whole rows of tiles differ by
        how many there are, which whoever calls says."""
        is_free = self.tokens == 1 and self.rows % ROWS == 0
        return replace(self, rows=ROWS * self.together) if is_free else self

    @property
    def units(self) -> int:
        return -(-self.rows // ROWS) // self.together

    @property
    def piece(self) -> int:
        return matmul_tiles.STRIP if self.tokens >= FEWEST_TILED else 1

    @property
    def operands(self) -> tuple[str, ...]:
        return ("weights", "x", *(["residual"] if self.has_residual else []), "out")

    @property
    def packed_bytes(self) -> int:
        return -(-self.rows // ROWS) * self._row_bytes

    @property
    def _blocks(self) -> int:
        return depth64(self.depth) // COLUMNS

    @property
    def together(self) -> int:
        """Rows of tiles that one token goes through at once.

        While a deep matrix streams by, x would be gone from the nearest cache at the next row of
        tiles; so it is used for some of them at once.
        """
        tiles = -(-self.rows // ROWS)
        is_deep = self.tokens == 1 and self.depth >= _DEEP
        return _TOGETHER if is_deep and tiles % _TOGETHER == 0 else 1

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        if is_tiled(isa, self.tokens):
            matmul_tiles.emit(f, isa, self, LAYOUTS[self.format], first, last)
            return
        with f.loop(first * self.together, last * self.together, self.together) as tile:
            weights = f.arguments["weights"].at(tile * self._row_bytes)
            in_passes(f, self.tokens, partial(self._some, f, isa, tile, weights))

    @property
    def _row_bytes(self) -> int:
        """Of one row of tiles."""
        return LAYOUTS[self.format].row_bytes(self._blocks)

    def _some(
        self,
        f: Function,
        isa: Isa,
        tile: Value,
        weights: Value,
        token: Value,
        count: int,
        is_first: bool,
    ) -> None:
        """`count` tokens through `together` rows of tiles, block by block, for the first time or
        once more."""
        layout, stride = LAYOUTS[self.format], record_bytes(self.depth)
        x = f.arguments["x"].at(token * stride)
        zero = f.constant(F32V, 0.0)
        rows = range(self.together)
        sums = [[f.cell(zero) for _ in range(count)] for _ in rows]
        with f.loop(0, self._blocks) as block:
            quants = x.at(block * COLUMNS)
            meta = x.at(depth64(self.depth)).at(block * (COLUMNS // GROUP * META_BYTES))
            for row in rows:
                own = weights.at(row * self._row_bytes)
                w = layout.tile(own, block)
                if is_first:
                    for line in range(0, layout.tile_bytes, 64):
                        ask_ahead(f, w.at(line))
                for group in range(layout.groups):
                    scales = layout.scales(f, isa, own, block, group)
                    self._group(f, isa, w, scales, quants, meta, group, sums[row])
        for row in rows:
            for index, one in enumerate(sums[row]):
                store_tile(f, self, tile + row, token + index, one.value)

    def _group(
        self,
        f: Function,
        isa: Isa,
        w: Value,
        scales: tuple[Value, Value | None],
        quants: Value,
        meta: Value,
        group: int,
        sums: list[Cell],
    ) -> None:
        """Columns of one scale: whole-number products, then one scaling a row and token.

        Groups are added up in order whatever `count` is, so a token's numbers do not depend on how
        many others go along. A token alone has two chains of whole numbers, to hide latency.
        """
        layout, stride = LAYOUTS[self.format], record_bytes(self.depth)
        zero = f.constant(I32V, 0)
        tokens = range(len(sums))
        metas = [meta.at(t * stride + group * layout.group // GROUP * META_BYTES) for t in tokens]
        if layout.zero and not is_signed(isa, layout.bits):
            at = BIAS_AT[layout.zero] + 4 * (group * layout.group % GROUP // 16)
            whole = [metas[t].at(at).load(I32).splat() for t in tokens]
        else:
            whole = [zero for _ in tokens]
        second = [zero] if len(sums) == 1 else whole
        first, count = group * layout.group // 4, layout.group // 4
        for index, part in enumerate(layout.quartets(w, first, count)):
            target = second if index % 2 else whole
            for t in tokens:
                four = quants.at(t * stride + 4 * (first + index))
                target[t] = dot(f, isa, target[t], part, four, layout.bits)
        scale, least = scales
        for t in tokens:
            number = (whole[t] if second is whole else whole[t] + second[t]).to(F32V)
            value = f.fma(scale * metas[t].load(F32).splat(), number, sums[t].value)
            if least is not None:
                value = f.fma(least, metas[t].at(4).load(F32).splat(), value)
            sums[t].value = value
