"""Predict one model copy on one Machine: times, tokens, joules and dollars of a Workload.

TTFT is the prefill of the whole batch. TPOT is the mean over the answer, by Gauss's rule with two
contexts (exact for cubics). Pipeline stages are kept busy by cutting the batch (and for
prefill long prompts) into parts: a step takes the sum of the stages at a part's size, or as long as
the slowest stage needs for all parts. Rates, energy and money are those of whole requests, prompt
included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from anychip.mapper.surface import Surface
from anychip.mapper.workload import Workload
from anychip.twin import (
    Machine,
    Placement,
    Shards,
    StepCost,
    Table,
    place,
    share,
    simulate,
    step_cost,
    step_joules,
)

CHUNK = 256
"""Shortest part of a prompt that is worth a pipeline slot."""
PASS_TOKENS = 8192
"""Most tokens of one prefill pass; longer ones are cut, which bounds the activations in memory
(vLLM's default `--max-num-batched-tokens` on servers)."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The Tables one workload needs at one precision and one number of pipeline stages."""

    decode: tuple[Table, Table]
    prefill: Table
    whole: Table  # decoding the whole batch at the longest context: what must be stored
    micro_batches: int
    passes: int


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Point values. `parts` says where a decode step's time goes, as shares."""

    ttft_s: float
    tpot_s: float
    latency_s: float
    user_tok_s: float
    chip_tok_s: float
    j_per_tok: float | None

    def values(self) -> dict[str, float | None]:
        return dict(vars(self))


def tables(surface: Surface, workload: Workload, pipeline: int) -> Tables:
    """Build or fetch what `predict` needs for this many pipeline stages."""
    key = (workload, pipeline)
    if key not in surface.kept:
        surface.kept[key] = _tables(surface, workload, pipeline)
    return surface.kept[key]


def _tables(surface: Surface, workload: Workload, pipeline: int) -> Tables:
    batch, first, last = workload.batch, workload.prompt, workload.context
    parts = min(pipeline, batch)
    start = surface.decode(batch / parts, first)
    end = surface.decode(batch / parts, last)
    cuts = max(1, workload.prompt // CHUNK)
    passes = min(pipeline, batch * cuts) if pipeline > 1 else 1
    return Tables(
        decode=(start.blend(end, 0.5 - GAUSS), start.blend(end, 0.5 + GAUSS)),
        prefill=surface.prefill(batch / passes, first),
        whole=surface.decode(batch, last),
        micro_batches=parts,
        passes=passes,
    )


GAUSS = 1 / (2 * math.sqrt(3))
"""Distance of the two points of Gauss-Legendre quadrature from the middle of a unit interval."""


def placement(needed: Tables, machine: Machine, shards: Shards, workload: Workload) -> Placement:
    """Where weights, the whole batch's state, and the larger of both phases' activations go."""
    stored = share(needed.whole, shards)
    tokens = workload.batch * workload.prompt / needed.passes
    prefill = share(needed.prefill, shards).activation_bytes * min(1.0, PASS_TOKENS / tokens)
    widest = max(stored.activation_bytes, prefill)
    if machine.family == "lpu":  # a static schedule cuts a prompt into passes as short as fit
        widest = stored.activation_bytes
    return place(
        type(stored)(
            weight_bytes=stored.weight_bytes,
            state_bytes=stored.state_bytes,
            activation_bytes=widest,
        ),
        machine,
    )


def predict(
    needed: Tables,
    machine: Machine,
    shards: Shards,
    workload: Workload,
    *,
    simulated: dict[str, tuple[float, float]] | None = None,
) -> Prediction:
    """Point values of one copy of the model on `shards.chips` chips like `machine`, in closed form
    or, slower, with each step scheduled on the family's machine model: then `simulated` has the
    seconds of a step and of its slowest stage, by step, and gets those it lacks."""
    at = placement(needed, machine, shards, workload)
    parts, tokens = needed.micro_batches, workload.batch * workload.generate

    def timed(name: str, table: Table) -> tuple[StepCost, float, float]:
        cost = step_cost(table, machine, shards, at)
        if simulated is None:
            return cost, cost.seconds, cost.stage_s
        if name not in simulated:
            made = simulate(table, machine, shards, at)
            simulated[name] = (made.seconds, made.stage_s)
        return cost, *simulated[name]

    def step(name: str, table: Table) -> tuple[float, float | None]:
        cost, once, stage = timed(name, table)
        seconds = max(once, parts * stage)
        return seconds, step_joules(table, machine, cost, seconds, parts)

    steps = [step(f"decode {i}", table) for i, table in enumerate(needed.decode)]
    tpot = (steps[0][0] + steps[1][0]) / 2
    fill, once, stage = timed("prefill", needed.prefill)
    ttft = once + (needed.passes - 1) * stage
    filling = step_joules(needed.prefill, machine, fill, ttft, needed.passes)
    latency = ttft + (workload.generate - 1) * tpot
    joules = None
    each = [j for _, j in steps if j is not None]
    if filling is not None and len(each) == len(steps):
        joules = (filling + (workload.generate - 1) * sum(each) / len(each)) / tokens
    return Prediction(
        ttft_s=ttft,
        tpot_s=tpot,
        latency_s=latency,
        user_tok_s=1.0 / tpot,
        chip_tok_s=tokens / latency / shards.chips,
        j_per_tok=joules,
    )
