"""RMS normalisation of rows (the composite anychip.rms_norm)."""

from __future__ import annotations

from dataclasses import dataclass

from anychip.compilers.native.ir import F32V, Function, Value
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import number


@dataclass(frozen=True)
class RmsNorm:
    """x f32[rows, depth] (rows `stride` apart) → f32[rows, depth]. A unit is a row.

    Operands: x, the scale when `scale` names its element type, out.
    """

    rows: int
    depth: int
    stride: int
    eps: float
    offset: float = 0.0
    scale: str = ""

    is_light, row_local, piece = True, True, 0

    @property
    def name(self) -> str:
        return f"rms_norm_{self.rows}x{self.depth}_{self.stride}_{self.scale}"

    @property
    def units(self) -> int:
        return self.rows

    @property
    def operands(self) -> tuple[str, ...]:
        return ("x", *(["scale"] if self.scale else []), "out")

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        vectors, rest = divmod(self.depth, 16)
        with f.loop(first, last) as row:
            x = f.arguments["x"].at(row * (4 * self.stride))
            out = f.arguments["out"].at(row * (4 * self.depth))
            squares = f.cell(f.constant(F32V, 0.0))
            with f.loop(0, vectors) as i:
                part = x.at(i * 64).load(F32V)
                squares.value = f.fma(part, part, squares.value)
            total = f.total(squares.value)
            for i in range(self.depth - rest, self.depth):
                one = number.load(f, isa, x.at(4 * i), "f32", 1)
                total = f.fma(one, one, total)
            mean = total * (1.0 / self.depth) + self.eps
            factor = f.f32(1.0) / f.root(mean)
            with f.loop(0, vectors) as i:
                self._scaled(f, isa, x, out, i * 16, factor, 16)
            for i in range(self.depth - rest, self.depth):
                self._scaled(f, isa, x, out, f.i64(i), factor, 1)

    def _scaled(
        self, f: Function, isa: Isa, x: Value, out: Value, at: Value, factor: Value, lanes: int
    ) -> None:
        if lanes > 1:
            factor = factor.splat(lanes)
        value = number.load(f, isa, x.at(at * 4), "f32", lanes) * factor
        if self.scale:
            where = f.arguments["scale"].at(at * number.SIZES[self.scale])
            scale = number.load(f, isa, where, self.scale, lanes)
            value = value * (scale + self.offset if self.offset else scale)
        number.store(f, isa, out.at(at * 4), value, "f32", lanes)
