"""What a simulated server draws at the wall, for `simulate` and `validate` alike: its decode steps
at their mean batch and context, its prompts, and the time that all copies stand there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anychip.core import ChipSpec, SystemSpec
from anychip.mapper.pace import FAR, NEAR, PROMPTS
from anychip.mapper.search import UNTIMED
from anychip.mapper.serving import Demand, Served
from anychip.mapper.surface import Surface
from anychip.twin import (
    Shards,
    Spread,
    facts_of,
    joules_by_source,
    machine,
    place,
    share,
    spreads,
    step_cost,
)


@dataclass(frozen=True, kw_only=True)
class ServedPower:
    """`copies` of a model that served a demand; `prefill` more computed the prompts, if any."""

    spec: ChipSpec
    system: SystemSpec
    surface: Surface
    shards: Shards
    demand: Demand
    served: Served
    copies: int = 1
    prefill: int = 0

    def watts(self, turned: Mapping[str, float] | None = None) -> float | None:
        """Mean power of all chips and their servers, with some facts turned; None when the spec
        tells no power."""
        demand, served = self.demand, self.served
        one = machine(self.spec, self.system, turned)
        surface, longest = self.surface, self.surface.model.facts.context
        near = min(NEAR, longest // 4)
        at = place(share(surface.decode(1, near), self.shards), one)
        seconds = float(served.ended_s.max() - served.arrived_s.min())
        span = seconds * self.copies
        length = float(demand.prompts.mean())
        known = min(PROMPTS, key=lambda size: abs(size - length))
        known = min(known, longest)
        # A part of the prompts read off; attention within them is off by the ratio of the lengths.
        prompt = surface.prefill(length / known, known)
        filled = step_cost(prompt, one, self.shards, at)
        prompts_s = min(filled.seconds * len(demand.prompts), 0.99 * span)
        if self.prefill:
            prompts_s = seconds * self.prefill
        elif not served.decode_steps:
            prompts_s = span
        parts = joules_by_source(prompt, one, filled, prompts_s, len(demand.prompts))
        if parts is None or (self.prefill and not served.decode_steps):
            return None
        total = sum(parts.values())
        if served.decode_steps:
            context = length + float(served.tokens.mean()) / 2
            far = min(FAR, longest)
            batch = served.decoded / served.decode_steps
            table = surface.decode(batch, near).blend(
                surface.decode(batch, far), (context - near) / (far - near)
            )
            cost = step_cost(table, one, self.shards, at)
            rest_s = span if self.prefill else span - prompts_s
            parts = joules_by_source(table, one, cost, rest_s, served.decode_steps)
            total += sum((parts or {}).values())
        return total / seconds

    def spread(self) -> Spread | None:
        """How far `watts` moves over the ranges of the facts about power."""
        facts = {
            key: fact
            for key, fact in facts_of(self.spec, self.system).items()
            if key.endswith(UNTIMED) and not key.endswith(("usd", "usd_per_hour"))
        }
        return spreads(lambda turned: {"w": self.watts(turned)}, facts, {"w": 0.0}).get("w")
