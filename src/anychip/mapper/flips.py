"""What would change the answer: computed, not written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from anychip.core import LanguageModel, Precision, Registry, UnsupportedError
from anychip.mapper.objective import METRICS, Objective, burden
from anychip.mapper.search import Found, Surfaces, priced, search
from anychip.mapper.workload import Workload

if TYPE_CHECKING:
    from anychip.mapper.compare import Row

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One thing that would change the best row: `kind` is "batch", "price", "margin" or "count"."""

    kind: str
    text: str
    value: float | None = None
    winner: str = ""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def flips(
    rows: Sequence[Row],
    found: Sequence[Found],
    model: LanguageModel,
    workload: Workload,
    registry: Registry,
    objective: Objective,
    precision: str,
    precisions: Mapping[str, Precision],
    surfaces: Surfaces,
) -> tuple[Flip, ...]:
    """The margin of the best two, the price at which the second overtakes, the batches at which
    another chip is best."""
    rivals = [row for row in rows if row.found is not None and row.value(METRICS[objective])]
    if len(rivals) < 2:
        return ()
    made = [_margin(rivals[0], rivals[1], objective)]
    if objective == "cost":
        made += _prices(rivals[0], rivals[1])
    made += _batches(found, model, workload, registry, objective, precision, precisions, surfaces)
    return tuple(made)


def _margin(first: Row, second: Row, objective: Objective) -> Flip:
    """Whether the intervals of the best two overlap, so that the facts decide between them."""
    name = METRICS[objective]
    best, next_ = first.quantities[name], second.quantities[name]
    assert best is not None and next_ is not None
    overlap = best.low <= next_.high and next_.low <= best.high
    ratio = max(best.value, next_.value) / min(best.value, next_.value)
    text = (
        f"{first.chip} leads {second.chip} by {ratio:.2f}x in {objective}; their 80 % intervals "
        + ("overlap, so the order is not certain" if overlap else "do not overlap")
    )
    return Flip(kind="margin", text=text, value=ratio, winner=first.chip)


def _prices(first: Row, second: Row) -> list[Flip]:
    """The hourly price below which the second chip would be the cheapest."""
    if second.found is None or second.found.price is None:
        return []
    best, other = first.value("usd_per_mtok"), second.value("usd_per_mtok")
    assert best is not None and other is not None
    hour = second.found.price
    needed = hour.value * best / other
    text = (
        f"{second.chip} becomes the cheapest below {needed:.2f} USD per chip-hour "
        f"(reckoned at {hour.value:.2f})"
    )
    return [Flip(kind="price", text=text, value=needed, winner=second.chip)]


def _batches(
    found: Sequence[Found],
    model: LanguageModel,
    workload: Workload,
    registry: Registry,
    objective: Objective,
    precision: str,
    precisions: Mapping[str, Precision],
    surfaces: Surfaces,
) -> list[Flip]:
    """The batch sizes at which the best chip changes, each chip planned anew at each."""
    winners: list[tuple[int, str]] = []
    for batch in BATCHES:
        best = ("", float("inf"))
        for one in found:
            name = one.spec.name
            try:
                at = search(
                    model,
                    one.spec,
                    registry.systems(name),
                    Workload(workload.prompt, workload.generate, batch),
                    objective,
                    precision=precision,
                    precisions=precisions,
                    surfaces=surfaces,
                )
            except UnsupportedError:  # its systems are too small at this batch: it cannot win
                continue
            value = burden(objective, priced(at.prediction, at.price))
            best = min(best, (name, value), key=lambda pair: pair[1])
        if best[0] and (not winners or winners[-1][1] != best[0]):
            winners.append((batch, best[0]))
    made = [
        Flip(
            kind="batch",
            text=f"from batch {batch} on, {name} is best for {objective}",
            value=batch,
            winner=name,
        )
        for batch, name in winners
    ]
    if len(made) == 1:
        text = f"{made[0].winner} is best for {objective} at every batch from 1 to {BATCHES[-1]}"
        return [Flip(kind="batch", text=text, value=None, winner=made[0].winner)]
    return made
