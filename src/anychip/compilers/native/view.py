"""What a value of the program is while planning: known numbers, or a strided view of a place."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from anychip.compilers.native.kernels.pointwise import dense_strides
from anychip.compilers.native.plan import Buffer, Constant, Outside, PackedWeight

FLOATS = ("f32", "bf16", "f16")
Shape = tuple[int, ...]


class NoKernel(Exception):
    """This op, as it stands here, has no kernel; the text says why."""


@dataclass(frozen=True)
class Raw:
    """A weight argument as the module has it, not yet in any packed order."""

    argument: str
    element: str
    shape: Shape


@dataclass(frozen=True)
class View:
    """Elements of a place. Strides and offset count elements; f32 also stands for narrower
    activation types, which stay f32 between kernels. `version` counts a state's updates."""

    place: Buffer | Constant | Outside | PackedWeight | Raw
    element: str
    shape: Shape
    strides: Shape
    offset: int = 0
    version: int = 0

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def reach(self) -> int:
        """Elements its outermost dimension steps through: as many as the place has when no row is
        left out, fewer when it is some rows only."""
        return max((s * d for s, d in zip(self.strides, self.shape, strict=True)), default=1)

    @property
    def is_dense(self) -> bool:
        """Row-major and without gaps."""
        return self._moving == tuple(
            s for s, d in zip(dense_strides(self.shape), self.shape, strict=True) if d > 1
        )

    @property
    def _moving(self) -> Shape:
        return tuple(s for s, d in zip(self.strides, self.shape, strict=True) if d > 1)

    def reshaped(self, shape: Shape) -> View | None:
        """The same elements in another shape, or None when only a copy could be that."""
        model = np.lib.stride_tricks.as_strided(np.empty(1, np.uint8), self.shape, self.strides)
        try:
            strides = np.reshape(model, shape, copy=False).strides
        except ValueError:
            return None
        return replace(self, shape=shape, strides=tuple(strides))

    def transposed(self, order: Shape) -> View:
        return replace(
            self,
            shape=tuple(self.shape[i] for i in order),
            strides=tuple(self.strides[i] for i in order),
        )

    def sliced(self, start: Shape, limit: Shape, step: Shape) -> View:
        return replace(
            self,
            shape=tuple(-(-(b - a) // s) for a, b, s in zip(start, limit, step, strict=True)),
            strides=tuple(a * b for a, b in zip(self.strides, step, strict=True)),
            offset=self.offset + sum(a * b for a, b in zip(start, self.strides, strict=True)),
        )

    def broadcast(self, shape: Shape, dims: Shape) -> View:
        """This view's dimension i as the result's dims[i], all others repeated."""
        strides = [0] * len(shape)
        for own, dim in enumerate(dims):
            strides[dim] = self.strides[own] if self.shape[own] == shape[dim] else 0
        return replace(self, shape=shape, strides=tuple(strides))

    def rows(self) -> tuple[int, int] | None:
        """(how many, elements between) rows of the last dimension; None when not evenly apart."""
        if self.shape[-1] > 1 and self.strides[-1] != 1:
            return None
        count = math.prod(self.shape[:-1])
        flat = self.reshaped((count, self.shape[-1]))
        if flat is None:
            return None
        return count, flat.strides[0] if count > 1 else self.shape[-1]


def dense(place: Buffer | Constant | Outside | Raw, element: str, shape: Shape) -> View:
    return View(place, element, shape, dense_strides(shape))
