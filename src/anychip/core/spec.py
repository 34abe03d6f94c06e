"""ChipSpec and SystemSpec: what a chip and a box of chips can do, in numbers with sources.

Read from strict TOML: unknown, missing or unsourced keys are errors that name file and field.
Every number is a Fact; its unit stands in its key.
"""

# What TOML holds is of unknown type until it is checked here.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from anychip.core.dtypes import DTYPES
from anychip.core.errors import InputError, unknown

Confidence = Literal["high", "medium", "low"]
Family = Literal[
    "simt", "systolic", "lpu", "wafer", "dimc", "chiplet", "dataflow", "mesh", "soc", "cpu"
]
Topology = Literal["none", "switch", "ring", "torus2d", "torus3d", "mesh", "dragonfly"]
Holding = Literal["weights", "state", "activations"]
FAMILIES: tuple[str, ...] = get_args(Family)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A number with its source. `low` and `high` bound what sources or practice disagree on.

    `source` starts with "recalled:" when it was written from memory of the named publication, and
    with "assumed:" when nothing published was found; both say so in every listing.
    """

    value: float
    source: str
    low: float | None = None
    high: float | None = None
    confidence: Confidence = "high"
    note: str = ""

    @property
    def range(self) -> tuple[float, float]:
        """(low, high), each the value itself where not given."""
        return (
            self.value if self.low is None else self.low,
            self.value if self.high is None else self.high,
        )


@dataclass(frozen=True, kw_only=True)
class MemorySpec:
    """One level of memory of one chip. Levels are listed from the largest to the nearest.

    A level that holds nothing of a running model (a store for models at rest) says `holds = []`.
    """

    name: str
    capacity_bytes: Fact
    read_bytes_per_s: Fact
    read_j_per_byte: Fact | None = None
    holds: tuple[str, ...] = ("weights", "state", "activations")


@dataclass(frozen=True, kw_only=True)
class LinkSpec:
    """What one chip can send to its peers in one direction, all links together.

    `hop_s` is the time of one hop, software included; over a switch, that of a small all-reduce.
    """

    name: str
    bytes_per_s: Fact
    hop_s: Fact
    topology: Topology = "switch"
    j_per_byte: Fact | None = None


@dataclass(frozen=True, kw_only=True)
class Limit:
    """An op (or op and element type) the chip cannot do, and why."""

    op: str
    why: str
    dtype: str = ""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A word with its source: what a Fact is for numbers."""

    value: str
    source: str
    confidence: Confidence = "high"
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class NumericsSpec:
    """How a chip computes, where that is not simply the element types a program names.

    `multiply`: element type of a product's operands → the format its vendor's compiler multiplies
    them in by default; `default` for every other float type the matrix unit lacks. `accumulate`:
    multiplied format (or `default`) → the accumulator, `f32` or `e8mN`, f32 with N stored bits of
    significand; one that is not f32 is rounded after every `accumulate_count` products.
    `subnormals` of operands are kept or flushed to zero; `overflow` of operands saturates or takes
    what the format has past its largest number ("own"). What a chip does not say is assumed.
    """

    multiply: Mapping[str, Rule] = field(default_factory=dict[str, Rule])
    accumulate: Mapping[str, Rule] = field(default_factory=dict[str, Rule])
    accumulate_count: Fact | None = None
    subnormals: Rule | None = None
    overflow: Rule | None = None


NUMERIC_RULES = {"subnormals": ("keep", "flush"), "overflow": ("saturate", "own")}


@dataclass(frozen=True, kw_only=True)
class ChipSpec:
    """One chip. Rates are dense peaks per chip; `matmul_flops_per_s` is keyed by element format.

    Efficiencies are fractions of the peaks that real programs reach; their ranges make the
    intervals of estimates. `format_efficiency` stands in for `matmul_efficiency` in formats whose
    products were timed apart. `per_kernel_s` is paid by every kernel that cannot hide it,
    `per_layer_s` once a layer (synchronisation, scheduling), `per_step_s` once a token step.
    """

    name: str
    title: str
    vendor: str
    family: Family
    matmul_flops_per_s: Mapping[str, Fact]
    vector_flops_per_s: Fact
    memory: tuple[MemorySpec, ...]
    matmul_efficiency: Fact
    memory_efficiency: Fact
    per_kernel_s: Fact
    per_step_s: Fact
    per_layer_s: Fact | None = None
    link: LinkSpec | None = None
    tdp_w: Fact | None = None
    idle_w: Fact | None = None
    mac_j: Fact | None = None
    usd_per_hour: Fact | None = None
    purchase_usd: Fact | None = None
    clock_hz: Fact | None = None
    limits: tuple[Limit, ...] = ()
    numerics: NumericsSpec | None = None
    about: Mapping[str, Fact] = ()  # type: ignore[assignment]
    format_efficiency: Mapping[str, Fact] = ()  # type: ignore[assignment]
    note: str = ""

    @property
    def main_memory(self) -> MemorySpec:
        """The level that holds weights and state (the first that says so)."""
        for level in self.memory:
            if "weights" in level.holds:
                return level
        raise InputError(f"chip {self.name} has no memory level that holds weights")

    def facts(self) -> Iterator[tuple[str, Fact]]:
        """Every number with its key path, in the order they are declared."""
        yield from _facts("", self)

    def rules(self) -> Iterator[tuple[str, Rule]]:
        """Every rule of `numerics` with its key path."""
        said = self.numerics or NumericsSpec()
        for table in ("multiply", "accumulate"):
            rules: Mapping[str, Rule] = getattr(said, table)
            yield from ((f"numerics.{table}.{key}", rules[key]) for key in rules)
        for name in NUMERIC_RULES:
            rule: Rule | None = getattr(said, name)
            if rule is not None:
                yield f"numerics.{name}", rule


@dataclass(frozen=True, kw_only=True)
class SystemSpec:
    """Chips that are sold or deployed together.

    `counts` are the chip numbers a deployment of this kind may use, smallest first. `system_w` is
    wall power per chip of everything around it included; prices are per chip.
    """

    name: str
    title: str
    chip: str
    counts: tuple[int, ...]
    link: LinkSpec | None = None
    scale_out: LinkSpec | None = None
    scale_up_count: int | None = None
    system_w: Fact | None = None
    usd_per_hour: Fact | None = None
    source: str = ""
    note: str = ""


def read_chip(path: Path) -> ChipSpec:
    """Read a chip's TOML. Raises InputError naming file and field."""
    spec = _build(ChipSpec, _load(path), str(path), "")
    for element in spec.matmul_flops_per_s:
        if element not in DTYPES and element not in EXTRA_FORMATS:
            raise InputError(
                str(unknown("number format", element, (*DTYPES, *EXTRA_FORMATS))),
                path=str(path),
                field=f"matmul_flops_per_s.{element}",
            )
    for element in spec.format_efficiency:
        if element not in spec.matmul_flops_per_s:
            raise InputError(
                f"an efficiency of {element}, which is none of {list(spec.matmul_flops_per_s)}",
                path=str(path),
                field=f"format_efficiency.{element}",
            )
    names = [level.name for level in spec.memory]
    if not any("weights" in level.holds for level in spec.memory):
        raise InputError(
            "a chip needs a memory level that holds weights", path=str(path), field="memory"
        )
    if len(set(names)) < len(names):
        raise InputError(f"two memory levels share a name: {names}", path=str(path), field="memory")
    return spec


EXTRA_FORMATS = ("tf32", "mxint4", "mxint8", "mxint16", "mxfp4", "mxfp8", "nvfp4")
"""Formats a matrix unit may have that are no StableHLO element type."""


def read_system(path: Path) -> SystemSpec:
    """Read a system's TOML. Raises InputError naming file and field."""
    spec = _build(SystemSpec, _load(path), str(path), "")
    if not spec.counts or list(spec.counts) != sorted(set(spec.counts)) or spec.counts[0] < 1:
        raise InputError(
            f"chip counts must be positive and rising, got {list(spec.counts)}",
            path=str(path),
            field="counts",
        )
    if spec.scale_up_count is not None and spec.scale_up_count < 1:
        raise InputError(
            f"expected at least 1, got {spec.scale_up_count}",
            path=str(path),
            field="scale_up_count",
        )
    return spec


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", path=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid TOML: {error}", path=str(path)) from None


def _facts(prefix: str, value: Any) -> Iterator[tuple[str, Fact]]:
    if isinstance(value, Fact):
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _facts(f"{prefix}.{key}" if prefix else key, one)
    elif isinstance(value, tuple):
        for one in value:
            yield from _facts(f"{prefix}.{getattr(one, 'name', '')}", one)
    elif hasattr(value, "__dataclass_fields__"):
        for one in fields(value):
            yield from _facts(
                f"{prefix}.{one.name}" if prefix else one.name, getattr(value, one.name)
            )


def _build(kind: type, raw: Any, path: str, where: str) -> Any:
    """A dataclass from a TOML table, every key checked against the declared fields."""
    if not isinstance(raw, dict):
        raise InputError(f"expected a table, got {raw!r}", path=path, field=where or "top level")
    declared = {f.name: f for f in fields(kind)}
    for key in raw:
        if key not in declared:
            raise InputError(
                str(unknown("key", key, declared)), path=path, field=f"{where}.{key}".lstrip(".")
            )
    values: dict[str, Any] = {}
    for name, one in declared.items():
        at = f"{where}.{name}".lstrip(".")
        if name in raw:
            values[name] = _convert(str(one.type), raw[name], path, at)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise InputError("this key is missing", path=path, field=at)
        elif str(one.type).startswith("Mapping["):
            values[name] = {}
    return kind(**values)


def _convert(declared: str, raw: Any, path: str, at: str) -> Any:
    kind = declared.removesuffix(" | None")
    if kind == "Fact":
        return _fact(raw, path, at)
    if kind == "Rule":
        return _rule(raw, path, at)
    readers = {"Mapping[str, Fact]": _fact, "Mapping[str, Rule]": _rule}
    if kind in readers:
        if not isinstance(raw, dict):
            raise InputError("expected a table of facts", path=path, field=at)
        return {key: readers[kind](one, path, f"{at}.{key}") for key, one in raw.items()}
    tables = {"LinkSpec": LinkSpec, "NumericsSpec": NumericsSpec}
    if kind in tables:
        return _build(tables[kind], raw, path, at)
    lists = {"tuple[MemorySpec, ...]": MemorySpec, "tuple[Limit, ...]": Limit}
    if kind in lists:
        if not isinstance(raw, list):
            raise InputError("expected an array of tables", path=path, field=at)
        return tuple(_build(lists[kind], one, path, f"{at}[{i}]") for i, one in enumerate(raw))
    choices = {
        "Family": get_args(Family),
        "Topology": get_args(Topology),
        "Confidence": get_args(Confidence),
    }
    if kind in choices:
        if raw not in choices[kind]:
            raise InputError(
                str(unknown(kind.lower(), str(raw), choices[kind])), path=path, field=at
            )
        return raw
    plain: dict[str, Any] = {"str": str, "int": int, "float": (int, float)}
    if kind in plain:
        if not isinstance(raw, plain[kind]) or isinstance(raw, bool):
            raise InputError(f"expected {kind}, got {raw!r}", path=path, field=at)
        return float(raw) if kind == "float" else raw
    if kind in ("tuple[int, ...]", "tuple[str, ...]"):
        element = int if "int" in kind else str
        if not isinstance(raw, list) or not all(type(one) is element for one in raw):
            raise InputError(
                f"expected a list of {element.__name__}, got {raw!r}", path=path, field=at
            )
        for one in raw if at.endswith("holds") else ():
            if one not in get_args(Holding):
                raise InputError(
                    str(unknown("thing to hold", one, get_args(Holding))), path=path, field=at
                )
        return tuple(raw)
    raise AssertionError(f"no reader for {declared} at {at}")


def _rule(raw: Any, path: str, at: str) -> Rule:
    if not isinstance(raw, dict) or "source" not in raw or not str(raw["source"]).strip():
        raise InputError(
            f'every rule needs a source: {{ value = "…", source = "…" }}, got {raw!r}',
            path=path,
            field=at,
        )
    rule = _build(Rule, raw, path, at)
    allowed = NUMERIC_RULES.get(at.rpartition(".")[2])
    if allowed and rule.value not in allowed:
        raise InputError(str(unknown("rule", rule.value, allowed)), path=path, field=at)
    return rule


def _fact(raw: Any, path: str, at: str) -> Fact:
    if not isinstance(raw, dict) or "source" not in raw:
        raise InputError(
            f'every number needs a source: {{ value = …, source = "…" }}, got {raw!r}',
            path=path,
            field=at,
        )
    fact = _build(Fact, raw, path, at)
    _check_range(fact, path, at)
    if not fact.source.strip():
        raise InputError("the source is empty", path=path, field=at)
    return fact


def _check_range(fact: Fact, path: str, at: str) -> None:
    low, high = fact.range
    if not all(math.isfinite(number) for number in (low, fact.value, high)) or low < 0:
        why = "expected finite numbers of at least 0"
    elif not low <= fact.value <= high:
        why = "the value lies outside its range"
    elif at.endswith("_efficiency") and not 0 < low <= high <= 1:
        why = "an efficiency is a fraction above 0 and at most 1"
    elif ("_per_s" in at or at.endswith("capacity_bytes")) and low == 0:
        why = "a rate or capacity is above 0"
    else:
        return
    raise InputError(
        f"{why}, got value {fact.value:g}, low {low:g}, high {high:g}", path=path, field=at
    )
