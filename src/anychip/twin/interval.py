"""From facts with ranges to an Estimate: one-at-a-time sensitivities in logarithms.

Every fact is set to its low and its high end with the others at their values; the logarithms of
what the result moves by, up and down, add up as independent errors do (root of the sum of squares;
JCGM 100:2008, "Guide to the expression of uncertainty in measurement", 5.1). To them comes the
closed form's own error: how far it was from published figures beyond what the facts explain, on
chips left out (left_out.py).
A fact's range is read as what holds eight times in ten, so the result's level is 0.8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from anychip.core import Estimate, Fact
from anychip.twin.left_out import left_out

Values = Mapping[str, float | None]
"""Results by name; None is "the spec does not tell"."""

ASSUMED_SPREAD = {"high": 0.0, "medium": 0.05, "low": 0.20}
"""Relative range of a fact that states none, by its confidence. Assumed, not measured."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How far a result may lie off, as logarithms of the factor down and up, and what drives it."""

    down: float
    up: float
    drivers: tuple[tuple[str, float], ...]

    def estimate(
        self,
        value: float,
        *,
        subject: str,
        falsify: str,
        is_simulated: bool = False,
        evidence: str = "",
    ) -> Estimate:
        """The 80 % Estimate of `value`; its provenance names what the interval comes from, and with
        `evidence` which figures the closed form's own part does."""
        how = "machine model" if is_simulated else "closed form"
        named = ", ".join(f"{name} ({part:.0%})" for name, part in self.drivers[:4])
        named = named.replace("the closed form itself", f"the {how} itself")
        return Estimate(
            value=value,
            low=value * math.exp(-self.down),
            high=value * math.exp(self.up),
            kind="simulated" if is_simulated else "estimated",
            provenance=f"{how} of {subject}; interval from {named or 'no uncertain fact'}"
            + (f"; {evidence}" if evidence else ""),
            falsify=falsify,
        )

    def also(self, name: str, low: float, high: float) -> Spread:
        """This spread with one more independent factor, between `low` and `high` (1 inside)."""
        down, up = -math.log(low), math.log(high)
        parts = {n: p * (self.down**2 + self.up**2) for n, p in self.drivers}
        parts[name] = down * down + up * up
        total = sum(parts.values()) or 1.0
        ranked = sorted(parts.items(), key=lambda item: -item[1])
        return Spread(
            down=math.hypot(self.down, down),
            up=math.hypot(self.up, up),
            drivers=tuple((n, p / total) for n, p in ranked),
        )


def own_error(family: str, names: Iterable[str]) -> dict[str, float]:
    """The closed form's own half-width (a logarithm) for each result of a chip of this family."""
    return {name: left_out(family, name).half_width for name in names}


def spreads(
    evaluate: Callable[[Mapping[str, float]], Values],
    facts: Mapping[str, Fact],
    own_error: Mapping[str, float],
) -> dict[str, Spread]:
    """The Spread of every result that `evaluate({})` gives a number for.

    `evaluate` takes values for some of `facts`, the rest at their own. `own_error` is the closed
    form's half-width (a logarithm) for each result.
    """
    base = evaluate({})
    known = {name: value for name, value in base.items() if value is not None and value > 0}
    moves: dict[str, list[tuple[str, float, float]]] = {name: [] for name in known}
    for key, fact in facts.items():
        low, high = fact_range(fact)
        if low == high:
            continue
        ends = [evaluate({key: end}) for end in (low, high) if end != fact.value]
        for name, value in known.items():
            logs = [math.log(v / value) for end in ends if (v := end[name]) is not None and v > 0]
            down, up = max(0.0, -min(logs, default=0.0)), max(0.0, *logs, 0.0)
            if down or up:
                moves[name].append((key, down, up))
    return {
        name: _summed([*moves[name], ("the closed form itself", own_error[name], own_error[name])])
        for name in known
    }


def fact_range(fact: Fact) -> tuple[float, float]:
    """A fact's own range, or that assumed for its confidence."""
    low, high = fact.range
    if low != high:
        return low, high
    share = ASSUMED_SPREAD[fact.confidence]
    return fact.value * (1 - share), fact.value * (1 + share)


def _summed(moves: list[tuple[str, float, float]]) -> Spread:
    weights = {name: down * down + up * up for name, down, up in moves}
    total = sum(weights.values()) or 1.0
    ranked = sorted(weights.items(), key=lambda item: -item[1])
    return Spread(
        down=math.sqrt(sum(down * down for _, down, _ in moves)),
        up=math.sqrt(sum(up * up for _, _, up in moves)),
        drivers=tuple((name, part / total) for name, part in ranked if part > 0),
    )
