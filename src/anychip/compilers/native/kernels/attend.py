"""Online softmax (arXiv:2205.14135) of some queries over one head's cached keys, sixteen at a time:
what attention over a cache in one piece and over a cache in pages have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anychip.compilers.native.ir import F32, F32V, I64, Cell, Function, Value, vector
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import number

_REGISTERS = 24
"""Vectors of queries and sums held at once."""
_LOWEST = -1e30


@dataclass(frozen=True)
class Rows:
    """Sixteen keys or values. Whoever reads one asks for the one that stands in its place among the
    sixteen `following`: one by one, for the machine can have only so many lines on their way, and
    of pages, and of short caches, it cannot guess in time what will be read.
    """

    f: Function
    at: Callable[[Value | int], Value]
    following: Value
    nbytes: int

    def row(self, j: Value | int) -> Value:
        ahead = self.following.at(j * self.nbytes)
        for offset in range(0, self.nbytes, 64):
            self.f.prefetch(ahead.at(offset))
        return self.at(j)


@dataclass(frozen=True)
class Block:
    """Sixteen keys and their values."""

    keys: Rows
    values: Rows


@dataclass(frozen=True)
class Seen:
    """Keys to go through, `low` to `high`, and those of them that are visible: from `lowest`, where
    there is a window, up to but not `end`."""

    low: Value
    high: Value
    lowest: Value | None
    end: Value


def visible(
    f: Function, position: Value, end: Value, window: int, chunk: Value, chunks: int
) -> Seen:
    """What a query at `position` sees of keys before `end`, cut into blocks for `chunks`."""
    lowest = f.i64(0)
    if window:
        lowest = position - (window - 1)
        lowest = f.select(lowest < 0, f.i64(0), lowest)
    begin = lowest // 16
    blocks = (end + 15) // 16 - begin
    blocks = f.select(blocks < 0, f.i64(0), blocks)
    low = (begin + blocks * chunk // chunks) * 16
    high = (begin + blocks * (chunk + 1) // chunks) * 16
    return Seen(low, high, lowest if window else None, end)


@dataclass(frozen=True)
class Softmax:
    """Of `rows`, scaled query vectors. `out_row` f32 numbers are written for each: the result, or
    when the keys are one of several chunks, `width` sums, then sixteen times the maximum, then
    sixteen parts of the softmax's denominator."""

    f: Function
    isa: Isa
    element: str
    width: int
    value_width: int
    softcap: float

    @property
    def together(self) -> int:
        """How many rows are held at once."""
        return max(1, _REGISTERS // ((self.width + self.value_width) // 16))

    def row(self, q: Value, scale: float) -> list[Value]:
        return [q.at(64 * i).load(F32V) * scale for i in range(self.width // 16)]

    def write(
        self,
        rows: Sequence[list[Value]],
        seen: Seen,
        block: Callable[[Value], Block],
        outs: Sequence[Value],
        is_partial: bool,
    ) -> None:
        """Go through the keys, `block(first)` of them at a time, and write each row's result."""
        f, parts = self.f, self.value_width // 16
        top = [f.cell(f.constant(F32V, _LOWEST)) for _ in rows]
        mass = [f.cell(f.constant(F32V, 0.0)) for _ in rows]
        sums = [[f.cell(f.constant(F32V, 0.0)) for _ in range(parts)] for _ in rows]
        shares = [f.room(64) for _ in rows]
        with f.loop(seen.low, seen.high, 16) as slot:
            here = block(slot)
            index = slot.splat() + f.constant(vector(I64), range(16))
            sees = index < seen.end.splat()
            if seen.lowest is not None:
                sees = Value(f, f.builder.and_(sees.raw, (seen.lowest.splat() <= index).raw))
            scored = self._scores(rows, here)
            weights = [
                self._weigh(scores, sees, t, m, own)
                for scores, t, m, own in zip(scored, top, mass, sums, strict=True)
            ]
            for kept, weight in zip(shares, weights, strict=True):
                kept.store(weight, align=64)
            with f.loop(0, 16, 4) as begin:
                for j in range(4):
                    part_of = number.row_reader(
                        f, self.isa, here.values.row(begin + j), self.element
                    )
                    for i in range(parts):
                        part = part_of(i)
                        for kept, own in zip(shares, sums, strict=True):
                            one = kept.at(begin * 4).at(4 * j).load(F32).splat()
                            own[i].value = f.fma(one, part, own[i].value)
        for out, t, m, own in zip(outs, top, mass, sums, strict=True):
            self._finish(out, t.value, m.value, [one.value for one in own], is_partial)

    def _weigh(self, scores: Value, sees: Value, top: Cell, mass: Cell, sums: list[Cell]) -> Value:
        """Sixteen keys' weights; what was added up before shrinks to the new maximum."""
        f = self.f
        if self.softcap:
            scores = number.tanh(f, scores * (1 / self.softcap)) * self.softcap
        scores = f.select(sees, scores, f.constant(F32V, _LOWEST))
        best = f.larger(top.value, f.largest(scores).splat())
        shrink = number.exp(f, top.value - best)
        weight = f.select(sees, number.exp(f, scores - best), f.constant(F32V, 0.0))
        top.value = best
        mass.value = f.fma(mass.value, shrink, weight)
        for one in sums:
            one.value = one.value * shrink
        return weight

    def _finish(
        self, out: Value, top: Value, mass: Value, sums: list[Value], is_partial: bool
    ) -> None:
        if not is_partial:
            scale = inverse(self.f, mass)
            sums = [one * scale for one in sums]
        for i, one in enumerate(sums):
            out.at(64 * i).store(one)
        if is_partial:
            out.at(4 * self.value_width).store(top)
            out.at(4 * self.value_width + 64).store(mass)

    def _scores(self, rows: Sequence[list[Value]], here: Block) -> list[Value]:
        """Each row with sixteen keys. Partial sums fold pairwise: lanes end in key order."""

        def folded(first: int, count: int) -> list[Value]:
            if count == 1:
                part_of = number.row_reader(self.f, self.isa, here.keys.row(first), self.element)
                loaded = [part_of(i) for i in range(self.width // 16)]
                return [_products(self.f, row, loaded) for row in rows]
            half = count // 2
            pairs = zip(folded(first, half), folded(first + half, half), strict=True)
            return [_fold(a, b, 16 // half) for a, b in pairs]

        return folded(0, 16)


def inverse(f: Function, mass: Value) -> Value:
    """One over the softmax's denominator; a query that sees nothing gets zeros, not NaN."""
    return (f.f32(1.0) / f.larger(f.total(mass), f.f32(1e-37))).splat()


def _products(f: Function, row: list[Value], key: list[Value]) -> Value:
    made = row[0] * key[0]
    for a, b in zip(row[1:], key[1:], strict=True):
        made = f.fma(a, b, made)
    return made


def _fold(a: Value, b: Value, width: int) -> Value:
    """Groups of `width` lanes, a's then b's, each halved by adding its upper half to its lower."""
    lanes = [g * width + i for g in range(32 // width) for i in range(width // 2)]
    return a.take(lanes, b) + a.take([lane + width // 2 for lane in lanes], b)
