"""How far two answers may lie apart: one table, element type → (rtol, atol), widened by sums."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anychip.core.dtypes import DTYPES, DType, dtype

_EPS_MULTIPLES = 16
"""Relative tolerance in units of the type's epsilon: room for a few roundings and for library
functions that differ in the last bits."""


def _table() -> dict[str, tuple[float, float]]:
    rows: dict[str, tuple[float, float]] = {}
    for name, element in DTYPES.items():
        if element.kind in ("float", "complex"):
            eps = float(_finfo(element).eps) if name != "f8E8M0FNU" else 1.0
            # A format with few bits may differ by one rounding step, not by sixteen.
            multiple = _EPS_MULTIPLES if eps < 1e-4 else 2
            rows[name] = (multiple * eps, multiple * eps)
        else:
            rows[name] = (0.0, 0.0)
    return rows


def _finfo(element: DType):
    import ml_dtypes

    return ml_dtypes.finfo(element.numpy)


TOLERANCE: dict[str, tuple[float, float]] = _table()


def tolerance(element: str | np.dtype, reduced: int = 1) -> tuple[float, float]:
    """(rtol, atol) for results of this type behind sums of `reduced` terms.

    Rounding errors of a sum grow like the square root of its length when they are independent
    (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §4.2). Integers are exact.
    """
    rtol, atol = TOLERANCE[dtype(element).name]
    growth = math.sqrt(max(1, reduced))
    return rtol * growth, atol * growth


@dataclass(frozen=True)
class Mismatch:
    """Where two results differ, and by how much."""

    result: int
    where: tuple[int, ...]
    got: object
    want: object
    wrong: int
    of: int

    def __str__(self) -> str:
        return (
            f"result {self.result}: {self.wrong} of {self.of} elements differ; "
            f"the worst at {list(self.where)} is {self.got}, should be {self.want}"
        )


def mismatch(
    got: Sequence[np.ndarray], want: Sequence[np.ndarray], reduced: int = 1
) -> Mismatch | str | None:
    """The first difference beyond tolerance, or None. NaNs are equal, infinities must agree.

    The element type of `got` sets the tolerance. A difference in number, shape or type is a str.
    """
    if len(got) != len(want):
        return f"{len(got)} results, should be {len(want)}"
    for index, (g, w) in enumerate(zip(got, want, strict=True)):
        if g.shape != w.shape or g.dtype != w.dtype:
            return f"result {index} is {g.dtype}{list(g.shape)}, should be {w.dtype}{list(w.shape)}"
        found = _worst(index, g, w, reduced)
        if found is not None:
            return found
    return None


def _worst(index: int, got: np.ndarray, want: np.ndarray, reduced: int) -> Mismatch | None:
    rtol, atol = tolerance(got.dtype, reduced)
    kind = dtype(got.dtype).kind
    if kind not in ("float", "complex"):
        different = got != want
        error = different.astype(np.float64)
    else:
        wide = np.complex128 if kind == "complex" else np.float64
        g, w = got.astype(wide), want.astype(wide)
        with np.errstate(invalid="ignore", over="ignore"):
            same = (g == w) | (np.isnan(g) & np.isnan(w))
            error = np.where(same, 0.0, np.abs(g - w))
            different = ~(error <= atol + rtol * np.abs(w)) & ~same
            different |= ~same & ~np.isfinite(w)
    if not different.any():
        return None
    error = np.where(np.isnan(error), np.inf, error)
    where = np.unravel_index(int(np.argmax(np.where(different, error, -1.0))), got.shape)
    place = tuple(int(i) for i in where)
    return Mismatch(index, place, got[place], want[place], int(different.sum()), got.size)
