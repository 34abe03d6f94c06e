"""Floor plan of a wafer: a rectangle of cores for each part of the model, in snake order.

Areas are in proportion to what is stored, so every core is filled about equally; rows of
rectangles run left to right and back, so that a layer's successor is its neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from anychip.core import UnsupportedError


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """Cores of one wafer that hold one part. `core_bytes` is what the fullest core stores."""

    name: str
    wafer: int
    left: int
    top: int
    columns: int
    rows: int
    stored_bytes: float

    @property
    def cores(self) -> int:
        return self.columns * self.rows

    @property
    def core_bytes(self) -> float:
        return self.stored_bytes / self.cores

    def hops_to(self, other: Rectangle) -> int:
        """Cores a signal passes from this rectangle's middle to the other's."""
        across = abs((self.left + self.columns / 2) - (other.left + other.columns / 2))
        down = abs((self.top + self.rows / 2) - (other.top + other.rows / 2))
        return math.ceil(across + down)


@dataclass(frozen=True, kw_only=True)
class Floor:
    """All rectangles of all wafers, and the wafer they lie on."""

    rectangles: tuple[Rectangle, ...]
    columns: int
    rows: int
    core_bytes: float
    colours: int
    colours_used: int


def plan(
    parts: Sequence[tuple[str, int, float]], columns: int, rows: int, core_bytes: float
) -> tuple[Rectangle, ...]:
    """Rectangles for (name, wafer, stored bytes), in the order given.

    Of the numbers of shelves tried the one whose rectangles are nearest to squares is taken. Raises
    UnsupportedError when a core would have to hold more than it has.
    """
    found: list[Rectangle] = []
    for wafer in sorted({wafer for _, wafer, _ in parts}):
        mine = [(name, size) for name, at, size in parts if at == wafer]
        most = min(len(mine), 2 * math.isqrt(len(mine)) + 2)  # more shelves are only thinner
        plans = [_shelves(mine, wafer, columns, rows, count) for count in range(1, most + 1)]
        possible = [made for made in plans if made is not None]
        if not possible:
            raise UnsupportedError(
                f"{len(mine)} parts do not fit on {columns} by {rows} cores with one core each; "
                "use more wafers"
            )
        best = min(possible, key=_length)
        for one in best:
            if one.core_bytes > core_bytes:
                raise UnsupportedError(
                    f"{one.name} needs {one.core_bytes / 1024:.1f} KB in each of its "
                    f"{one.cores:,} cores, which have {core_bytes / 1024:.0f} KB; use more "
                    "wafers, a narrower precision, a smaller batch or a shorter context"
                )
        found += best
    return tuple(found)


def _length(made: list[Rectangle]) -> float:
    """Hops across all rectangles, which is what latency grows with."""
    return sum(one.columns + one.rows for one in made)


def _shelves(
    parts: list[tuple[str, float]], wafer: int, columns: int, rows: int, count: int
) -> list[Rectangle] | None:
    """`count` shelves whose heights follow what they hold; None when one would be too thin."""
    total = sum(size for _, size in parts)
    groups: list[list[tuple[str, float]]] = [[] for _ in range(count)]
    before = 0.0
    for name, size in parts:
        groups[min(count - 1, int((before + size / 2) / total * count))].append((name, size))
        before += size
    made: list[Rectangle] = []
    held, top = 0.0, 0
    for shelf, group in enumerate(groups):
        if not group:
            return None
        here = sum(size for _, size in group)
        held += here
        bottom = _edge(rows * held / total, top, rows, count - shelf - 1)
        edges, run = [0], 0.0
        for place, (_, size) in enumerate(group):
            run += size
            edges.append(_edge(columns * run / here, edges[-1], columns, len(group) - place - 1))
        for (name, size), left, right in zip(group, edges, edges[1:], strict=False):
            if right <= left or bottom <= top:
                return None
            made.append(
                Rectangle(
                    name=name,
                    wafer=wafer,
                    left=left if shelf % 2 == 0 else columns - right,
                    top=top,
                    columns=right - left,
                    rows=bottom - top,
                    stored_bytes=size,
                )
            )
        top = bottom
    return made


def _edge(ideal: float, before: int, end: int, after: int) -> int:
    """The next edge: at least one core from the last, with one left for each that comes after."""
    return min(max(round(ideal), before + 1), end - after)
