"""A deployment to simulate: which system, how many chips a copy, what precision, whose scheduler.

`deploy` finds the smallest division of a chip's systems that holds the model and one request, or
takes what is asked for, and reads the pace of its steps off the closed form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anychip.core import (
    ChipSpec,
    LanguageModel,
    Precision,
    Registry,
    SystemSpec,
    UnsupportedError,
    UsageError,
    unknown,
)
from anychip.mapper.pace import Pace, pace
from anychip.mapper.search import Question, search
from anychip.mapper.serving import Stack
from anychip.mapper.stacks import ALSO, OWN, STACKS, TUNED, with_cache
from anychip.mapper.surface import Surface, Surfaces
from anychip.mapper.traffic import Fleet
from anychip.mapper.workload import Workload
from anychip.twin import Shards, machine

HANDOVER_S = 1e-3
"""Until the first byte of a prompt's cache leaves for another copy: a message between two hosts and
the start of the transfer. Assumed."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One copy of a model, and the stack that serves it."""

    model: LanguageModel
    chip: str
    spec: ChipSpec
    system: SystemSpec
    surface: Surface
    shards: Shards
    precision: Precision
    stack: Stack
    pace: Pace
    link_bytes_per_s: float

    @property
    def chips(self) -> int:
        return self.shards.chips

    def fleet(
        self,
        *,
        copies: int = 1,
        prefill: int = 0,
        accepted: Sequence[float] | None = None,
        draft_share: float | None = None,
    ) -> Fleet:
        """Copies of it. A guess costs a layer's share of a step unless `draft_share` says."""
        if copies < 1:
            raise UsageError(f"{copies} copies: at least one is needed")
        if draft_share is not None and accepted is None:
            raise UsageError("a draft costs nothing without accepted guesses: give --accept")
        share = 1 / self.model.facts.layers if draft_share is None else draft_share
        return Fleet(
            pace=self.pace,
            stack=self.stack,
            copies=copies,
            prefill=prefill,
            lanes=self.shards.pipeline,
            handover_s=HANDOVER_S,
            handover_bytes_per_s=self.link_bytes_per_s,
            accepted=accepted,
            draft_share=share if accepted else 0.0,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "chip": self.chip,
            "system": self.system.name,
            "shards": str(self.shards),
            "precision": self.precision.name,
            "stack": self.stack.name,
            "step_tokens": self.stack.step_tokens,
            "sequences": self.stack.sequences,
        }


def deploy(
    model: LanguageModel,
    target: str,
    registry: Registry,
    precisions: Mapping[str, Precision],
    *,
    longest: int,
    precision: str = "auto",
    tensor: int | None = None,
    pipeline: int | None = None,
    stack: str = "tuned",
    step_tokens: int | None = None,
    sequences: int | None = None,
) -> Deployment:
    """A copy of the model for requests of up to `longest` tokens on `target`, a system or a chip,
    with or without `:twin`.

    Raises UnsupportedError where the model does not fit.
    """
    chip, systems = _systems(target, registry)
    spec = registry.chip(chip).spec
    asked = None
    if tensor is not None or pipeline is not None:
        asked = Shards(1 if tensor is None else tensor, 1 if pipeline is None else pipeline)
        if asked.pipeline > model.facts.layers:
            raise UsageError(f"{model.name} has {model.facts.layers} layers, and no more stages")
        systems = tuple(
            replace(one, counts=(asked.chips,)) for one in systems if asked.chips <= one.counts[-1]
        )
        if not systems:
            raise UsageError(f"{target} has fewer than {asked.chips} chips")
    surfaces = Surfaces()
    question = Question(
        model=model,
        workload=Workload(longest - 1, 1, 1) if longest > 1 else Workload(1, 1, 1),
        precisions=precisions,
        precision=precision,
        surfaces=surfaces,
    )
    found = search(question, spec, systems)
    shards, system = found.option.shards, found.option.system
    shards = asked or shards
    one = machine(spec, system)
    nodes = one.about.get("node_chips_count", shards.tensor)
    if shards.tensor > nodes:
        raise UnsupportedError(
            f"no deployment of {chip} is known in which {shards.tensor} chips share each layer, "
            f"only {nodes:.0f} of a node: leave --tensor out"
        )
    chosen = _stack(stack, step_tokens, sequences)
    held = with_cache(found.plan.pieces[0].precision, chosen)
    link = one.link or one.scale_out
    surface = surfaces.at(model, held, 1)
    each = pace(surface, one, shards, step_tokens=chosen.step_tokens, sequences=chosen.sequences)
    return Deployment(
        model=model,
        chip=chip,
        spec=spec,
        system=system,
        surface=surface,
        shards=shards,
        precision=held,
        stack=chosen,
        pace=each.padded() if chosen.is_padded else each,
        link_bytes_per_s=(one.scale_out or link).bytes_per_s if link else math.inf,
    )


def _systems(target: str, registry: Registry) -> tuple[str, tuple[SystemSpec, ...]]:
    """The chip that a name of a chip or of one of its systems means, and the systems meant."""
    name, _, how = target.partition(":")
    if how not in ("", "twin"):
        raise UsageError(f"{target!r}: only twins are simulated; use {name}:twin")
    if name in registry.chips:
        return name, registry.systems(name)
    seen: list[str] = list(registry.chips)
    for chip in registry.chips:
        for one in registry.systems(chip):
            if one.name == name:
                return chip, (one,)
            seen.append(one.name)
    raise unknown("system or chip", name, seen)


def _stack(name: str, step_tokens: int | None, sequences: int | None) -> Stack:
    known = {TUNED.name: TUNED, OWN.name: OWN, **STACKS}
    if ALSO.get(name, name) not in known:
        raise unknown("serving stack", name, [*known, *ALSO])
    made = known[ALSO.get(name, name)]
    for what, value in (("--chunk", step_tokens), ("--sequences", sequences)):
        if value is not None and value < 1:
            raise UsageError(f"{what} {value} must be at least 1")
    return replace(
        made,
        step_tokens=step_tokens or made.step_tokens,
        sequences=sequences or made.sequences,
        chunks=True if step_tokens else made.chunks,
    )
