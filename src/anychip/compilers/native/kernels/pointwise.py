"""Arithmetic on numbers at the same place of several arrays, broadcast or strided."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from anychip.compilers.native.ir import Function, Value
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import number

Formula = Callable[..., Value]


def _swiglu(f: Function, gate: Value, up: Value, alpha: float, limit: float, offset: float):
    if limit:
        high, low = (f.constant(gate.type, sign * limit) for sign in (1, -1))
        gate, up = f.smaller(gate, high), f.larger(f.smaller(up, high), low)
    up = up + offset if offset else up
    return gate * number.logistic(f, gate * alpha if alpha != 1.0 else gate) * up


def _gelu_tanh(f: Function, x: Value) -> Value:
    inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
    return x * 0.5 * (number.tanh(f, inner) + 1.0)


FORMULAS: dict[str, Formula] = {
    "copy": lambda f, x: x,
    "add": lambda f, x, y: x + y,
    "subtract": lambda f, x, y: x - y,
    "multiply": lambda f, x, y: x * y,
    "divide": lambda f, x, y: x / y,
    "maximum": lambda f, x, y: f.larger(x, y),
    "minimum": lambda f, x, y: f.smaller(x, y),
    "tanh": number.tanh,
    "logistic": number.logistic,
    "exponential": number.exp,
    "silu": lambda f, x: x * number.logistic(f, x),
    "gelu_tanh": _gelu_tanh,
    "swiglu": _swiglu,
}
"""By name: (function, values…, numbers…) → value."""

ON_INTEGERS = frozenset({"copy", "add", "subtract", "multiply"})


@dataclass(frozen=True)
class Source:
    """An operand: its element type and its strides, in elements, along the result's shape.

    A last stride that is neither 1 nor 0 makes the kernel go number by number.
    """

    element: str
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Pointwise:
    """out[shape], dense, = formula(sources…). A unit is a row: all dimensions but the last."""

    formula: str
    shape: tuple[int, ...]
    sources: tuple[Source, ...]
    numbers: tuple[float, ...] = ()
    element: str = "f32"

    is_light, piece = True, 0

    @property
    def row_local(self) -> bool:
        """Whether each operand is rows like the result's."""
        steps = [math.prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        dense = tuple(s if d > 1 else 0 for s, d in zip(steps, self.shape, strict=True))
        return all(
            tuple(s if d > 1 else 0 for s, d in zip(one.strides, self.shape, strict=True)) == dense
            for one in self.sources
        )

    @property
    def name(self) -> str:
        shape = "x".join(map(str, self.shape))
        ways = "_".join(s.element + "_".join(map(str, ("", *s.strides))) for s in self.sources)
        numbers = "_".join(f"{n:g}".replace(".", "d").replace("-", "m") for n in self.numbers)
        return f"{self.formula}_{shape}_{ways}_{numbers}"

    @property
    def units(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def operands(self) -> tuple[str, ...]:
        return (*(f"in{i}" for i in range(len(self.sources))), "out")

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        width = self.shape[-1]
        with f.loop(first, last) as row:
            bases = self.row(f, row)
            out = f.arguments["out"].at(row * (4 * width))
            is_near = all(source.strides[-1] in (0, 1) for source in self.sources)
            whole = width // 16 * 16 if is_near else 0
            if whole:
                with f.loop(0, whole, 16) as at:
                    self._part(f, isa, bases, out, at, 16)
            if width > whole:
                with f.loop(whole, width) as at:
                    self._part(f, isa, bases, out, at, 1)

    def row(self, f: Function, row: Value) -> list[Value]:
        """Where each operand's row begins."""
        return [self._base(f, i, row) for i in range(len(self.sources))]

    def _base(self, f: Function, index: int, row: Value) -> Value:
        source = self.sources[index]
        size = number.SIZES[source.element]
        offset, rest = f.i64(0), row
        for dim in reversed(range(len(self.shape) - 1)):
            place = rest % self.shape[dim] if dim else rest
            rest = rest // self.shape[dim]
            if source.strides[dim]:
                offset = offset + place * (source.strides[dim] * size)
        return f.arguments[f"in{index}"].at(offset)

    def _part(
        self, f: Function, isa: Isa, bases: list[Value], out: Value, at: Value, lanes: int
    ) -> None:
        out.at(at * 4).store(self.numbers_at(f, isa, bases, at, lanes))

    def numbers_at(
        self, f: Function, isa: Isa, bases: list[Value], at: Value, lanes: int = 16
    ) -> Value:
        """`lanes` results of a row from `at` on."""
        values: list[Value] = []
        for base, source in zip(bases, self.sources, strict=True):
            if source.strides[-1] == 0:
                one = number.load(f, isa, base, source.element, 1)
                values.append(one.splat(lanes) if lanes > 1 else one)
            else:
                where = base.at(at * (source.strides[-1] * number.SIZES[source.element]))
                values.append(number.load(f, isa, where, source.element, lanes))
        return FORMULAS[self.formula](f, *values, *self.numbers)


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    return tuple(reduce(lambda a, b: a * b, shape[i + 1 :], 1) for i in range(len(shape)))
