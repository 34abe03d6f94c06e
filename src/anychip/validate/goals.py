"""The goals of the twins on systems left out: what was asked, what was reached, and why not.

A goal's rows come in parts (a serving stack, an audit, a family); a part alone is held against the
goal's limits too, so that a good part cannot hide a bad one. `WHY` has the evidence for each that
is known to miss; docs/twins/validation.md has it at length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anychip.validate.left_out import FEWEST, Figure, is_inside, summed
from anychip.validate.rows import shipped_ids

COVERAGE = (0.75, 0.90)
"""What share of left-out rows an 80 % interval should hold; of a handful none can be said."""


def by_part(one: Figure) -> str:
    return one.part


def by_family(one: Figure) -> str:
    return f"{one.family}, {'first token' if 'ttft' in one.metric else 'the rest'}"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """At most `median` and `p90` of absolute relative error over the rows of these families and
    metrics; `parts` names each row's part."""

    name: str
    families: tuple[str, ...]
    metrics: tuple[str, ...]
    median: float
    p90: float | None = None
    parts: Callable[[Figure], str] = field(default=by_part, repr=False)

    def holds(self, one: Figure) -> bool:
        return one.family in self.families and one.metric in self.metrics


DECODE = ("tok_s_user", "tpot_mean", "tpot_p50")
RATES = ("throughput_output_per_gpu", "throughput_output_system")
FIRST = ("ttft", "ttft_p50")

GOALS = (
    Goal(
        name="GPU time per token",
        families=("simt",),
        metrics=("tpot_mean",),
        median=0.08,
        p90=0.25,
    ),
    Goal(name="GPU throughput", families=("simt",), metrics=RATES, median=0.12),
    Goal(name="GPU first token", families=("simt",), metrics=FIRST, median=0.25),
    Goal(name="LPU tokens/s", families=("lpu",), metrics=DECODE, median=0.15),
    Goal(name="wafer tokens/s", families=("wafer",), metrics=DECODE, median=0.15),
    Goal(
        name="NPU families",
        families=("systolic", "mesh", "dataflow", "chiplet", "dimc"),
        metrics=(*DECODE, *RATES, *FIRST, "e2e_latency"),
        median=0.20,
        parts=by_family,
    ),
)

WHY: Mapping[str, str] = {
    "GPU time per token: MLPerf": (
        "Too quick: times are read from runs at the largest rate that meets a latency limit, where "
        "requests come at random; the closed loop here has neither bursts nor a limit."
    ),
    "GPU time per token: points of sglang": (
        "One chip and model were measured (8B on H200), picked to meet one time per token: what "
        "its host costs a step and a sequence cannot be told apart without one of its four systems."
    ),
    "GPU throughput: points of sglang": "As its time per token.",
    "GPU throughput: MLPerf": (
        "One stack stands for all that submitters tuned by hand: the same H100s gave 24,500 tok/s "
        "in 2024 and 31,200 in 2025 with other software. Too high: cards over PCIe at 350 W (their "
        "clocks fall, not modelled) and Mixtral (uneven experts and grouped matmuls, not modelled; "
        "its prompts' length is assumed). Too low: 70B of 2025."
    ),
    "GPU throughput: vendors' tables": (
        "AMD's four rows are read as a server with vLLM, whose front end's time a token caps them; "
        "in the benchmark's process, which they do not state, they come out far too high: closed "
        "loops cannot tell the front end's time from the engine's for a sequence. 405B on 4 and 8 "
        "chips with short prompts is too high: its decode steps reduce some 11 MB twice a layer, "
        "sizes at which all-reduces are known to be slower than here."
    ),
    "wafer tokens/s": (
        "Two rows set one number, so each is judged on the other alone. CB02 is the only row over "
        "several wafers; what a crossing takes is assumed: nobody publishes it."
    ),
    "NPU families: systolic, first token": (
        "All too quick, on Trainium and Inferentia: 128-token prompts take 6 to 17 ms longer than "
        "their work, whatever the model, and 4,096 to 8,192 tokens of several sequences 1.5 to 3.5 "
        "times as long. What the context graph does beside matmuls (SDK 2.18: score matrices in "
        "memory, host work on logits) is not published, so it is not modelled."
    ),
    "NPU families: mesh, first token": (
        "Four rows, all Tenstorrent's 128-token prompts, half as long as published: the host "
        "prepares and launches a prompt's programs, and that time is not published."
    ),
    "NPU families: mesh, the rest": (
        "Five rows. The 8B on two Blackhole is predicted over both chips, where two copies ran "
        "with the release of that time; the 70B over 32 Wormhole chips stands for a galaxy whose "
        "links are a torus, and is predicted as cards of two."
    ),
    "NPU families: dataflow, the rest": (
        "Argonne's 16 sequences on SN40L take up to 5 times what the chip's memory would; how the "
        "compiled sections serve a batch is not published."
    ),
    "NPU families: dataflow, first token": "Two rows of one source that differ by a factor of 7.",
}
"""Of a goal, or "goal: part": why it is not reached by the shipped rows, with the evidence."""


def judged(some: Sequence[Figure]) -> list[dict[str, Any]]:
    """Every goal with its figures, whether it is reached, its parts likewise, and why not, where
    all rows are shipped ones: of others nothing is known. A goal without rows has n = 0 and
    `reached` None."""
    inside = is_inside(some)
    why = WHY if {one.id for one in some} <= shipped_ids() else {}
    return [_judged(goal, [one for one in some if goal.holds(one)], inside, why) for goal in GOALS]


def _judged(
    goal: Goal, mine: Sequence[Figure], inside: dict[str, bool], why: Mapping[str, str]
) -> dict[str, Any]:
    names = sorted({goal.parts(one) for one in mine})
    parts = [
        {"part": name, **_line(goal, [one for one in mine if goal.parts(one) == name], inside)}
        for name in (names if len(names) > 1 else ())
    ]
    for part in parts:
        part["why"] = "" if part["reached"] else why.get(f"{goal.name}: {part['part']}", "")
    whole = _line(goal, mine, inside)
    return {
        "goal": goal.name,
        "asked": {"median_abs_error": goal.median, "p90_abs_error": goal.p90},
        **whole,
        "why": "" if whole["reached"] else why.get(goal.name, ""),
        "parts": parts,
    }


def _line(goal: Goal, mine: Sequence[Figure], inside: dict[str, bool]) -> dict[str, Any]:
    if not mine:
        return {"n": 0, "reached": None, "coverage_reached": None}
    found = summed(mine, inside)
    reached = found["median_abs_error"] <= goal.median
    if goal.p90 is not None:
        reached = reached and found["p90_abs_error"] <= goal.p90
    held = found["coverage"] if len(mine) >= FEWEST else None
    covered = None if held is None else COVERAGE[0] <= held <= COVERAGE[1]
    return {**found, "reached": reached, "coverage_reached": covered, "worst": worst(mine)}


def worst(mine: Sequence[Figure], most: int = 3) -> list[dict[str, Any]]:
    """The rows that are farthest off."""
    ranked = sorted(mine, key=lambda one: -abs(one.error))
    return [{"id": one.id, "system": one.system, "error": one.off} for one in ranked[:most]]
