"""What became of one model: how far it came, and how near its numbers are to the original's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

TOLERANCE = 1e-3
"""The largest max |Δ| / max |reference| that counts as the same numbers, in f32."""


@dataclass
class Row:
    """Filled by a builder as stages succeed; `error` is None when every target's numbers match."""

    model: str
    frontend: str = ""
    imported: bool = False
    lowered: bool = False
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    stage: str = "build"
    limit: str = ""
    ops: int = 0
    traceback: str = ""

    def compiled(self, target: str) -> None:
        self.targets[target] = {"compiled": True, "matched": False, "max_rel_err": None}

    def judge(self, target: str, error: float, tolerance: float = TOLERANCE) -> None:
        """Note the relative error on a target. Raises AssertionError when it is too large."""
        cell = self.targets[target]
        cell["max_rel_err"], cell["matched"] = error, error < tolerance
        if not cell["matched"]:
            raise AssertionError(f"{target}: max |Δ| / max |reference| is {error:.3g}")

    def to_json(self) -> dict[str, Any]:
        """Only what JSON knows: an infinite error is null."""
        made = asdict(self)
        for cell in made["targets"].values():
            error = cell["max_rel_err"]
            cell["max_rel_err"] = error if error is not None and np.isfinite(error) else None
        return made


def relative_error(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The largest max |Δ| / max |reference| over pairs of arrays; infinite where one of them is
    not finite and the other differs. Of integers: the share of those that differ.

    Raises AssertionError when the arrays are not as many, or not of the same shapes.
    """
    assert len(got) == len(wanted), f"{len(got)} results, the original has {len(wanted)}"
    return max((_error(g, w) for g, w in zip(got, wanted, strict=True)), default=0.0)


def _error(got: np.ndarray, wanted: np.ndarray) -> float:
    assert got.shape == wanted.shape, f"shape {got.shape}, the original has {wanted.shape}"
    if wanted.dtype.kind in "biu":
        return float((got != wanted).mean()) if wanted.size else 0.0
    wide = np.complex128 if wanted.dtype.kind == "c" else np.float64
    a, b = got.astype(wide), wanted.astype(wide)
    finite = np.isfinite(b)
    if not np.array_equal(np.isfinite(a), finite) or not np.array_equal(
        np.nan_to_num(a[~finite]), np.nan_to_num(b[~finite])
    ):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = float(np.abs(b[finite]).max())
    return float(np.abs(a[finite] - b[finite]).max()) / (largest or 1.0)
