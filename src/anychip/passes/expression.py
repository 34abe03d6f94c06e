"""Reading a block as expressions: who makes a value, what number it holds, what was spread.

What a matcher has looked at it notes in `inside`: the ops that its pattern is made of.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anychip.ops.reducer import monoid
from anychip.ops.view import Block, OpView, Value

_FREE = ("stablehlo.constant", "stablehlo.iota")
"""Copied into a pattern's body, whoever else reads them."""
_SPREADING = ("stablehlo.broadcast_in_dim", "stablehlo.reshape")


@dataclass
class Expressions:
    """One block. `makers` gives the place of the op that makes a value.

    What is `shared` others may read too: it is copied into the pattern, and stays for them.
    """

    block: Block
    inside: set[int] = field(default_factory=set[int])
    shared: set[int] = field(default_factory=set[int])

    def __post_init__(self) -> None:
        self.makers = {v: i for i, op in enumerate(self.block.ops) for v in op.results}

    @contextmanager
    def attempt(self) -> Generator[None]:
        """Forget what was noted inside when a match fails (a `Mismatch`)."""
        before = set(self.inside)
        try:
            yield
        except Mismatch:
            self.inside = before
            raise

    @contextmanager
    def shared_with_others(self) -> Generator[None]:
        """What is noted meanwhile is shared, unless it was noted before."""
        before = set(self.inside)
        yield
        self.shared |= self.inside - before

    def peek(self, value: Value) -> OpView | None:
        index = self.makers.get(value)
        return None if index is None else self.block.ops[index]

    def op(self, value: Value, *names: str) -> OpView:
        """The op that makes it, which must be one of those (without their dialect)."""
        made = self.peek(value)
        if made is None or made.name.partition(".")[2] not in names:
            raise Mismatch
        self.inside.add(self.makers[value])
        return made

    def number(self, value: Value) -> float:
        """The one number that a constant, however spread, holds."""
        seen: list[int] = []
        while (made := self.peek(value)) is not None:
            seen.append(self.makers[value])
            if made.name == "stablehlo.constant":
                array = np.asarray(made.attributes["value"])
                if not array.size or not (array == array.reshape(-1)[0]).all():
                    raise Mismatch
                self.inside.update(seen)
                return float(array.reshape(-1)[0])
            if made.name.partition(".")[2] not in ("broadcast_in_dim", "reshape", "convert"):
                raise Mismatch
            value = made.operands[0]
        raise Mismatch

    def split(self, op: OpView) -> tuple[float, Value]:
        """(number, other operand) of an op of two operands, in whichever order."""
        a, b = op.operands
        for number, other in ((a, b), (b, a)):
            try:
                with self.attempt():
                    return self.number(number), other
            except Mismatch:
                continue
        raise Mismatch

    def spread(self, value: Value, dims: Sequence[int]) -> Value:
        """What was broadcast to `value`: its dimensions lie at `dims`, or it has ones elsewhere."""
        at: list[int | None] = list(range(len(value.spec.shape)))  # where our dimensions lie
        while True:
            sizes = value.spec.shape
            wide = [d for d, size in zip(at, sizes, strict=True) if size != 1]
            fits = wide == [d for d in dims if d in wide]
            if fits and len(sizes) == len(dims):
                return value
            made = self.peek(value)
            if made is None or made.name not in _SPREADING:
                if fits:
                    return value
                raise Mismatch
            self.op(value, "broadcast_in_dim", "reshape")
            (value,) = made.operands
            if made.name == "stablehlo.broadcast_in_dim":
                at = [at[d] for d in made.attributes["broadcast_dimensions"]]
                continue
            if [s for s in sizes if s != 1] != [s for s in value.spec.shape if s != 1]:
                raise Mismatch
            places = iter(wide)
            at = [next(places) if size != 1 else None for size in value.spec.shape]

    def reduced(self, value: Value, how: str, start: float) -> tuple[Value, int]:
        """(operand, dimension) of a reduction of one operand along one dimension."""
        made = self.op(value, "reduce")
        dims = made.attributes["dimensions"]
        if len(made.operands) != 2 or len(dims) != 1:
            raise Mismatch
        if monoid(made.regions[0]) != f"stablehlo.{how}" or self.number(made.operands[1]) != start:
            raise Mismatch
        return made.operands[0], int(dims[0])

    def kept(self, value: Value, how: str, start: float) -> tuple[Value, int]:
        """As `reduced`, of a reduction that was spread along that dimension again.

        Between the two the reduced values may have been scaled: the caller looks at those first.
        """
        rank = len(value.spec.shape)
        for dim in range(rank):
            others = [d for d in range(rank) if d != dim]
            try:
                with self.attempt():
                    operand, found = self.reduced(self.spread(value, others), how, start)
                    if found == dim:
                        return operand, dim
            except Mismatch:
                continue
        raise Mismatch

    def same(self, a: Value, b: Value) -> bool:
        """Whether two values are made alike from the same ones; if so, how is noted."""
        made: set[int] = set()
        if not self._alike(a, b, 6, made):
            return False
        self.inside |= made
        return True

    def _alike(self, a: Value, b: Value, depth: int, made: set[int]) -> bool:
        if a is b:
            return True
        one, other = self.peek(a), self.peek(b)
        if one is None or other is None or not depth or one.name != other.name:
            return False
        if len(one.operands) != len(other.operands) or a.spec != b.spec:
            return False
        if [monoid(r) for r in one.regions] != [monoid(r) for r in other.regions]:
            return False
        if None in [monoid(r) for r in one.regions]:
            return False
        if not _equal(dict(one.attributes), dict(other.attributes)):
            return False
        made |= {self.makers[a], self.makers[b]}
        return all(
            self._alike(x, y, depth - 1, made)
            for x, y in zip(one.operands, other.operands, strict=True)
        )

    def closed(self, root: int, takes: Sequence[Value]) -> bool:
        """Whether the pattern reads nothing but `takes`, and nothing outside reads its values.

        Constants do not count; they, and whatever only spreads them, are copied.
        """
        known = {*takes} | {v for i in self.inside for v in self._results(i)}
        if any(v not in known for i in self.inside for v in self.block.ops[i].operands):
            return False
        inside = self.inside
        bound = (i for i in inside - self.shared - {root} if not self.is_free(i))
        own = {v for i in bound for v in self._results(i)}
        if own & {*self.block.results}:
            return False
        return not any(
            own & {*_reads(op)} for i, op in enumerate(self.block.ops) if i not in inside
        )

    def is_free(self, index: int) -> bool:
        """Whether this op depends on nothing but constants, through spreading only."""
        op = self.block.ops[index]
        if op.name in _FREE:
            return True
        if op.name not in ("stablehlo.broadcast_in_dim", "stablehlo.reshape", "stablehlo.convert"):
            return False
        made = self.makers.get(op.operands[0])
        return made is not None and self.is_free(made)

    def _results(self, index: int) -> Sequence[Value]:
        return self.block.ops[index].results


class Mismatch(Exception):
    """The expression is something else. Never leaves the pass."""


def _equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if a.keys() != b.keys():
        return False
    return all(np.array_equal(np.asarray(a[k], object), np.asarray(b[k], object)) for k in a)


def _reads(op: OpView) -> Iterator[Value]:
    yield from op.operands
    for region in op.regions:
        yield from region.results
        for inner in region.ops:
            yield from _reads(inner)
