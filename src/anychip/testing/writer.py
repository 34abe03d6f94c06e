"""A random program being written in StableHLO, an op at a time.

Numbers stay small, and only exact ones decide branches of the arithmetic (comparisons, gathered
rows), so that a correct compiler's last bits never change a result by more than its last bits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """An SSA value. `exact`: no rounding has touched it on its way from the inputs."""

    name: str
    shape: Shape
    element: str
    exact: bool

    @property
    def type(self) -> str:
        return f"tensor<{'x'.join(map(str, (*self.shape, self.element)))}>"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Writer:
    """A program being written, a line an op."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        width, rows = rng.choice((16, 24, 33, 64)), rng.choice((1, 3, 12, 19))
        self.arguments = [
            Value("%w0", (rng.choice((8, 16, 40)), width), "f32", True),
            Value("%w1", (width,), "f32", True),
            Value("%x0", (rows, width), "f32", True),
            Value("%x1", (rng.choice((1, 2)), rows, width), "f32", True),
            Value("%i0", (rows,), "i32", True),
        ]
        self.lines: list[str] = []
        self._values = list(self.arguments)
        self._count = 0
        self._steps: list[Callable[[], None]] = [
            *([self._unary] * 2),
            *([self._binary] * 4),
            *([self._product] * 2),
            self._reshape,
            self._transpose,
            *([self._slice] * 2),
            self._broadcast,
            self._concatenate,
            self._pad,
            self._reverse,
            self._reduce,
            self._select,
            self._gather,
            self._update,
            self._constant,
            self._convert,
        ]

    def step(self) -> None:
        self._rng.choice(self._steps)()

    def results(self) -> list[Value]:
        """The last value, and some from the middle: parts of buffers that others read too."""
        made = self._values[len(self.arguments) :]
        some = self._rng.sample(made, min(len(made), self._rng.choice((1, 2, 4))))
        return list(dict.fromkeys([*some, made[-1]]))

    def _emit(self, text: str, shape: Shape, element: str, exact: bool) -> Value:
        """`text` with `{t}` for the result's type."""
        value = Value(f"%{self._count}", tuple(shape), element, exact)
        self._count += 1
        self.lines.append(f"{value.name} = stablehlo.{text.replace('{t}', value.type)}")
        self._values.append(value)
        return value

    def _pick(self, fits: Callable[[Value], bool]) -> Value | None:
        fitting = [v for v in self._values if fits(v)]
        # Half of the time one of the newest, so that programs are deep as well as broad.
        newest = fitting[-4:] if self._rng.random() < 0.5 else fitting
        return self._rng.choice(newest) if newest else None

    def _float(self, least_rank: int = 0) -> Value:
        found = self._pick(lambda v: v.element == "f32" and len(v.shape) >= least_rank)
        return found or self.arguments[2]

    def _any(self, least_rank: int = 0) -> Value:
        return self._pick(lambda v: len(v.shape) >= least_rank) or self.arguments[2]

    def _constant_of(self, number: float, element: str) -> Value:
        said = f"{number:e}" if element == "f32" else str(int(number))
        return self._emit(f"constant dense<{said}> : {{t}}", (), element, True)

    def _unary(self) -> None:
        x = self._float()
        kind = self._rng.choice(("tanh", "logistic", "negate", "abs", "cosine", "exponential"))
        if kind == "exponential":  # of something bounded
            x = self._emit(f"tanh {x.name} : {{t}}", x.shape, "f32", False)
        is_exact = x.exact and kind in ("negate", "abs")
        self._emit(f"{kind} {x.name} : {{t}}", x.shape, "f32", is_exact)

    def _binary(self) -> None:
        x = self._any()
        y = self._pick(lambda v: (v.shape, v.element) == (x.shape, x.element)) or x
        if x.element == "i1":
            kind = self._rng.choice(("and", "or", "xor"))
        elif x.element == "i32":
            kind = self._rng.choice(("add", "subtract", "maximum", "minimum"))
        else:
            kind = self._rng.choice(("add", "subtract", "maximum", "minimum", "multiply"))
        keeps = kind not in ("add", "subtract", "multiply") or x.element != "f32"
        exact = x.exact and y.exact and keeps
        made = self._emit(f"{kind} {x.name}, {y.name} : {{t}}", x.shape, x.element, exact)
        if kind in ("add", "subtract", "multiply") and x.element == "f32":
            half = self._constant_of(0.5, "f32")
            spread = self._spread(half, x.shape, ())
            self._emit(f"multiply {made.name}, {spread.name} : {{t}}", x.shape, "f32", False)
        if kind in ("add", "subtract") and x.element == "i32":
            five = self._spread(self._constant_of(5, "i32"), x.shape, ())
            self._emit(f"remainder {made.name}, {five.name} : {{t}}", x.shape, "i32", exact)

    def _product(self) -> None:
        x = self._float(1)
        weight = self._pick(lambda v: v.name == "%w0" and v.shape[-1] == x.shape[-1])
        if weight is not None:
            depth, shape = x.shape[-1], (*x.shape[:-1], weight.shape[0])
            dims = f"contracting_dims = [{len(x.shape) - 1}] x [1]"
            y = weight
        else:
            z = self._pick(
                lambda v: v.element == "f32" and len(v.shape) == 2 and v.shape[0] == x.shape[-1]
            )
            if z is None:
                return
            depth, shape, y = x.shape[-1], (*x.shape[:-1], z.shape[1]), z
            dims = f"contracting_dims = [{len(x.shape) - 1}] x [0]"
        if math.prod(shape) > 20000:
            return
        text = f"dot_general {x.name}, {y.name}, {dims} : ({x.type}, {y.type}) -> {{t}}"
        made = self._emit(text, shape, "f32", False)
        scale = self._spread(self._constant_of(1 / depth, "f32"), shape, ())
        self._emit(f"multiply {made.name}, {scale.name} : {{t}}", shape, "f32", False)

    def _reshape(self) -> None:
        x = self._any()
        factors: list[int] = []
        rest = x.size
        for prime in (2, 3, 5, 11, 19):
            while rest % prime == 0 and rest > 1:
                factors, rest = [*factors, prime], rest // prime
        self._rng.shuffle(factors)
        shape = [1] * self._rng.randint(1, 4)
        for factor in [*factors, rest]:
            shape[self._rng.randrange(len(shape))] *= factor
        text = f"reshape {x.name} : ({x.type}) -> {{t}}"
        self._emit(text, tuple(shape), x.element, x.exact)

    def _transpose(self) -> None:
        x = self._any(2)
        order = self._rng.sample(range(len(x.shape)), len(x.shape))
        text = f"transpose {x.name}, dims = {order} : ({x.type}) -> {{t}}"
        self._emit(text, tuple(x.shape[i] for i in order), x.element, x.exact)

    def _slice(self) -> None:
        x = self._any(1)
        ranges: list[tuple[int, int, int]] = []
        for size in x.shape:
            start = self._rng.randrange(size) if self._rng.random() < 0.5 else 0
            stop = self._rng.randint(start + 1, size) if self._rng.random() < 0.5 else size
            ranges.append((start, stop, self._rng.choice((1, 1, 1, 2))))
        shape = tuple(-(-(b - a) // s) for a, b, s in ranges)
        said = ", ".join(f"{a}:{b}:{s}" for a, b, s in ranges)
        text = f"slice {x.name} [{said}] : ({x.type}) -> {{t}}"
        self._emit(text, shape, x.element, x.exact)

    def _spread(self, x: Value, shape: Shape, dims: Sequence[int]) -> Value:
        said = f"[{', '.join(map(str, dims))}]"
        text = f"broadcast_in_dim {x.name}, dims = {said} : ({x.type}) -> {{t}}"
        return self._emit(text, shape, x.element, x.exact)

    def _broadcast(self) -> None:
        x = self._any()
        if len(x.shape) > 3 or x.size > 4000:
            return
        place = self._rng.randrange(len(x.shape) + 1)
        shape = [self._rng.randint(2, 5) if d == 1 else d for d in x.shape]
        shape.insert(place, self._rng.randint(1, 3))
        dims = [i for i in range(len(shape)) if i != place]
        self._spread(x, tuple(shape), dims)

    def _concatenate(self) -> None:
        x = self._any(1)
        dim = self._rng.randrange(len(x.shape))
        y = self._pick(
            lambda v: (
                v.element == x.element
                and v.shape[:dim] == x.shape[:dim]
                and v.shape[dim + 1 :] == x.shape[dim + 1 :]
                and len(v.shape) == len(x.shape)
            )
        )
        y = y or x
        shape = (*x.shape[:dim], x.shape[dim] + y.shape[dim], *x.shape[dim + 1 :])
        text = f"concatenate {x.name}, {y.name}, dim = {dim} : ({x.type}, {y.type}) -> {{t}}"
        self._emit(text, shape, x.element, x.exact and y.exact)

    def _pad(self) -> None:
        x = self._pick(lambda v: bool(v.shape) and v.element != "i1") or self.arguments[2]
        filler = self._constant_of(self._rng.choice((0, 1)), x.element)
        low = [self._rng.choice((0, 0, 1, 2)) for _ in x.shape]
        high = [self._rng.choice((0, 0, 1)) for _ in x.shape]
        inner = [self._rng.choice((0, 0, 0, 1)) for _ in x.shape]
        shape = tuple(
            a + b + s + max(s - 1, 0) * i
            for a, b, s, i in zip(low, high, x.shape, inner, strict=True)
        )
        text = (
            f"pad {x.name}, {filler.name}, low = {low}, high = {high}, interior = {inner} : "
            f"({x.type}, {filler.type}) -> {{t}}"
        )
        self._emit(text, shape, x.element, x.exact)

    def _reverse(self) -> None:
        x = self._any(1)
        dims = sorted(self._rng.sample(range(len(x.shape)), self._rng.randint(1, len(x.shape))))
        self._emit(f"reverse {x.name}, dims = {dims} : {{t}}", x.shape, x.element, x.exact)

    def _reduce(self) -> None:
        x = self._pick(lambda v: bool(v.shape) and v.element != "i1") or self.arguments[2]
        kind = self._rng.choice(("add", "maximum", "minimum"))
        dims = sorted(self._rng.sample(range(len(x.shape)), self._rng.randint(1, len(x.shape))))
        shape = tuple(d for i, d in enumerate(x.shape) if i not in dims)
        start = self._constant_of({"add": 0, "maximum": -9, "minimum": 9}[kind], x.element)
        text = (
            f"reduce({x.name} init: {start.name}) applies stablehlo.{kind} across dimensions = "
            f"{dims} : ({x.type}, {start.type}) -> {{t}}"
        )
        exact = x.exact and (kind != "add" or x.element == "i32")
        made = self._emit(text, shape, x.element, exact)
        count = math.prod(x.shape[i] for i in dims)
        if kind == "add":
            by = self._spread(self._constant_of(count, x.element), shape, ())
            self._emit(f"divide {made.name}, {by.name} : {{t}}", shape, x.element, exact)

    def _select(self) -> None:
        x = self._pick(lambda v: v.exact and v.element != "i1") or self.arguments[2]
        y = self._pick(lambda v: v.exact and (v.shape, v.element) == (x.shape, x.element)) or x
        way = self._rng.choice(("LT", "GE", "EQ", "NE"))
        kind = "FLOAT" if x.element == "f32" else "SIGNED"
        text = f"compare {way}, {x.name}, {y.name}, {kind} : ({x.type}, {y.type}) -> {{t}}"
        mask = self._emit(text, x.shape, "i1", True)
        a = self._pick(lambda v: v.shape == x.shape and v.element != "i1") or x
        b = self._pick(lambda v: (v.shape, v.element) == (a.shape, a.element)) or a
        text = f"select {mask.name}, {a.name}, {b.name} : {mask.type}, {a.type}"
        self._emit(text, a.shape, a.element, a.exact and b.exact)

    def _gather(self) -> None:
        table = self._pick(lambda v: v.element == "f32" and len(v.shape) == 2)
        rows = self._pick(lambda v: v.element == "i32" and v.exact and len(v.shape) == 1)
        if table is None or rows is None:
            return
        column = self._emit(
            f"reshape {rows.name} : ({rows.type}) -> {{t}}", (*rows.shape, 1), "i32", True
        )
        width = table.shape[1]
        text = (
            f'"stablehlo.gather"({table.name}, {column.name}) <{{dimension_numbers = '
            "#stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], "
            "start_index_map = [0], index_vector_dim = 1>, indices_are_sorted = false, "
            f"slice_sizes = array<i64: 1, {width}>}}> : ({table.type}, {column.type}) -> {{t}}"
        )
        shape = (rows.shape[0], width)
        value = Value(f"%{self._count}", shape, "f32", table.exact)
        self._count += 1
        self.lines.append(f"{value.name} = {text.replace('{t}', value.type)}")
        self._values.append(value)

    def _update(self) -> None:
        x = self._float(1)
        y = self._pick(
            lambda v: (
                v.element == "f32"
                and len(v.shape) == len(x.shape)
                and all(a <= b for a, b in zip(v.shape, x.shape, strict=True))
            )
        )
        if y is None:
            return
        starts = [self._constant_of(self._rng.randrange(4), "i32") for _ in x.shape]
        names = ", ".join(v.name for v in starts)
        kinds = ", ".join(v.type for v in starts)
        if self._rng.random() < 0.5:
            text = (
                f"dynamic_update_slice {x.name}, {y.name}, {names} : "
                f"({x.type}, {y.type}, {kinds}) -> {{t}}"
            )
            self._emit(text, x.shape, "f32", x.exact and y.exact)
        else:
            sizes = list(y.shape)
            text = (
                f"dynamic_slice {x.name}, {names}, sizes = {sizes} : ({x.type}, {kinds}) -> {{t}}"
            )
            self._emit(text, y.shape, "f32", x.exact)

    def _constant(self) -> None:
        shape = (self._rng.randint(1, 6), self._rng.choice((3, 16)))
        if self._rng.random() < 0.5:
            self._emit(f"iota dim = {self._rng.randrange(2)} : {{t}}", shape, "i32", True)
            return
        numbers = [[self._rng.randint(-8, 8) / 8 for _ in range(shape[1])] for _ in range(shape[0])]
        said = str([[f"{n:e}" for n in row] for row in numbers]).replace("'", "")
        self._emit(f"constant dense<{said}> : {{t}}", shape, "f32", True)

    def _convert(self) -> None:
        x = self._pick(lambda v: v.exact and v.element != "f32") or self.arguments[4]
        element = "f32" if x.element == "i32" or self._rng.random() < 0.5 else "i32"
        made = self._emit(f"convert {x.name} : ({x.type}) -> {{t}}", x.shape, element, True)
        if element == "f32":
            by = self._spread(self._constant_of(0.25, "f32"), x.shape, ())
            self._emit(f"multiply {made.name}, {by.name} : {{t}}", x.shape, "f32", False)
