"""Calibrate: fit a few physical parameters on many figures, and say how far off they are elsewhere.

The number to trust is the left-out one: a group of figures (a chip, a serving stack, a system) is
set aside, the parameters are fitted on the rest, and the group is predicted. Every figure is left
out once. Nothing here knows what the parameters mean.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from anychip.core import UsageError

T = TypeVar("T")
Values = Mapping[str, float]

SOFT = 0.1
"""Residuals (logarithms) beyond this count by their size rather than its square, so that one odd
figure does not turn the fit."""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A parameter to fit: where to begin, and what is physically possible. All above 0."""

    start: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.start <= self.high or self.low == self.high:
            raise UsageError(f"a knob needs 0 < low <= start <= high and low < high, got {self}")


def fit(
    figures: Sequence[T],
    predict: Callable[[Values, T], float],
    published: Callable[[T], float],
    knobs: Mapping[str, Knob],
) -> dict[str, float]:
    """Values of the knobs at which the logarithms of prediction over figure are smallest (soft L1).

    Deterministic: knobs are turned in logarithms from their starts, by a trust region. Raises
    UsageError when there are fewer figures than knobs.
    """
    if len(figures) < len(knobs):
        raise UsageError(f"{len(knobs)} parameters cannot be fitted on {len(figures)} figures")
    names = list(knobs)
    truth = np.log([published(one) for one in figures])

    def residuals(logs: np.ndarray) -> np.ndarray:
        values = dict(zip(names, np.exp(logs).tolist(), strict=True))
        return np.log([predict(values, one) for one in figures]) - truth

    optimise: Any = importlib.import_module("scipy.optimize")  # comes with jax; untyped
    found = optimise.least_squares(
        residuals,
        np.log([knobs[name].start for name in names]),
        bounds=(
            np.log([knobs[name].low for name in names]),
            np.log([knobs[name].high for name in names]),
        ),
        loss="soft_l1",
        f_scale=SOFT,
    )
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def errors(
    values: Values,
    figures: Sequence[T],
    predict: Callable[[Values, T], float],
    published: Callable[[T], float],
) -> np.ndarray:
    """Relative errors, signed: 0.1 is a tenth too high."""
    return np.array([predict(values, one) / published(one) - 1 for one in figures])


def fits_without(
    figures: Sequence[T],
    predict: Callable[[Values, T], float],
    published: Callable[[T], float],
    knobs: Mapping[str, Knob],
    group: Callable[[T], str],
) -> dict[str, dict[str, float]]:
    """By group: the knobs fitted on all figures but the group's own.

    Raises UsageError when there is one group only: then nothing can be left out.
    """
    names = sorted({group(one) for one in figures})
    if len(names) < 2:
        raise UsageError(f"all figures are of one group, {names}: none can be left out")
    return {
        name: fit([one for one in figures if group(one) != name], predict, published, knobs)
        for name in names
    }


def left_out(
    figures: Sequence[T],
    predict: Callable[[Values, T], float],
    published: Callable[[T], float],
    fits: Mapping[str, Values],
    group: Callable[[T], str],
) -> np.ndarray:
    """Relative error of every figure by the fit (of `fits_without`) that its group had no part in.

    What is predicted here may be another quantity than what was fitted.
    """
    return np.array([predict(fits[group(one)], one) / published(one) - 1 for one in figures])


def at_bounds(values: Values, knobs: Mapping[str, Knob]) -> list[str]:
    """Knobs that a fit turned as far as they go: the figures do not determine them."""
    return [
        name
        for name, knob in knobs.items()
        if np.isclose(values[name], [knob.low, knob.high], rtol=1e-3).any()
    ]


def half_width(relative: np.ndarray, level: float = 0.8) -> float:
    """The logarithm w such that `level` of the figures lie within a factor exp(w) of their
    prediction: the next larger order statistic, as split conformal prediction takes it (Lei et
    al., "Distribution-free predictive inference for regression", JASA 2018, section 2)."""
    distances = np.sort(np.abs(np.log1p(relative)))
    if not len(distances):
        raise UsageError("an interval needs at least one figure")
    rank = int(np.ceil(level * (len(distances) + 1)))
    return float(distances[min(rank, len(distances)) - 1])
