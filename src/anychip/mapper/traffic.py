"""Traffic: a served model under a stream of requests, whole or with prompts and answers apart.

Builds demands (users in a loop, Poisson arrivals, a trace of a file), divides them over copies of
the model, and sums up what users saw. The steps themselves are `mapper/serving.py`'s.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anychip.core import InputError, UsageError
from anychip.mapper.disaggregate import Split, serve_apart
from anychip.mapper.pace import Pace
from anychip.mapper.serving import Demand, Served, Stack, guessing, serve

COLUMNS = (("arrival_s", "arrival"), ("prompt",), ("generate", "answer"))
"""Of a trace, each with its other name: seconds, and tokens."""


def traffic(
    requests: int,
    prompt: int | str,
    answer: int | str,
    *,
    rate: float | None = None,
    concurrency: int | None = None,
    spread: float = 0.1,
    seed: int = 0,
) -> Demand:
    """`requests` of about `prompt` and `answer` tokens, each as `lengths` has them.

    Either `rate` a second, arriving by a Poisson process, or from `concurrency` users who each wait
    for their answer. The same seed gives the same demand.
    """
    if (rate is None) == (concurrency is None):
        raise UsageError("give a rate or a concurrency, one of the two")
    if rate is not None and not 0 < rate < math.inf:
        raise UsageError(f"a rate of {rate} requests a second must be above 0")
    if requests < 1 or not 0 <= spread < 1:
        raise UsageError(f"{requests} requests and spread {spread}: need 1 or more, and 0 to 1")
    random = np.random.default_rng(seed)
    sizes = [lengths(str(said), requests, random, spread) for said in (prompt, answer)]
    arrivals = None if rate is None else np.cumsum(random.exponential(1 / rate, requests))
    return Demand(
        prompts=sizes[0], answers=sizes[1], arrivals_s=arrivals, concurrency=concurrency or 0
    )


def lengths(text: str, count: int, random: np.random.Generator, spread: float = 0.0) -> np.ndarray:
    """`count` lengths of at least one token: "1024" is even within `spread` of it, "uniform:A,B"
    even from A to B, "normal:MEAN,DEVIATION", "lognormal:MEAN,SIGMA" (of the logarithm, which is
    what prompts of chats look like), "exponential:MEAN"."""
    kind, colon, rest = text.partition(":")
    try:
        numbers = [float(part) for part in (rest if colon else kind).split(",")]
        if any(not 0 <= n < math.inf for n in numbers) or numbers[0] < 1:
            raise ValueError
        match (kind if colon else "", numbers):
            case "", [mean]:
                drawn = mean * (1 + spread * (2 * random.random(count) - 1))
            case "uniform", [low, high] if low <= high:
                drawn = random.uniform(low, high, count)
            case "normal", [mean, deviation]:
                drawn = random.normal(mean, deviation, count)
            case "lognormal", [mean, sigma]:
                drawn = random.lognormal(math.log(mean) - sigma * sigma / 2, sigma, count)
            case "exponential", [mean]:
                drawn = random.exponential(mean, count)
            case _:
                raise ValueError
    except ValueError:
        raise UsageError(
            f"length {text!r}: expected tokens such as 1024, uniform:100,2000, normal:500,100, "
            "lognormal:1000,0.8 or exponential:300"
        ) from None
    return np.maximum(1, np.rint(drawn)).astype(int)


def read_trace(path: Path) -> Demand:
    """Requests of a CSV file with columns arrival, prompt and generate (seconds, tokens), in any
    order."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file)
            have = set(lines.fieldnames or ())
            names = [next((n for n in either if n in have), "") for either in COLUMNS]
            if not all(names):
                wanted = ", ".join(" or ".join(either) for either in COLUMNS)
                raise InputError(f"expected columns {wanted}", path=str(path), field="header")
            rows = [[float(row[name]) for name in names] for row in lines]
    except FileNotFoundError:
        raise InputError("no such file", path=str(path)) from None
    except (TypeError, ValueError) as error:
        raise InputError(f"expected numbers: {error}", path=str(path)) from None
    if not rows:
        raise InputError("no requests", path=str(path))
    when, prompts, answers = np.array(sorted(rows)).T
    if not np.isfinite(when).all() or min(prompts.min(), answers.min()) < 1:
        raise InputError("expected finite times and at least a token each", path=str(path))
    return Demand(
        prompts=prompts.astype(int), answers=answers.astype(int), arrivals_s=when - when[0]
    )


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """`copies` of a model that serve whole requests. With `prefill` copies beside them, those
    compute prompts only, and hand each cache over at `handover_bytes_per_s` of each chip's link
    after `handover_s`. A copy that is a pipeline has `lanes` batches in flight, one a stage: each
    is served as a copy would be, with its part of the cache and of the places; fewer where the
    cache does not hold the largest request for each."""

    pace: Pace
    stack: Stack
    copies: int = 1
    prefill: int = 0
    lanes: int = 1
    handover_s: float = 0.0
    handover_bytes_per_s: float = np.inf
    accepted: Sequence[float] | None = None
    draft_share: float = 0.0


def run(fleet: Fleet, demand: Demand) -> Served:
    """Serve a demand with a fleet; requests go to whole copies in turn, to parted ones as
    mapper/disaggregate.py says."""
    largest = float((demand.prompts + fleet.stack.held * demand.answers).max())
    lanes = max(1, min(fleet.lanes, int(min(fleet.pace.cache_tokens / largest, 1e9))))
    each = replace(fleet.pace, cache_tokens=fleet.pace.cache_tokens / lanes)
    stack = replace(fleet.stack, sequences=max(1, fleet.stack.sequences // lanes))
    if fleet.prefill:
        split = Split(
            prefill=fleet.prefill * lanes,
            decode=fleet.copies * lanes,
            handover_s=fleet.handover_s,
            handover_bytes_per_s=fleet.handover_bytes_per_s,
        )
        guesses = guessing(fleet.accepted, fleet.draft_share)
        return serve_apart(each, stack, demand, split, guesses)
    if demand.arrivals_s is None and demand.concurrency < fleet.copies:
        raise UsageError(f"{demand.concurrency} users are fewer than {fleet.copies} copies")
    return _merged(
        [
            serve(each, stack, part, fleet.accepted, fleet.draft_share)
            for part in _parts(demand, fleet.copies * lanes)
        ]
    )


def _parts(demand: Demand, copies: int) -> list[Demand]:
    """The demand in turn over copies; users are divided as evenly as they go."""
    if demand.arrivals_s is None:
        copies = min(copies, demand.concurrency)
    if copies == 1:
        return [demand]
    return [
        replace(
            demand,
            prompts=demand.prompts[i::copies],
            answers=demand.answers[i::copies],
            arrivals_s=None if demand.arrivals_s is None else demand.arrivals_s[i::copies],
            concurrency=(demand.concurrency + copies - 1 - i) // copies,
        )
        for i in range(copies)
        if len(demand.prompts[i::copies])
    ]


def _merged(parts: Sequence[Served]) -> Served:
    if len(parts) == 1:
        return parts[0]
    return Served(
        arrived_s=_woven([one.arrived_s for one in parts]),
        first_s=_woven([one.first_s for one in parts]),
        ended_s=_woven([one.ended_s for one in parts]),
        tokens=_woven([one.tokens for one in parts]),
        steps=sum(one.steps for one in parts),
        busy_s=sum(one.busy_s for one in parts),
        decode_steps=sum(one.decode_steps for one in parts),
        decoded=sum(one.decoded for one in parts),
    )


def _woven(parts: Sequence[np.ndarray]) -> np.ndarray:
    """What was dealt out in turn, back in one row."""
    made = np.empty(sum(len(part) for part in parts), parts[0].dtype)
    for i, part in enumerate(parts):
        made[i :: len(parts)] = part
    return made


def goodput(served: Served, ttft_s: float, tpot_s: float) -> tuple[float, float]:
    """(requests a second, share) whose first token came within `ttft_s` and whose others took
    `tpot_s` each or less."""
    many = np.maximum(served.tokens - 1, 1)
    each = np.where(served.tokens > 1, (served.ended_s - served.first_s) / many, 0.0)
    good = (served.ttft_s <= ttft_s) & (each <= tpot_s)
    span = served.ended_s.max() - served.arrived_s.min()
    return float(good.sum() / span), float(good.mean())


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """At each of some moments: requests that wait for their first token, that stream, and tokens
    of KV cache that those streaming fill, all copies together."""

    at_s: np.ndarray
    waiting: np.ndarray
    streaming: np.ndarray
    cache_tokens: np.ndarray


def timeline(served: Served, prompts: np.ndarray, moments: int = 120) -> Timeline:
    """How full the server was, from the first arrival to the last end. `prompts` in the order of
    the requests served."""
    at = np.linspace(served.arrived_s.min(), served.ended_s.max(), moments)
    came, first, ended = (
        np.searchsorted(np.sort(times), at, side="right")
        for times in (served.arrived_s, served.first_s, served.ended_s)
    )
    length = np.maximum(served.ended_s - served.first_s, 1e-12)
    held = [
        float(
            np.where(
                (served.first_s <= t) & (t < served.ended_s),
                prompts + served.tokens * (t - served.first_s) / length,
                0.0,
            ).sum()
        )
        for t in at
    ]
    return Timeline(
        at_s=at, waiting=came - first, streaming=first - ended, cache_tokens=np.array(held)
    )
