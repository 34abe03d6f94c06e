"""How far one array is from another, gathered over several runs: no targets, no models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Distance:
    """Adds up over pairs of arrays; the first of a pair is the reference. Not-a-numbers that both
    have at one place are equal."""

    max_abs: float = 0.0
    _error: float = field(default=0.0, repr=False)
    _signal: float = field(default=0.0, repr=False)

    def add(self, reference: Any, other: Any) -> None:
        a, b = (np.asarray(x).astype(np.float64) for x in (reference, other))
        with np.errstate(invalid="ignore", over="ignore"):
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            off = np.where(same, 0.0, np.abs(a - b))
        self.max_abs = max(self.max_abs, float(np.max(off, initial=0.0)))
        if np.isnan(off).any():
            self.max_abs = math.inf
        self._error += float(np.sum(np.where(np.isnan(off), np.inf, off) ** 2))
        self._signal += float(np.sum(np.where(np.isfinite(a), a, 0.0) ** 2))

    @property
    def rel(self) -> float:
        """‖a - b‖ / ‖a‖."""
        if self._error == 0:
            return 0.0
        return math.sqrt(self._error / self._signal) if self._signal else math.inf

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantisation noise, 20 log10(1 / rel); None when there is no noise."""
        if self._error == 0:
            return None
        return -20 * math.log10(self.rel) if 0 < self.rel < math.inf else -math.inf
