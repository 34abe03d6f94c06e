"""Search: the smallest system that holds a model, and the best way to divide the model over it.

Of a chip's systems, the one that holds the model with the fewest chips is taken. Without an
objective the answer is that smallest count. With one, larger counts of the same system are taken
where they better the objective by at least `WORTH`. At each count every tensor x pipeline
(x expert) division is tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from anychip.core import ChipSpec, LanguageModel, Precision, SystemSpec, UnsupportedError
from anychip.mapper.economics import Price, price, usd_per_mtok
from anychip.mapper.objective import Objective, burden
from anychip.mapper.plan import Piece, Plan
from anychip.mapper.precision import choices
from anychip.mapper.predict import Prediction, Tables, placement, predict, tables
from anychip.mapper.surface import Surface, Surfaces
from anychip.mapper.workload import Workload
from anychip.twin import MODELS, Placement, Shards, machine, shardings
from anychip.twin.machine import ACTIVE, OVERLAP

UNTIMED = ("tdp_w", "idle_w", "active_w", "mac_j", "system_w", "j_per_byte", "usd", "usd_per_hour")
"""Ends of the names of facts that do not change how long a step takes."""
CLOSED_FORM = ("per_layer_s", OVERLAP, ACTIVE)
"""Facts that no machine model reads (twin/program.py)."""
WORTH = 0.05
"""What a larger count must gain over a smaller one, relative, to be taken."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every chip.

    `precisions` are those the model can be built in, by name; `precision` is one of them, "auto"
    or "native", and `pinned` overrides it for some chips. `surfaces` keeps what was built.
    """

    model: LanguageModel
    workload: Workload
    precisions: Mapping[str, Precision]
    objective: Objective | None = None
    precision: str = "auto"
    pinned: Mapping[str, str] = field(default_factory=dict[str, str])
    surfaces: Surfaces = field(default_factory=Surfaces, repr=False)

    def at_batch(self, batch: int) -> Question:
        """The same question with another batch."""
        return replace(self, workload=replace(self.workload, batch=batch))


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to run the model: which system, divided how, held where, and what comes of it."""

    system: SystemSpec
    shards: Shards
    tables: Tables
    placement: Placement
    prediction: Prediction
    price: Price | None

    def values(self) -> dict[str, float | None]:
        return priced(self.prediction, self.price)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A Plan with what it was derived from, so that it can be costed again at other facts."""

    plan: Plan
    spec: ChipSpec
    systems: tuple[SystemSpec, ...]
    option: Option
    why_precision: str
    times: dict[tuple[tuple[str, float], ...], dict[str, tuple[float, float]]] = field(
        default_factory=dict[tuple[tuple[str, float], ...], dict[str, tuple[float, float]]],
        repr=False,
        compare=False,
    )

    def _simulated(self, turned: Mapping[str, float]) -> dict[str, tuple[float, float]]:
        """What was simulated with these facts, as far as they bear on time."""
        bearing = {
            key: value
            for key, value in turned.items()
            if not key.endswith(UNTIMED) and key not in CLOSED_FORM
        }
        return self.times.setdefault(tuple(sorted(bearing.items())), {})

    @property
    def is_simulated(self) -> bool:
        """Whether `values` come from the family's machine model. The search itself never does."""
        return self.spec.family in MODELS

    def values(self, turned: Mapping[str, float] | None = None) -> dict[str, float | None]:
        """Point values by name, with some facts (keys of twin.facts_of) turned."""
        one = machine(self.spec, self.option.system, turned)
        option = self.option
        again = predict(
            option.tables,
            one,
            option.shards,
            self.plan.workload,
            simulated=self._simulated(turned or {}) if self.is_simulated else None,
        )
        return priced(again, self.option.price)


def priced(found: Prediction, hour: Price | None) -> dict[str, float | None]:
    """The prediction's values, and dollars for a million tokens."""
    usd = None
    if hour is not None:
        usd = usd_per_mtok(hour.value, found.chip_tok_s, found.j_per_tok, owned=hour.owned)
    return {**found.values(), "usd_per_mtok": usd}


def search(question: Question, spec: ChipSpec, systems: Sequence[SystemSpec]) -> Found:
    """The best Plan for one chip.

    Raises UsageError for a workload longer than the model's context or an unknown precision, and
    UnsupportedError, with the bytes needed and there, when no system of the chip holds the model.
    """
    model, workload = question.model, question.workload
    workload.check(model.name, model.facts)
    wanted = question.pinned.get(spec.name, question.precision)
    tried: list[Surface] = []
    for precision, why in choices(wanted, model, spec, question.precisions):
        surface = question.surfaces.at(model, precision, workload.batch)
        tried.append(surface)
        if surface.weight_bytes > _room(spec, systems):
            continue  # nothing needs to be built to see that
        options = _all_options(question, surface, spec, systems)
        if options:
            best = _best(options, question.objective)
            plan = _plan(question, spec, precision, best, options[0])
            return Found(
                plan=plan, spec=spec, systems=tuple(systems), option=best, why_precision=why
            )
    raise UnsupportedError(_too_large(question, tried, spec, systems))


def _all_options(
    question: Question, surface: Surface, spec: ChipSpec, systems: Sequence[SystemSpec]
) -> list[Option]:
    """The options of the system that needs fewest chips, at its smallest count first."""
    options: list[Option] = []
    pairs = [(system, count) for system in systems for count in system.counts]
    for system, count in sorted(pairs, key=lambda p: (p[1], p[0].counts[-1], p[0].name)):
        if options and (question.objective is None or system is not options[0].system):
            continue
        options += _options(surface, spec, system, count, question.workload)
    return options


def _options(
    surface: Surface, spec: ChipSpec, system: SystemSpec, count: int, workload: Workload
) -> list[Option]:
    """The divisions over `count` chips that fit; none when nothing joins the chips."""
    one = machine(spec, system)
    if count > 1 and one.link is None:
        return []
    whole = tables(surface, workload, 1)
    experts = max((kernel.experts for kernel in whole.whole.kernels), default=0)
    hour = price(spec, system)
    found: list[Option] = []
    for shards in shardings(count, surface.model.facts.layers, experts=experts):
        if shards.tensor > one.about.get("node_chips_count", shards.tensor):
            continue  # no deployment is known in which chips of several nodes share a layer
        needed = whole if shards.pipeline == 1 else tables(surface, workload, shards.pipeline)
        at = placement(needed, one, shards, workload)
        if not at.fits:
            continue
        prediction = predict(needed, one, shards, workload)
        found.append(
            Option(
                system=system,
                shards=shards,
                tables=needed,
                placement=at,
                prediction=prediction,
                price=hour,
            )
        )
    return found


def _best(options: Iterable[Option], objective: Objective | None) -> Option:
    """Of each count the best division; of those the smallest that no larger one betters enough."""
    aim: Objective = objective or "latency"
    by_count: dict[int, list[Option]] = {}
    for one in options:
        by_count.setdefault(one.shards.chips, []).append(one)
    best: list[tuple[float, Option]] = []
    for count in sorted(by_count):
        weighed = [(burden(aim, o.values()), o) for o in by_count[count]]
        value, option = min(weighed, key=lambda pair: (pair[0], pair[1].shards.pipeline))
        if not best or (objective is not None and value < best[0][0] - WORTH * abs(best[0][0])):
            best = [(value, option)]
    return best[0][1]


def _plan(
    question: Question, spec: ChipSpec, precision: Precision, best: Option, first: Option
) -> Plan:
    smallest, taken, system = first.shards.chips, best.shards.chips, best.system.name
    why = f"{smallest} is the smallest count of {system} that holds the model"
    if taken != smallest:
        why = f"{smallest} of {system} would hold it; {taken} are better for {question.objective}"
    piece = Piece(
        target=f"{spec.name}:twin",
        chip=spec.name,
        system=system,
        shards=best.shards,
        batch=question.workload.batch,
        micro_batches=best.tables.micro_batches,
        precision=precision,
    )
    return Plan(
        model=question.model.name,
        workload=question.workload,
        objective=question.objective,
        pieces=(piece,),
        why=why,
    )


def _room(spec: ChipSpec, systems: Sequence[SystemSpec]) -> float:
    """Bytes that all chips of the largest system have for weights."""
    return max(system.counts[-1] for system in systems) * _largest_level(spec)


def _largest_level(spec: ChipSpec) -> float:
    return max(m.capacity_bytes.value for m in spec.memory if "weights" in m.holds)


def _too_large(
    question: Question, tried: Sequence[Surface], spec: ChipSpec, systems: Sequence[SystemSpec]
) -> str:
    """What the narrowest precision tried needs, and what the largest system has."""
    model, workload, last = question.model, question.workload, tried[-1]
    largest = max(systems, key=lambda system: system.counts[-1])
    return (
        f"{model.name} does not fit on {spec.name}: {last.precision.name} weights of "
        f"{last.weight_bytes / 1e9:.1f} GB "
        f"and a cache for {workload.batch} x {workload.context} tokens, but the largest system, "
        f"{largest.name}, has {largest.counts[-1]} x {_largest_level(spec) / 1e9:.1f} GB, of which "
        "the runtime takes a tenth; use a narrower precision, a smaller batch or a shorter context"
    )
