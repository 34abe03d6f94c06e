"""Rotary embedding: the turns of a step's positions once, then each head by them."""

from __future__ import annotations

from dataclasses import dataclass

from anychip.compilers.native.ir import F32, F32V, I32, Function, Value
from anychip.compilers.native.isa import Isa


@dataclass(frozen=True)
class Turns:
    """positions i32[tokens], inv_freq f32[half] → f32[tokens, 2, half]: cosines, then sines.

    A unit is a token. Angles are f32 products, as the composite says.
    """

    tokens: int
    half: int

    is_light, row_local, piece = False, True, 0
    operands = ("positions", "inv_freq", "out")

    @property
    def name(self) -> str:
        return f"turns_{self.tokens}x{self.half}"

    @property
    def units(self) -> int:
        return self.tokens

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        with f.loop(first, last) as token:
            position = f.arguments["positions"].at(token * 4).load(I32).to(F32)
            out = f.arguments["out"].at(token * (8 * self.half))
            with f.loop(0, self.half) as i:
                angle = position * f.arguments["inv_freq"].at(i * 4).load(F32)
                out.at(i * 4).store(f.intrinsic("cosf", F32, angle))
                out.at((i + self.half) * 4).store(f.intrinsic("sinf", F32, angle))


@dataclass(frozen=True)
class Rope:
    """x[batch, heads, length, width] turned → f32[batch, length, heads, width], dense.

    A unit is a token. The first 2·half numbers of a head turn, the rest pass. `strides` are x's in
    elements along batch, heads, length.
    """

    batch: int
    heads: int
    length: int
    width: int
    half: int
    interleaved: bool
    strides: tuple[int, int, int]

    is_light, row_local, piece = True, True, 0
    operands = ("x", "turns", "out")

    @property
    def name(self) -> str:
        order = "pairs" if self.interleaved else "halves"
        shape = f"{self.batch}x{self.length}x{self.heads}x{self.width}_{self.half}"
        return f"rope_{order}_{shape}_{'_'.join(map(str, self.strides))}"

    @property
    def units(self) -> int:
        return self.batch * self.length

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        with f.loop(first, last) as token, f.loop(0, self.heads) as head:
            turns = f.arguments["turns"].at(token * (8 * self.half))
            place = (token // self.length, head, token % self.length)
            x = f.arguments["x"]
            for index, stride in zip(place, self.strides, strict=True):
                x = x.at(index * (4 * stride))
            out = f.arguments["out"].at((token * self.heads + head) * (4 * self.width))
            vectors = self.half // 16
            for i in range(vectors):
                self._vector(f, turns, x, out, 16 * i)
            for i in range(16 * vectors, self.half):
                self._pair(f, turns, x, out, i)
            for i in range(2 * self.half, self.width):
                out.at(4 * i).store(x.at(4 * i).load(F32))

    def _vector(self, f: Function, turns: Value, x: Value, out: Value, i: int) -> None:
        """Pairs i … i + 15."""
        cos, sin = turns.at(4 * i).load(F32V), turns.at(4 * (i + self.half)).load(F32V)
        if not self.interleaved:
            a, b = x.at(4 * i).load(F32V), x.at(4 * (i + self.half)).load(F32V)
            out.at(4 * i).store(a * cos - b * sin)
            out.at(4 * (i + self.half)).store(b * cos + a * sin)
            return
        low, high = x.at(8 * i).load(F32V), x.at(8 * i + 64).load(F32V)
        a, b = low.take(range(0, 32, 2), high), low.take(range(1, 32, 2), high)
        real, imaginary = a * cos - b * sin, b * cos + a * sin
        mixed = [lane for pair in zip(range(16), range(16, 32), strict=True) for lane in pair]
        out.at(8 * i).store(real.take(mixed[:16], imaginary))
        out.at(8 * i + 64).store(real.take(mixed[16:], imaginary))

    def _pair(self, f: Function, turns: Value, x: Value, out: Value, i: int) -> None:
        cos, sin = turns.at(4 * i).load(F32), turns.at(4 * (i + self.half)).load(F32)
        first, second = (2 * i, 2 * i + 1) if self.interleaved else (i, i + self.half)
        a, b = x.at(4 * first).load(F32), x.at(4 * second).load(F32)
        out.at(4 * first).store(a * cos - b * sin)
        out.at(4 * second).store(b * cos + a * sin)
