"""The report: every row with its error, those that cannot be expressed, and summaries."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anychip.core import Registry
from anychip.validate.baseline import baseline
from anychip.validate.energy import left_out
from anychip.validate.goals import judged
from anychip.validate.left_out import Figure, is_inside, summed
from anychip.validate.left_out import figures as left_out_figures
from anychip.validate.predict import Predictor, Skip, Value
from anychip.validate.rows import Published

SERVING_FIT = "NVIDIA aiconfigurator 0.12.0"
"""The source of the serving points that the stacks of mapper.stacks were fitted to."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A published figure beside the predicted one, both in the row's unit, and beside what the
    baseline says (None where it says nothing)."""

    row: Published
    value: Value
    used_for_fit: bool
    baseline: float | None = None

    @property
    def error(self) -> float:
        """Relative: 0.1 is a tenth too high."""
        return self.value.value / self.row.value - 1

    @property
    def is_inside(self) -> bool:
        return self.value.low <= self.row.value <= self.value.high

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.row.id,
            "chip": self.value.chip,
            "family": self.value.family,
            "model": self.value.model,
            "shards": self.value.shards,
            "how": self.value.how,
            "stack": self.row.stack,
            "metric": self.row.metric,
            "unit": self.row.unit,
            "published": self.row.value,
            "predicted": self.value.value,
            "low": self.value.low,
            "high": self.value.high,
            "error": self.error,
            "used_for_fit": self.used_for_fit,
            "baseline": self.baseline,
            "baseline_error": None if self.baseline is None else self.baseline / self.row.value - 1,
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """All rows of one or more files."""

    rows: tuple[Checked, ...]
    not_expressible: tuple[tuple[Published, str], ...]

    def to_json(self) -> dict[str, Any]:
        left = left_out_figures(self.rows)
        return {
            "rows": [one.to_json() for one in self.rows],
            "not_expressible": [{"id": row.id, "why": why} for row, why in self.not_expressible],
            "goals": judged(left),
            "left_out": left_out_summary(left),
            "summary": self.summary(),
            "energy_left_out": self.energy_left_out(),
        }

    def energy_left_out(self) -> dict[str, Any] | None:
        """Errors of energy and power with each model left out of their one fit; None where too few
        rows have any."""
        return left_out(
            [
                (one.row.id, one.value.model, one.row.metric, one.row.value, one.value.of_active)
                for one in self.rows
                if one.value.of_active is not None
            ]
        )

    def summary(self) -> list[dict[str, Any]]:
        """By family and metric: how many, median and 90th-percentile absolute relative error, and
        the share of rows inside their 80 % interval."""
        groups: dict[tuple[str, str], list[Checked]] = defaultdict(list)
        for one in self.rows:
            groups[one.value.family, one.row.metric].append(one)
        return [
            {"family": family, "metric": metric, **figures(some), "baseline": beside(some)}
            for (family, metric), some in sorted(groups.items())
        ]


def left_out_summary(left: Sequence[Figure]) -> list[dict[str, Any]]:
    """By family and metric: errors and coverage on systems that had no part in any fit."""
    inside = is_inside(left)
    groups: dict[tuple[str, str], list[Figure]] = defaultdict(list)
    for one in left:
        groups[one.family, one.metric].append(one)
    return [
        {"family": family, "metric": metric, **summed(some, inside)}
        for (family, metric), some in sorted(groups.items())
    ]


def figures(rows: Sequence[Checked]) -> dict[str, Any]:
    """n, median and 90th-percentile absolute error, median signed error, and coverage."""
    errors = np.array([one.error for one in rows])
    return {
        "n": len(rows),
        "median_abs_error": float(np.median(np.abs(errors))),
        "p90_abs_error": float(np.percentile(np.abs(errors), 90)),
        "median_error": float(np.median(errors)),
        "coverage": float(np.mean([one.is_inside for one in rows])),
    }


def beside(rows: Sequence[Checked]) -> dict[str, Any] | None:
    """The baseline's errors on the rows it covers, and the twin's on the same; None without any."""
    pairs = [(one, one.baseline / one.row.value - 1) for one in rows if one.baseline is not None]
    if not pairs:
        return None
    its, twins = np.abs([error for _, error in pairs]), np.abs([one.error for one, _ in pairs])
    return {
        "n": len(pairs),
        "median_abs_error": float(np.median(its)),
        "p90_abs_error": float(np.percentile(its, 90)),
        "twin_median_abs_error": float(np.median(twins)),
        "twin_p90_abs_error": float(np.percentile(twins, 90)),
    }


def validate(
    rows: Iterable[Published],
    predictor: Predictor,
    progress: Callable[[str], None] | None = None,
    chips: Iterable[str] | None = None,
) -> Report:
    """Predict every row, or those of some chips. None is dropped: it ends among the rows or with
    a reason."""
    wanted = None if chips is None else set(chips)
    done: list[Checked] = []
    left: list[tuple[Published, str]] = []
    cited: dict[str, set[str]] = {}
    for row in rows:
        if progress:
            progress(row.id)
        if wanted is not None and predictor.chip_of(row) not in wanted:
            continue
        try:
            value = predictor.predict(row)
        except Skip as skip:
            left.append((row, skip.why))
            continue
        if value.chip not in cited:
            cited[value.chip] = cited_ids(predictor.registry, value.chip)
        fitted = row.id in cited[value.chip] or row.source.startswith(SERVING_FIT)
        other = baseline(row, predictor)
        done.append(Checked(row=row, value=value, used_for_fit=fitted, baseline=other))
    return Report(rows=tuple(done), not_expressible=tuple(left))


def cited_ids(registry: Registry, chip: str) -> set[str]:
    """Row ids that a chip's spec names among its sources, ranges ("GQ02-GQ04") written out."""
    folder = registry.chip(chip).folder
    text = (folder / "spec.toml").read_text(encoding="utf-8") if folder else ""
    ids = set(re.findall(r"\b[A-Z][A-Z0-9]*\d+[a-z]?\b", text))
    for prefix, low, last, high in re.findall(r"\b([A-Z]+)(\d+)p?-([A-Z]+)(\d+)p?\b", text):
        if prefix == last:
            ids |= {f"{prefix}{i:0{len(low)}d}" for i in range(int(low), int(high) + 1)}
    return ids | set(re.findall(r"\bAR-\w+-w\d+-\d+\b", text))
