"""Compile for a target that lacks some ops: those go to a fallback, at a predicted price.

Nothing falls back unsaid: the ledger has a row for each such op, and `CompileOptions` have no say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from anychip.compilers.xla_executable import Artifacts
from anychip.core import (
    Chip,
    CompileOptions,
    Coverage,
    Estimate,
    Executable,
    Module,
    OpCoverage,
    Registry,
    Span,
    Target,
    TargetName,
    Trace,
    UnsupportedError,
    UsageError,
    discover,
)
from anychip.ops.view import OpView
from anychip.ops.walk import walk
from anychip.passes.split import Division, Unable, split

_LINK_BYTES_PER_S = (1.3e10, 2.5e10, 5.5e10)
"""Low, usual and high rate between a chip and its host: PCIe 3.0, 4.0 and 5.0 with 16 lanes move at
most 15.8, 31.5 and 63 GB/s (PCI-SIG, base specifications 3.0, 4.0, 5.0: 8, 16, 32 GT/s a lane, 128b
of 130b); about 0.8 to 0.9 of that is reached."""
_CROSSING_S = (5e-6, 2e-5, 1e-4)
"""Low, usual and high time to hand over between chip and host. Assumed, not measured."""


Compile = Callable[[Target, Module, CompileOptions], Executable]


def compiler(registry: Registry, fallback: str) -> Compile:
    """How to compile for a target: ops it lacks go to `fallback`, or are refused for "none"."""
    if fallback == "none":
        return lambda target, module, options: target.compile(module, options)
    rest = registry.target(fallback)

    def compiled(target: Target, module: Module, options: CompileOptions) -> Executable:
        chip = registry.chip(TargetName.parse(target.name).chip)
        return compile_with_fallback(module, target, rest, options, chip=chip)

    return compiled


def compile_with_fallback(
    module: Module,
    target: Target,
    fallback: Target,
    options: CompileOptions,
    *,
    chip: Chip,
) -> Executable:
    """The target's executable; where it lacks ops, one of pieces, the rest on the fallback.

    What it lacks is told by the limits its chip declares and by the report of an UnsupportedError.
    A refusal without such a report, or with more than half of the ops in it, is raised as it is.
    """
    lacks: dict[str, str] = {}
    is_same_chip = TargetName.parse(fallback.name).chip == TargetName.parse(target.name).chip

    def unable(op: OpView) -> str:
        return lacks.get(_title(op), "") or ("" if is_same_chip else declared_limit(chip, op))

    has_limits = not is_same_chip and bool(chip.spec.limits)
    if not (has_limits and any(unable(step.op) for step in walk(module))):
        try:
            return target.compile(module, options)
        except UnsupportedError as error:
            rows = [row for row in error.report if row.fate == "unsupported"]
            lost = sum(row.count for row in rows)
            if not rows or target.name == fallback.name or 2 * lost > _ops(module):
                raise  # nothing to split by, or hardly anything left for the target
            lacks.update((row.op, row.why or str(error)) for row in rows)
    division = split(module, unable)
    made = [
        (target if piece.is_on_target else fallback).compile(
            piece.module, options if piece.is_on_target else _plain(options)
        )
        for piece in division.pieces
    ]
    return Composed(module, target, fallback, division, made, unable)


def _ops(module: Module) -> int:
    return sum(step.count for step in walk(module) if not step.op.callee)


def declared_limit(chip: Chip, op: OpView) -> str:
    """Why the chip's spec says it cannot do this op; "" when it can."""
    names = {op.name, _title(op)}
    types = {spec.dtype for spec in (*op.inputs, *op.outputs)}
    for limit in chip.spec.limits:
        if limit.op in names and (not limit.dtype or limit.dtype in types):
            return limit.why
    return ""


def _title(op: OpView) -> str:
    """A composite's own name, such as anychip.softmax; any other op's name."""
    return str(op.attributes["name"]) if op.name == "stablehlo.composite" else op.name


def fallback_price(division: Division, fallback: str) -> dict[int, Estimate]:
    """Piece index → what it costs that this piece runs on the fallback: time there, and moving.

    The time is that of the fallback chip's twin. What the target itself would have taken is not
    known, and not taken off.
    """
    host = discover().target(f"{TargetName.parse(fallback).chip}:twin")
    prices: dict[int, Estimate] = {}
    for index, piece in enumerate(division.pieces):
        if piece.is_on_target:
            continue
        signature = piece.module.signature
        moved = sum(a.nbytes for a in signature.arguments if a.role != "weight")
        moved += sum(r.nbytes for r in signature.results)
        seconds = host.compile(piece.module, CompileOptions()).trace().seconds
        slow, usual, quick = _LINK_BYTES_PER_S
        short, middle, long = _CROSSING_S
        prices[index] = Estimate(
            value=seconds + moved / usual + 2 * middle,
            low=seconds / 2 + moved / quick + 2 * short,
            high=seconds * 2 + moved / slow + 2 * long,
            provenance=(
                f"{host.name}'s {seconds:.3g} s within a factor of 2, and {moved} bytes over "
                "PCIe 3.0 to 5.0 with 16 lanes, handed over twice"
            ),
            falsify=f"anychip bench {piece.module.name} --target cpu:xla",
        )
    return prices


class Composed:
    """Executables of pieces that run in order; what one gives, later ones take."""

    def __init__(
        self,
        module: Module,
        target: Target,
        fallback: Target,
        division: Division,
        made: Sequence[Executable],
        unable: Unable,
    ):
        self.signature = module.signature
        self._module, self._division, self._made = module, division, tuple(made)
        self._names = tuple(
            (target if piece.is_on_target else fallback).name for piece in division.pieces
        )
        self._runs = tuple(
            (target if piece.is_on_target else fallback).runs for piece in division.pieces
        )
        self._target = target.name
        given = [one for e in made if (one := getattr(e, "tolerance", None)) is not None]
        self.tolerance: float | None = max(given, default=None)
        self.coverage = _ledger(division, self._made, fallback.name, unable)
        stages: dict[str, Callable[[], str | bytes]] = {"split.json": self._plan}
        for index, executable in enumerate(self._made):
            for stage in executable.artifacts:
                stages[f"{index}-{stage}"] = partial(executable.artifacts.__getitem__, stage)
        self.artifacts: Mapping[str, str | bytes] = Artifacts(stages, live=stages)

    def run(self, *inputs: Any) -> Sequence[Any]:
        """The results. State is not donated. Raises UnsupportedError where a piece cannot run."""
        for name, runs in zip(self._names, self._runs, strict=True):
            if not runs:
                raise UnsupportedError(
                    f"{self._target} compiled its pieces of {self._module.name} but cannot run "
                    f"them: {name} is not here. Use a target that runs, such as cpu:xla."
                )
        wanted = [a for a in self.signature.arguments if a.role != "weight"]
        if len(inputs) != len(wanted):
            raise UsageError(
                f"{self._module.name} takes {len(wanted)} arrays besides its weights "
                f"({', '.join(a.name for a in wanted)}), got {len(inputs)}"
            )
        values = {a.name: value for a, value in zip(wanted, inputs, strict=True)}
        for piece, executable in zip(self._division.pieces, self._made, strict=True):
            given = executable.run(*(_array(values[name]) for name in piece.takes))
            values.update(zip(piece.gives, given, strict=True))
        return [self._value(values, name) for name in self._division.results]

    def _value(self, values: Mapping[str, Any], name: str) -> Any:
        return values[name] if name in values else self._module.weights[name].array()

    def trace(self, *inputs: Any) -> Trace:
        """The pieces' traces one after another; moving between them is in the ledger's prices.

        Measured only when every piece is; else estimated, with the pieces' own kinds in the note.
        """
        values: dict[str, Any] = {}
        is_run = all(self._runs) and bool(inputs)
        if is_run:
            wanted = [a for a in self.signature.arguments if a.role != "weight"]
            values = {a.name: value for a, value in zip(wanted, inputs, strict=True)}
        spans: list[Span] = []
        kinds: list[str] = []
        now = 0.0
        for piece, executable in zip(self._division.pieces, self._made, strict=True):
            taken = [_array(values[name]) for name in piece.takes] if is_run else []
            part = executable.trace(*taken)
            if is_run:
                values.update(zip(piece.gives, executable.run(*taken), strict=True))
            kinds.append(part.kind)
            spans += [_later(span, now) for span in part.spans]
            now += part.seconds
        kind = "measured" if set(kinds) == {"measured"} else "estimated"
        parts = ", ".join(f"{n} {k}" for n, k in zip(self._names, kinds, strict=True))
        return Trace(
            kind, self._target, tuple(spans), f"pieces in order: {parts}; moves between are not in"
        )

    def _plan(self) -> str:
        pieces = [
            {
                "target": name,
                "module": piece.module.name,
                "takes": list(piece.takes),
                "gives": list(piece.gives),
            }
            for name, piece in zip(self._names, self._division.pieces, strict=True)
        ]
        return json.dumps({"pieces": pieces, "results": list(self._division.results)}, indent=1)


def _ledger(
    division: Division, made: Sequence[Executable], fallback: str, unable: Unable
) -> Coverage:
    """The pieces' own ledgers, and a row for each kind of op that fell back.

    The price of a piece stands in its first row.
    """
    rows: list[OpCoverage] = []
    prices = fallback_price(division, fallback)
    for index, (piece, executable) in enumerate(zip(division.pieces, made, strict=True)):
        if piece.is_on_target:
            rows += executable.coverage.rows
            continue
        first, *rest = _rows(piece.module, fallback, unable)
        rows += [replace(first, price_s=prices[index]), *rest]
    return Coverage(tuple(rows))


def _array(value: Any) -> Any:
    """As every target takes it: results of one runtime are no arrays of another's."""
    import numpy as np

    return np.asarray(value)


def _later(span: Span, seconds: float) -> Span:
    return replace(span, start_s=span.start_s + seconds, end_s=span.end_s + seconds)


def _plain(options: CompileOptions) -> CompileOptions:
    """For the fallback: the target's own options mean nothing to it."""
    return CompileOptions(timeout_s=options.timeout_s)


def _rows(module: Module, fallback: str, unable: Unable) -> list[OpCoverage]:
    counted: dict[tuple[str, str, str], OpCoverage] = {}
    for step in walk(module):
        if step.op.callee and not unable(step.op):
            continue
        why = unable(step.op) or "inside an op that falls back"
        key = (step.op.name, str(step.origin), why)
        before = counted[key].count if key in counted else 0
        counted[key] = OpCoverage(
            op=step.op.name,
            fate="fallback",
            count=before + 1,
            origin=step.origin,
            falls_back_to=fallback,
            why=why,
        )
    return list(counted.values())
