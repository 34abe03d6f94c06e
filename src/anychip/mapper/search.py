"""Search: the smallest system that holds a model, and the best way to divide the model over it.

Policy. Of a chip's systems, the one that holds the model with the fewest chips is taken. Without an
objective the answer is that smallest count. With one, larger counts of the same system are taken when
they better the objective by at least `WORTH`. At each count every tensor x pipeline (x expert)
division is tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from anychip.core import ChipSpec, LanguageModel, Precision, SystemSpec, UnsupportedError
from anychip.mapper.economics import Price, price, usd_per_mtok
from anychip.mapper.objective import Objective, burden
from anychip.mapper.plan import Piece, Plan
from anychip.mapper.precision import choose
from anychip.mapper.predict import Prediction, Tables, placement, predict, tables
from anychip.mapper.surface import Surface
from anychip.mapper.workload import Workload
from anychip.twin import Machine, Placement, Shards, machine, shardings

WORTH = 0.05
"""What a larger count must gain over a smaller one, relative, to be taken."""


@dataclass(frozen=True)
class Surfaces:
    """The Surfaces of one model, one a precision, shared by everything that is asked of it."""

    model: LanguageModel
    made: dict[str, Surface] = field(default_factory=dict, repr=False)

    def at(self, precision: Precision) -> Surface:
        if precision.name not in self.made:
            self.made[precision.name] = Surface(self.model, precision)
        return self.made[precision.name]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A Plan with everything it was derived from, so that it can be costed again at other facts."""

    plan: Plan
    spec: ChipSpec
    system: SystemSpec
    shards: Shards
    tables: Tables
    placement: Placement
    prediction: Prediction
    price: Price | None
    why_precision: str

    def values(self, turned: Mapping[str, float] | None = None) -> dict[str, float | None]:
        """Point values by name, with some facts (keys of twin.facts_of) turned."""
        one = machine(self.spec, self.system, turned)
        found = predict(self.tables, one, self.shards, self.plan.workload)
        return priced(found, self.price)


def priced(found: Prediction, hour: Price | None) -> dict[str, float | None]:
    """The prediction's values and dollars for a million tokens."""
    usd = (
        usd_per_mtok(hour.value, found.chip_tok_s, found.j_per_tok, owned=hour.owned)
        if hour
        else None
    )
    return {**found.values(), "usd_per_mtok": usd}


def search(
    model: LanguageModel,
    spec: ChipSpec,
    systems: Sequence[SystemSpec],
    workload: Workload,
    objective: Objective | None = None,
    *,
    precision: str = "auto",
    precisions: Mapping[str, Precision],
    surfaces: Surfaces | None = None,
) -> Found:
    """The best Plan for one chip.

    Raises UsageError for a workload longer than the model's context or an unknown precision, and
    UnsupportedError, with the bytes needed and there, when no system of the chip holds the model.
    """
    workload.check(model.name, model.facts)
    chosen, why = choose(precision, model, spec, precisions)
    surface = (surfaces or Surfaces(model)).at(chosen)
    options: list[_Option] = []
    for system, count in _counts(systems):
        if options and (objective is None or system is not options[0].system):
            if count > options[0].shards.chips or objective is None:
                continue
        options += _options(surface, spec, system, count, workload)
    if not options:
        raise UnsupportedError(_too_large(surface, spec, systems, workload, chosen))
    first = options[0]
    same = [one for one in options if one.system is first.system]
    best = _best(same, objective)
    plan = Plan(
        model=model.name,
        workload=workload,
        objective=objective,
        pieces=(
            Piece(
                target=f"{spec.name}:twin",
                chip=spec.name,
                system=best.system.name,
                shards=best.shards,
                batch=workload.batch,
                micro_batches=best.tables.micro_batches,
                precision=chosen,
            ),
        ),
        why=_why(best, first, objective),
    )
    return Found(
        plan=plan,
        spec=spec,
        system=best.system,
        shards=best.shards,
        tables=best.tables,
        placement=best.placement,
        prediction=best.prediction,
        price=best.price,
        why_precision=why,
    )


@dataclass(frozen=True, kw_only=True)
class _Option:
    system: SystemSpec
    shards: Shards
    tables: Tables
    placement: Placement
    prediction: Prediction
    price: Price | None

    def burden(self, objective: Objective | None) -> float:
        return burden(objective or "latency", priced(self.prediction, self.price))


def _counts(systems: Sequence[SystemSpec]) -> Iterable[tuple[SystemSpec, int]]:
    """Every (system, chip count), fewest chips first, smaller systems before larger ones."""
    pairs = [(system, count) for system in systems for count in system.counts]
    return sorted(pairs, key=lambda pair: (pair[1], pair[0].counts[-1], pair[0].name))


def _options(
    surface: Surface, spec: ChipSpec, system: SystemSpec, count: int, workload: Workload
) -> list[_Option]:
    """The divisions over `count` chips that fit; none when the chips cannot be joined."""
    one: Machine = machine(spec, system)
    if count > 1 and one.link is None:
        return []
    facts = surface.model.facts
    whole = tables(surface, workload, 1)
    experts = max((k.experts for k in whole.whole.kernels), default=0)
    hour = price(spec, system)
    found: list[_Option] = []
    for shards in shardings(count, facts.layers, experts=experts):
        needed = whole if shards.pipeline == 1 else tables(surface, workload, shards.pipeline)
        at = placement(needed, one, shards, workload)
        if at.fits:
            found.append(
                _Option(
                    system=system,
                    shards=shards,
                    tables=needed,
                    placement=at,
                    prediction=predict(needed, one, shards, workload),
                    price=hour,
                )
            )
    return found


def _best(options: list[_Option], objective: Objective | None) -> _Option:
    """The best division of each count, and of those the smallest that no larger one betters enough."""
    by_count: dict[int, list[_Option]] = {}
    for one in options:
        by_count.setdefault(one.shards.chips, []).append(one)
    chosen: _Option | None = None
    for count in sorted(by_count):
        best = min(by_count[count], key=lambda o: (o.burden(objective), o.shards.pipeline))
        if chosen is None:
            chosen = best
        elif objective is not None and _gains(best, chosen, objective):
            chosen = best
    assert chosen is not None
    return chosen


def _gains(larger: _Option, smaller: _Option, objective: Objective) -> bool:
    """Whether the larger count betters the objective by WORTH (burdens of throughput are negative)."""
    new, old = larger.burden(objective), smaller.burden(objective)
    return new < old - WORTH * abs(old)


def _why(best: _Option, first: _Option, objective: Objective | None) -> str:
    smallest = first.shards.chips
    if best.shards.chips == smallest:
        return f"{smallest} is the smallest count of {best.system.name} that holds the model"
    return (
        f"{smallest} would hold the model; {best.shards.chips} of {best.system.name} are better "
        f"for {objective}"
    )


def _too_large(
    surface: Surface,
    spec: ChipSpec,
    systems: Sequence[SystemSpec],
    workload: Workload,
    precision: Precision,
) -> str:
    """What is needed and what the largest system has."""
    whole = tables(surface, workload, 1).whole
    need = whole.weight_bytes + whole.state_bytes
    largest = max(systems, key=lambda system: system.counts[-1])
    one = machine(spec, largest)
    room = max(level.capacity_bytes for level in one.levels if "weights" in level.holds)
    count = largest.counts[-1]
    return (
        f"{surface.model.name} does not fit on {spec.name}: {precision.name} weights of "
        f"{whole.weight_bytes / 1e9:.1f} GB and a cache of {whole.state_bytes / 1e9:.1f} GB make "
        f"{need / 1e9:.1f} GB, the largest system {largest.name} has {count} x {room / 1e9:.1f} GB "
        "less a tenth for the runtime; use a narrower precision or a smaller batch"
    )
