"""Compare: one row per chip for a model and a workload, sorted by an objective."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anychip.core import (
    AnychipError,
    Chip,
    LanguageModel,
    Measurement,
    Precision,
    Quantity,
    Registry,
    TargetName,
    UnsupportedError,
)
from anychip.mapper.economics import price, usd_per_mtok
from anychip.mapper.falsify import command
from anychip.mapper.flips import Flip, flips
from anychip.mapper.objective import METRICS, Objective, check_objective
from anychip.mapper.plan import Plan
from anychip.mapper.search import Found, search
from anychip.mapper.surface import Surfaces
from anychip.mapper.workload import Workload
from anychip.twin import Spread, facts_of, own_error, spreads

QUANTITIES = (
    "ttft_s",
    "tpot_s",
    "latency_s",
    "user_tok_s",
    "chip_tok_s",
    "j_per_tok",
    "usd_per_mtok",
)
"""Time to first token, time per output token, whole request (seconds); tokens a second one user
sees while the answer streams; generated tokens a second and chip, joules a generated token and
dollars a million of them, all of whole requests with their prompts."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a target really did with the workload on this machine."""

    precision: str
    ttft_s: Measurement
    tpot_s: Measurement
    system: str = "this host"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One chip's line. `found` is what a prediction was derived from, None for a measured row."""

    chip: str
    system: str
    count: int
    target: str
    how: str
    precision: str
    fits: bool
    why_not: str | None = None
    quantities: Mapping[str, Quantity | None] = field(default_factory=dict)
    shards: str = ""
    notes: tuple[str, ...] = ()
    plan: Plan | None = None
    found: Found | None = field(default=None, repr=False)

    def value(self, name: str) -> float | None:
        quantity = self.quantities.get(name)
        return None if quantity is None else quantity.value

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                *("chip", "system", "count", "target", "how", "precision", "fits", "why_not"),
                *("shards", "notes"),
            )
        }
        for name in QUANTITIES:
            quantity = self.quantities.get(name)
            row[name] = None if quantity is None else quantity.to_json()
        return row


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows, best first by the objective; those that do not fit last. `flips` says what would change
    the answer."""

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
    measured: Mapping[str, Measured] | None = None,
) -> Comparison:
    """Predict every chip (or those named) and add what was measured.

    `pinned` gives single chips another precision. `measured` maps a target (`cpu:xla`) to what it did. A chip whose package is broken, or whose
    systems are too small, gets a row that says why. Raises UsageError for an unknown chip,
    objective or precision, and for a workload longer than the model's context.
    """
    aim = check_objective(objective)
    workload.check(model.name, model.facts)
    names = list(registry.chips) if chips is None else list(dict.fromkeys(chips))
    surfaces = Surfaces(model, workload.batch)
    rows = [
        _predicted(name, model, workload, registry, aim, wanted, precisions, surfaces)
        for name in names
        for wanted in [(pinned or {}).get(name, precision)]
    ]
    rows += [
        _measured(target, done, workload, registry) for target, done in (measured or {}).items()
    ]
    ordered = tuple(sorted(rows, key=lambda row: _order(row, aim)))
    found = [row.found for row in ordered if row.found is not None]
    what = flips(ordered, found, model, workload, registry, aim, precision, precisions, surfaces)
    return Comparison(model=model.name, workload=workload, objective=aim, rows=ordered, flips=what)


def _order(row: Row, objective: Objective) -> tuple[bool, float, str]:
    value = row.value(METRICS[objective])
    if value is None:
        return (not row.fits, float("inf"), row.target)
    return (not row.fits, -value if objective == "throughput" else value, row.target)


def _predicted(
    name: str,
    model: LanguageModel,
    workload: Workload,
    registry: Registry,
    objective: Objective,
    precision: str,
    precisions: Mapping[str, Precision],
    surfaces: Surfaces,
) -> Row:
    if name not in registry.chips:
        registry.chip(name)  # raises, with what names there are
    try:
        chip: Chip = registry.chip(name)
        spec, systems = chip.spec, registry.systems(name)
    except AnychipError as error:
        return _refused(name, str(error))
    try:
        found = search(
            model,
            spec,
            systems,
            workload,
            objective,
            precision=precision,
            precisions=precisions,
            surfaces=surfaces,
        )
    except UnsupportedError as error:
        return _refused(name, str(error))
    piece = found.plan.pieces[0]
    return Row(
        chip=name,
        system=piece.system,
        count=piece.chips,
        target=piece.target,
        how="twin",
        precision=piece.precision.name,
        fits=True,
        quantities=quantities(found, model),
        shards=str(piece.shards),
        notes=_notes(found),
        plan=found.plan,
        found=found,
    )


def _refused(name: str, why: str) -> Row:
    return Row(
        chip=name,
        system="",
        count=0,
        target=f"{name}:twin",
        how="twin",
        precision="",
        fits=False,
        why_not=why,
    )


def _notes(found: Found) -> tuple[str, ...]:
    level = found.spec.memory[found.placement.level].name
    used = found.placement.share.total_bytes / found.placement.capacity_bytes
    notes = [
        found.plan.why,
        found.why_precision,
        f"weights and cache in {level}, {used:.0%} of what the runtime leaves",
    ]
    if found.price is not None:
        notes.append(f"price: {found.price.source}")
    return tuple(notes)


def quantities(found: Found, model: LanguageModel) -> dict[str, Quantity | None]:
    """The Estimates of a found plan, each with its interval."""
    facts = facts_of(found.spec, found.system)
    price_keys = {"usd_per_hour", "purchase_usd", "system.usd_per_hour"}
    others = {
        key: fact
        for key, fact in facts.items()
        if key not in price_keys and not key.startswith("about.")
    }
    piece = found.plan.pieces[0]
    spread = spreads(found.values, others, own_error(found.spec.family, QUANTITIES))
    values = found.values()
    if found.price is not None and "usd_per_mtok" in spread:
        spread["usd_per_mtok"] = spread["usd_per_mtok"].also(
            "the price", found.price.low / found.price.value, found.price.high / found.price.value
        )
    proof = command(model, found.spec, piece.shards, piece.precision.matmul, found.plan.workload)
    subject = f"{found.spec.name} x {piece.chips} ({piece.shards}, {piece.precision.name})"

    def quantity(name: str, part: Spread | None) -> Quantity | None:
        value = values[name]
        if value is None or part is None:
            return None
        return part.estimate(value, subject=subject, falsify=proof)

    return {name: quantity(name, spread.get(name)) for name in QUANTITIES}


def _measured(target: str, done: Measured, workload: Workload, registry: Registry) -> Row:
    """A row of measurements. Latency and rates are worked out sample by sample; joules are unknown."""
    name = TargetName.parse(target)
    steps, tokens = workload.generate - 1, workload.generate * workload.batch
    pairs = zip(done.ttft_s.samples, done.tpot_s.samples, strict=False)
    latency = Measurement(
        samples=tuple(first + steps * each for first, each in pairs),
        machine=done.ttft_s.machine,
        note=done.ttft_s.note,
    )
    spec = registry.chip(name.chip).spec
    hour = price(spec)
    rate = latency.map(lambda seconds: tokens / seconds)
    usd = None
    if hour is not None:
        usd = rate.map(lambda r: usd_per_mtok(hour.value, r, None, owned=hour.owned))
    return Row(
        chip=name.chip,
        system=done.system,
        count=1,
        target=target,
        how=name.how,
        precision=done.precision,
        fits=True,
        quantities={
            "ttft_s": done.ttft_s,
            "tpot_s": done.tpot_s,
            "latency_s": latency,
            "user_tok_s": done.tpot_s.map(lambda seconds: 1.0 / seconds),
            "chip_tok_s": rate,
            "usd_per_mtok": usd,
        },
        notes=("measured on this machine",),
    )
