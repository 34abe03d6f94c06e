"""Products with weights in f32, bf16 or f16, widened as they are read: memory sets the pace.

A tile is 16 rows; it holds, column after column, the sixteen rows' numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from anychip.compilers.native.ir import F32, F32V, Function, Value
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import number
from anychip.compilers.native.kernels.ahead import ask_ahead
from anychip.compilers.native.kernels.passes import in_passes
from anychip.compilers.native.kernels.store import store_tile

_CHAINS = 2
"""Independent sums of a token, to hide the multiply-add's latency; as many however many tokens go
along, so that these do not change its numbers."""


@dataclass(frozen=True)
class DenseMatmul:
    """out f32[tokens, rows] = x f32[tokens, depth] · Wᵀ (+ residual). A unit is 16 rows."""

    element: str
    rows: int
    depth: int
    tokens: int
    stride: int
    has_residual: bool = False

    is_light, row_local, piece = False, False, 1

    @property
    def name(self) -> str:
        residual = "_add" if self.has_residual else ""
        shape = f"{self.tokens}x{self.depth}x{self.rows}_{self.stride}"
        return f"matmul_{self.element}_{shape}{residual}"

    @property
    def units(self) -> int:
        return -(-self.rows // 16)

    @property
    def operands(self) -> tuple[str, ...]:
        return ("weights", "x", *(["residual"] if self.has_residual else []), "out")

    @property
    def packed_bytes(self) -> int:
        return self.units * 16 * self.depth * number.SIZES[self.element]

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        size = number.SIZES[self.element]
        with f.loop(first, last) as tile:
            weights = f.arguments["weights"].at(tile * (16 * size * self.depth))
            in_passes(f, self.tokens, partial(self._some, f, isa, tile, weights))

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
        """`count` tokens through a row of tiles, for the first time or once more."""
        size = number.SIZES[self.element]
        chains = _CHAINS
        x = f.arguments["x"].at(token * (4 * self.stride))
        sums = [[f.cell(f.constant(F32V, 0.0)) for _ in range(chains)] for _ in range(count)]

        def column(at: Value, chain: int) -> None:
            w = number.load(f, isa, weights.at(at * (16 * size)), self.element)
            for t in range(count):
                one = x.at(at * 4).at(4 * t * self.stride).load(F32).splat()
                sums[t][chain].value = f.fma(w, one, sums[t][chain].value)

        even = self.depth // chains * chains
        with f.loop(0, even, chains) as at:
            if is_first:
                for line in range(0, chains * 16 * size, 64):
                    ask_ahead(f, weights.at(at * (16 * size)).at(line))
            for chain in range(chains):
                column(at + chain, chain)
        for at in range(even, self.depth):
            column(f.i64(at), 0)
        for t, parts in enumerate(sums):
            total = parts[0].value
            for part in parts[1:]:
                total = total + part.value
            store_tile(f, self, tile, token + t, total)
