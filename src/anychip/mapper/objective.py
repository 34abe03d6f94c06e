"""What "best" means: the objective by which shards are chosen and rows are sorted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from anychip.core import unknown

Objective = Literal["latency", "throughput", "cost", "energy"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)

METRICS: Mapping[str, str] = {
    "latency": "latency_s",
    "throughput": "chip_tok_s",
    "cost": "usd_per_mtok",
    "energy": "j_per_tok",
}
"""The quantity each objective looks at. Latency is a user's whole request: the time to the first
token and all that follow."""


def check_objective(name: str) -> Objective:
    """The objective, or UsageError listing all."""
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    return name  # type: ignore[return-value]


def burden(objective: Objective, values: Mapping[str, float | None]) -> float:
    """A number to minimise; infinite where the objective's quantity is not known."""
    value = values[METRICS[objective]]
    if value is None or value <= 0:
        return float("inf")
    return -value if objective == "throughput" else value
