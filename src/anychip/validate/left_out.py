"""What is left when a system had no part in any fit: the errors to trust, and what they cover.

A row is left out in one of two ways. Where a fit can be made again without the row's system, the
fit's tool did so and kept the error (`data/left_out.json`: serving stacks by `tools/calibrate.py`,
the fitted number of LPU and wafer by `bench/spatial_error.py --left-out`; a test holds it equal).
Elsewhere a row counts when no spec cites a row of its chip, model and number of chips.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anychip.twin.calibrate import half_width
from anychip.twin.left_out import left_out as own_part

if TYPE_CHECKING:
    from anychip.validate.report import Checked

KEPT = Path(__file__).parent / "data" / "left_out.json"
PREFILL = ("ttft", "ttft_p50", "prefill_tok_s")
ENERGY = ("energy_per_output_token", "system_wall_power")
FEWEST = 8
"""Figures below which a family shares the interval of all such families."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A left-out row: the logarithm of predicted over published, and of what its interval holds
    the part that the facts' ranges make. Rows of a `pool` share one interval; those of a `system`
    leave it together. `baseline` is a relative error, None where it says nothing."""

    id: str
    family: str
    metric: str
    part: str
    pool: str
    system: str
    error: float
    facts: float
    baseline: float | None

    @property
    def off(self) -> float:
        """The relative error, signed."""
        return math.expm1(self.error)


@cache
def kept() -> dict[str, float]:
    """Logarithms of predicted over published, by row id, of fits made again without the system."""
    return json.loads(KEPT.read_text(encoding="utf-8"))


def figures(rows: Sequence[Checked]) -> list[Figure]:
    """The left-out ones among the rows of a report; energy is judged apart (energy.py)."""
    fitted = {_system(one) for one in rows if one.used_for_fit}
    made = [
        _figure(one)
        for one in rows
        if one.row.metric not in ENERGY
        if one.row.id in kept() or _system(one) not in fitted
    ]
    count = Counter(one.pool for one in made)
    rare = [one.pool for one in made if one.pool.startswith("closed form") and _is_few(one, count)]
    phases = {pool: "rare " + pool.split()[-1] for pool in rare}
    return [
        Figure(**{**vars(one), "pool": phases[one.pool]}) if one.pool in phases else one
        for one in made
    ]


def _is_few(one: Figure, count: Counter[str]) -> bool:
    return count[one.pool] < FEWEST


def _system(one: Checked) -> str:
    return f"{one.value.model.split(' at ')[0]} on {one.row.chips or '?'} {one.value.chip}"


def _figure(one: Checked) -> Figure:
    error = kept().get(one.row.id)
    facts = 0.0
    phase = "prefill" if one.row.metric in PREFILL else "decode"
    if one.value.how == "closed form":
        pool = f"closed form {one.value.family} {phase}"
        facts = 0.0 if error is not None else _facts(one, phase)
    elif one.value.how == "serving" and one.row.id in kept():
        pool = f"serving {one.value.stack} {one.row.metric}"
    else:
        pool = f"{one.value.how} other {one.row.metric}"
    return Figure(
        id=one.row.id,
        family=one.value.family,
        metric=one.row.metric,
        part=_part(one),
        pool=pool,
        system=_system(one) if one.row.stack else one.value.chip,
        error=math.log(one.value.value / one.row.value) if error is None else error,
        facts=facts,
        baseline=None if one.baseline is None else one.baseline / one.row.value - 1,
    )


def _part(one: Checked) -> str:
    """What a row is of within its metric: a serving stack, an audit, a vendor's table."""
    if one.row.stack:
        return f"points of {one.value.stack}"
    if one.row.who.startswith("MLPerf"):
        return "MLPerf"
    return "vendors' tables" if one.value.how == "serving" else "batches in step"


def _facts(one: Checked, phase: str) -> float:
    """The facts' part of a row's interval, on the side of the published value."""
    error = math.log(one.value.value / one.row.value)
    end = one.value.low if error > 0 else one.value.high
    side = abs(math.log(one.value.value / end))
    own = own_part(one.value.family, "ttft_s" if phase == "prefill" else "tpot_s").half_width
    return math.sqrt(max(side * side - own * own, 0.0))


def is_inside(some: Sequence[Figure]) -> dict[str, bool]:
    """By id, whether a figure lies in the 80 % interval that the other systems of its pool give;
    those of a pool with one system only are not in the answer."""
    pools: dict[str, list[Figure]] = defaultdict(list)
    for one in some:
        pools[one.pool].append(one)
    found: dict[str, bool] = {}
    for pool in pools.values():
        for system in {one.system for one in pool}:
            others = [one for one in pool if one.system != system]
            if others:
                squares = np.array([one.error**2 - one.facts**2 for one in others])
                own = half_width(np.expm1(np.sqrt(np.maximum(squares, 0.0))))
                found |= {
                    one.id: abs(one.error) <= math.hypot(one.facts, own)
                    for one in pool
                    if one.system == system
                }
    return found


def summed(some: Sequence[Figure], inside: dict[str, bool]) -> dict[str, Any]:
    """n, systems, median and 90th-percentile absolute error, bias, coverage; the baseline's errors
    and the twin's on the rows that it covers."""
    off = np.array([one.off for one in some])
    known = [inside[one.id] for one in some if one.id in inside]
    both = [one for one in some if one.baseline is not None]
    return {
        "n": len(some),
        "systems": len({one.system for one in some}),
        "median_abs_error": float(np.median(np.abs(off))),
        "p90_abs_error": float(np.percentile(np.abs(off), 90)),
        "median_error": float(np.median(off)),
        "coverage": float(np.mean(known)) if known else None,
        "baseline": {
            "n": len(both),
            "median_abs_error": float(np.median([abs(one.baseline or 0.0) for one in both])),
            "p90_abs_error": float(np.percentile([abs(one.baseline or 0.0) for one in both], 90)),
            "twin_median_abs_error": float(np.median([abs(one.off) for one in both])),
            "twin_p90_abs_error": float(np.percentile([abs(one.off) for one in both], 90)),
        }
        if both
        else None,
    }
