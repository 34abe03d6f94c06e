"""Compare: one row per chip for a model and a workload, sorted by an objective."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anychip.core import (
    AnychipError,
    LanguageModel,
    Measurement,
    Precision,
    Quantity,
    Registry,
    TargetName,
    UnsupportedError,
)
from anychip.mapper.economics import price, usd_per_mtok
from anychip.mapper.estimates import QUANTITIES, estimates
from anychip.mapper.flips import Flip, Rival, flips
from anychip.mapper.objective import METRICS, Objective, check_objective
from anychip.mapper.plan import Plan
from anychip.mapper.search import Found, Question, search
from anychip.mapper.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a target really did with the workload on this machine."""

    precision: str
    ttft_s: Measurement
    tpot_s: Measurement
    system: str = "this host"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One chip's line. `found` is what a prediction was derived from, None for other rows."""

    chip: str
    target: str
    how: str
    fits: bool
    system: str = ""
    count: int = 0
    precision: str = ""
    why_not: str | None = None
    shards: str = ""
    notes: tuple[str, ...] = ()
    quantities: Mapping[str, Quantity | None] = field(default_factory=dict[str, Quantity | None])
    plan: Plan | None = None
    found: Found | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        plain = ("chip", "system", "count", "target", "how", "precision", "fits", "why_not")
        row = {name: getattr(self, name) for name in (*plain, "shards", "notes")}
        each = {name: self.quantities.get(name) for name in QUANTITIES}
        return row | {name: one.to_json() if one else None for name, one in each.items()}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows, best first by the objective, those that do not fit last. `flips` says what would
    change the answer."""

    model: str
    workload: Workload
    objective: Objective
    rows: tuple[Row, ...]
    flips: tuple[Flip, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "workload": self.workload.to_json(),
            "objective": self.objective,
            "rows": [row.to_json() for row in self.rows],
            "what_would_change": [flip.to_json() for flip in self.flips],
        }


def compare(
    model: LanguageModel,
    workload: Workload,
    registry: Registry,
    *,
    precisions: Mapping[str, Precision],
    chips: Iterable[str] | None = None,
    objective: str = "latency",
    precision: str = "auto",
    pinned: Mapping[str, str] | None = None,
    measured: Mapping[str, Measured | str] | None = None,
) -> Comparison:
    """Predict every chip (or those named), and add what was measured.

    `precision` is a name in `precisions`, "auto" or "native"; `pinned` sets it for single chips.
    `measured` maps a target (`cpu:xla`) to what it did, or to why it could not. A chip whose
    package is broken, or whose systems are too small, gets a row that says why. Raises UsageError
    for an unknown chip, objective or precision, and for a workload longer than the model's context.
    """
    aim = check_objective(objective)
    workload.check(model.name, model.facts)
    question = Question(
        model=model,
        workload=workload,
        precisions=precisions,
        objective=aim,
        precision=precision,
        pinned=pinned or {},
    )
    names = _with_twin(registry) if chips is None else dict.fromkeys(chips)
    rows = [_predicted(name, question, registry) for name in names]
    rows += [
        _measured(target, done, workload, registry) for target, done in (measured or {}).items()
    ]
    rows.sort(key=lambda row: _order(row, aim))
    rivals = [
        Rival(found=row.found, quantity=quantity)
        for row in rows
        if row.found is not None
        if (quantity := row.quantities[METRICS[aim]]) is not None
    ]
    return Comparison(
        model=model.name,
        workload=workload,
        objective=aim,
        rows=tuple(rows),
        flips=flips(question, aim, rivals),
    )


def _with_twin(registry: Registry) -> list[str]:
    """The chips with a twin, and the broken ones, which get a row that says so."""
    broken = registry.broken()
    return [n for n in registry.chips if n in broken or "twin" in registry.chip(n).targets]


def _order(row: Row, objective: Objective) -> tuple[bool, float, str]:
    quantity = row.quantities.get(METRICS[objective])
    if quantity is None:
        return (not row.fits, float("inf"), row.target)
    sign = -1 if objective == "throughput" else 1
    return (not row.fits, sign * quantity.value, row.target)


def _predicted(name: str, question: Question, registry: Registry) -> Row:
    if name not in registry.chips:
        registry.chip(name)  # raises, and says which there are
    target = f"{name}:twin"
    try:
        spec, systems = registry.chip(name).spec, registry.systems(name)
    except AnychipError as error:  # a broken package must not hide the other chips
        return Row(chip=name, target=target, how="twin", fits=False, why_not=str(error))
    try:
        found = search(question, spec, systems)
        quantities = estimates(found, question.model)
    except UnsupportedError as error:
        return Row(chip=name, target=target, how="twin", fits=False, why_not=str(error))
    piece = found.plan.pieces[0]
    return Row(
        chip=name,
        target=target,
        how="twin",
        fits=True,
        system=piece.system,
        count=piece.chips,
        precision=piece.precision.name,
        shards=str(piece.shards),
        notes=_notes(found),
        quantities=quantities,
        plan=found.plan,
        found=found,
    )


def _notes(found: Found) -> tuple[str, ...]:
    option = found.option
    level = found.spec.memory[option.placement.level].name
    used = option.placement.share.total_bytes / option.placement.capacity_bytes
    notes = [
        found.plan.why,
        found.why_precision,
        f"weights and cache in {level}, {used:.0%} of what the runtime leaves",
    ]
    if option.price is not None:
        notes.append(f"price: {option.price.source}")
    return tuple(notes)


def _measured(target: str, done: Measured | str, workload: Workload, registry: Registry) -> Row:
    """A row of measurements; latency and rates are worked out sample by sample."""
    name = TargetName.parse(target)
    if isinstance(done, str):
        return Row(chip=name.chip, target=target, how=name.how, fits=False, why_not=done)
    steps, tokens = workload.generate - 1, workload.generate * workload.batch
    pairs = zip(done.ttft_s.samples, done.tpot_s.samples, strict=False)
    latency = Measurement(
        samples=tuple(first + steps * each for first, each in pairs),
        machine=done.ttft_s.machine,
        note=done.ttft_s.note,
    )
    rate = latency.map(lambda seconds: tokens / seconds)
    hour = price(registry.chip(name.chip).spec)
    usd = None
    if hour is not None:
        usd = rate.map(lambda r: usd_per_mtok(hour.value, r, None, owned=hour.owned))
    return Row(
        chip=name.chip,
        target=target,
        how=name.how,
        fits=True,
        system=done.system,
        count=1,
        precision=done.precision,
        notes=("measured on this machine",),
        quantities={
            "ttft_s": done.ttft_s,
            "tpot_s": done.tpot_s,
            "latency_s": latency,
            "user_tok_s": done.tpot_s.map(lambda seconds: 1.0 / seconds),
            "chip_tok_s": rate,
            "usd_per_mtok": usd,
        },
    )
