"""What would change the answer: computed, not written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from anychip.core import Quantity, UnsupportedError
from anychip.mapper.objective import Objective, burden
from anychip.mapper.search import Found, Question, search

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Batch sizes at which every chip is planned anew."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One thing that bears on the best row.

    margin: how far the best leads the next, as a factor in `value`. price: `winner` becomes the
    cheapest below `value` USD a chip and hour. batch: `winner` is best from batch `value` on.
    """

    kind: Literal["margin", "price", "batch"]
    text: str
    value: float
    winner: str

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A predicted chip and its quantity that the objective looks at."""

    found: Found
    quantity: Quantity

    @property
    def chip(self) -> str:
        return self.found.spec.name


def flips(question: Question, objective: Objective, rivals: Sequence[Rival]) -> tuple[Flip, ...]:
    """What would change the order of `rivals`, which are best first; nothing for fewer than two."""
    if len(rivals) < 2:
        return ()
    first, second = rivals[:2]
    made = [_margin(first, second, objective)]
    if objective == "cost":
        made += _price(first, second)
    return (*made, *_batches(question, objective, [rival.found for rival in rivals]))


def _margin(first: Rival, second: Rival, objective: Objective) -> Flip:
    """Whether the intervals of the best two overlap, so that the facts decide between them."""
    a, b = first.quantity, second.quantity
    ratio = max(a.value, b.value) / min(a.value, b.value)
    order = (
        "overlap: the order is not certain"
        if a.low <= b.high and b.low <= a.high
        else ("do not overlap")
    )
    text = (
        f"{first.chip} leads {second.chip} by {ratio:.2f}x in {objective}; their intervals {order}"
    )
    return Flip(kind="margin", text=text, value=ratio, winner=first.chip)


def _price(first: Rival, second: Rival) -> list[Flip]:
    """The hourly price below which the second chip would be the cheapest."""
    hour = second.found.option.price
    if hour is None:
        return []
    needed = hour.value * first.quantity.value / second.quantity.value
    text = (
        f"{second.chip} becomes the cheapest below {needed:.2f} USD a chip and hour "
        f"(reckoned at {hour.value:.2f})"
    )
    return [Flip(kind="price", text=text, value=needed, winner=second.chip)]


def _batches(question: Question, objective: Objective, found: Sequence[Found]) -> list[Flip]:
    """The batch sizes at which the best chip changes."""
    winners: list[tuple[int, str]] = []
    for batch in BATCHES:
        best = min(
            ((_at(question.at_batch(batch), objective, one), one.spec.name) for one in found),
            default=(float("inf"), ""),
        )
        if best[0] < float("inf") and (not winners or winners[-1][1] != best[1]):
            winners.append((batch, best[1]))
    if len(winners) == 1:
        batch, name = winners[0]
        text = f"{name} is best for {objective} at every batch from {batch} to {BATCHES[-1]}"
        return [Flip(kind="batch", text=text, value=batch, winner=name)]
    return [
        Flip(
            kind="batch",
            text=f"from batch {batch} on, {name} is best for {objective}",
            value=batch,
            winner=name,
        )
        for batch, name in winners
    ]


def _at(question: Question, objective: Objective, one: Found) -> float:
    """The chip's burden for this question; infinite when no system of it is large enough."""
    if question.workload == one.plan.workload:
        return burden(objective, one.values())
    try:
        return burden(objective, search(question, one.spec, one.systems).values())
    except UnsupportedError:
        return float("inf")
