"""Energy with each model left out: the share of power that a busy chip draws whatever it does is
the one figure fitted on wall power (twin/family.py), so it is fitted again without each model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

GRID = np.linspace(0.0, 1.0, 51)
"""Shares tried; the error is flat enough between them."""
POWER = "system_wall_power"

Row = tuple[str, str, str, float, Callable[[float], float]]
"""(id, model, metric, published, the predicted figure at a share)."""


def left_out(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Errors of each model's rows at the share that fits the power of the others best (least mean
    absolute logarithm); None for fewer than two models with power."""
    models = list(dict.fromkeys(model for _, model, metric, *_ in rows if metric == POWER))
    if len(models) < 2:
        return None
    curves = {id: np.array([of(share) for share in GRID]) for id, *_, of in rows}

    def fit(some: Sequence[Row]) -> int:
        off = [np.abs(np.log(curves[id] / value)) for id, _, _, value, _ in some]
        return int(np.argmin(np.mean(off, axis=0)))

    done: list[dict[str, Any]] = []
    fitted: dict[str, float] = {}
    for held in models:
        best = fit([row for row in rows if row[1] != held and row[2] == POWER])
        fitted[held] = float(GRID[best])
        done += [
            {"id": id, "metric": metric, "error": float(curves[id][best] / value - 1)}
            for id, model, metric, value, _ in rows
            if model == held
        ]
    summary = {
        metric: {
            "n": len(errors),
            "median_abs_error": float(np.median(errors)),
            "max_abs_error": float(np.max(errors)),
        }
        for metric in sorted({one["metric"] for one in done})
        if (errors := [abs(one["error"]) for one in done if one["metric"] == metric])
    }
    return {"share_without": fitted, "metrics": summary, "rows": done}
