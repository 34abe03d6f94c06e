"""What a simulated server amounts to: percentiles, throughput, goodput, energy and money, each an
Estimate with its interval and the command that could prove it wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from anychip.core import Estimate
from anychip.mapper.deployment import Deployment
from anychip.mapper.economics import price, usd_per_mtok
from anychip.mapper.energy import ServedPower
from anychip.mapper.serving import Demand, Served
from anychip.mapper.stacks import serving_error, serving_source
from anychip.mapper.traffic import Fleet, goodput, timeline
from anychip.twin import Spread, own_error

PERCENTILES = {"p10": 10, "p50": 50, "p90": 90, "p99": 99}
TIMES = ("ttft_s", "tpot_s", "e2e_s")
_KINDS = {"e2e_s": "latency_s", "requests_s": "chip_tok_s", "tok_s": "chip_tok_s"}
"""Figures whose error is that of another published quantity."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A request counts as goodput when both are met."""

    ttft_s: float
    tpot_s: float


def figures(
    placed: Deployment, fleet: Fleet, demand: Demand, served: Served, limits: Limits, falsify: str
) -> dict[str, Estimate]:
    """By name: `ttft_s` and its like are means, `ttft_s.p90` percentiles; rates are of all copies
    but for `chip_tok_s` and `user_tok_s`. What the chip's spec or the run does not tell is left
    out: times per token of answers of one token, energy without power figures, dollars without a
    price."""
    chips = placed.chips * (fleet.copies + fleet.prefill)
    made = _Made(placed, falsify)
    times = {
        "ttft_s": served.ttft_s,
        "tpot_s": served.tpot_s,
        "e2e_s": served.ended_s - served.arrived_s,
    }
    for name, values in times.items():
        if len(values):
            made.add(name, float(values.mean()))
            for label, share_ in PERCENTILES.items():
                made.add(f"{name}.{label}", float(np.percentile(values, share_)))
    span = float(served.ended_s.max() - served.arrived_s.min())
    if len(served.tpot_s) and served.tpot_s.mean() > 0:
        made.add("user_tok_s", 1.0 / float(served.tpot_s.mean()))
    made.add("tok_s", served.tok_s)
    made.add("chip_tok_s", served.tok_s / chips)
    made.add("requests_s", len(demand.prompts) / span)
    made.within("goodput_requests_s", *_goodputs(served, limits, made))
    if served.decode_steps:
        most = min(fleet.stack.sequences, len(demand.prompts))
        batch = served.decoded / served.decode_steps
        made.add("mean_batch", batch, kind="latency_s", least=1.0, most=most)
    room = fleet.pace.cache_tokens * fleet.copies
    if np.isfinite(room):
        peak = timeline(served, demand.prompts).cache_tokens.max() / room
        made.add("cache_peak_share", float(peak), kind="latency_s", most=max(1.0, float(peak)))
    _energy_and_money(made, placed, fleet, demand, served)
    return made.estimates


class _Made:
    """Estimates under way: the interval of each is how far published figures of its kind were."""

    def __init__(self, placed: Deployment, falsify: str) -> None:
        self.estimates: dict[str, Estimate] = {}
        self.falsify = falsify
        self.spec, self.stack = placed.spec, placed.stack
        copy = f"{placed.chips} {placed.chip} a copy, {placed.system.name}"
        self.start = f"simulated on a virtual clock: {placed.stack.name}'s scheduler, {copy}"

    def error(self, kind: str) -> float:
        """Half-width (a logarithm): of servers where it is known, or of the chip's family if its
        step times are less certain than that."""
        return max(serving_error(self.stack, kind), own_error(self.spec.family, [kind])[kind])

    def add(
        self,
        name: str,
        value: float,
        *,
        kind: str = "",
        least: float = 0.0,
        most: float = math.inf,
    ) -> None:
        first = name.partition(".")[0]
        half = self.error(kind or _KINDS.get(first, first))
        ends = (max(value * math.exp(-half), least), min(value * math.exp(half), most))
        self.within(name, value, *ends)

    def within(self, name: str, value: float, low: float, high: float, why: str = "") -> None:
        why = why or serving_source(self.stack)
        self.estimates[name] = Estimate(
            value=value,
            low=min(low, value),
            high=max(high, value),
            kind="simulated",
            provenance=f"{self.start}; interval from {why}",
            falsify=self.falsify,
        )


def _goodputs(served: Served, limits: Limits, made: _Made) -> tuple[float, float, float]:
    """Requests a second within the limits; at the ends, as if all times were at theirs."""
    ttft, tpot = (math.exp(made.error(kind)) for kind in ("ttft_s", "tpot_s"))
    return (
        goodput(served, limits.ttft_s, limits.tpot_s)[0],
        goodput(served, limits.ttft_s / ttft, limits.tpot_s / tpot)[0],
        goodput(served, limits.ttft_s * ttft, limits.tpot_s * tpot)[0],
    )


def _energy_and_money(
    made: _Made, placed: Deployment, fleet: Fleet, demand: Demand, served: Served
) -> None:
    chips = placed.chips * (fleet.copies + fleet.prefill)
    rate = made.error("chip_tok_s")
    factors = (math.exp(-rate), math.exp(rate))
    power = ServedPower(
        spec=placed.spec,
        system=placed.system,
        surface=placed.surface,
        shards=placed.shards,
        demand=demand,
        served=served,
        copies=fleet.copies,
        prefill=fleet.prefill,
    )
    watts, spread = power.watts(), power.spread()
    joules = None if watts is None else watts / served.tok_s
    if watts is not None and joules is not None and spread is not None:
        made.within("wall_w", watts, *_ends(watts, spread), _named(spread))
        spread = spread.also("the server's rate", *factors)
        made.within("j_per_tok", joules, *_ends(joules, spread), _named(spread))
    hour = price(placed.spec, placed.system)
    if hour is not None:
        usd = usd_per_mtok(hour.value, served.tok_s / chips, joules, owned=hour.owned)
        of = Spread(down=0.0, up=0.0, drivers=()).also("the server's rate", *factors)
        of = of.also("the price", hour.low / hour.value, hour.high / hour.value)
        made.within("usd_per_mtok", usd, *_ends(usd, of), f"{_named(of)}; {hour.source}")


def _ends(value: float, spread: Spread) -> tuple[float, float]:
    return value * math.exp(-spread.down), value * math.exp(spread.up)


def _named(spread: Spread) -> str:
    return ", ".join(f"{name} ({part:.0%})" for name, part in spread.drivers[:4])
