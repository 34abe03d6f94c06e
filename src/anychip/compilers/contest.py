"""Programs that do the same, side by side: are their numbers near enough, and which is fastest."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anychip.core import AnychipError, CompileError


@dataclass(frozen=True)
class _Burst:
    """A pause, so that the threads of the one before stop spinning; runs that do not count, for
    they meet another program's caches; runs that do, at least two and at most `most`."""

    settle_s: float
    warm_s: float
    counted_s: float
    most: int


_HEAT, _FINAL = _Burst(0.02, 0.01, 0.015, 10), _Burst(0.05, 0.03, 0.06, 20)
_HEATS, _FAR, _NEAR = 3, 3.0, 2.0
"""Rounds in which all take part but those more than `_FAR` times as slow as the best in one; those
less than `_NEAR` times as slow in all go on."""
_LONG_S = 0.2
"""A run that takes longer is a burst of its own: what it meets at first hardly counts in it."""
_LEAST = 5
"""Rounds of the final before one may drop out of it."""
_CHANCE = 0.01
"""How likely a drop-out may be by chance, were it as fast as the leader (sign test on rounds)."""
_ALIKE = 1.05
"""Of those not told apart and at most so far behind, round by round, the order given decides."""


@dataclass(frozen=True)
class Entrant:
    name: str
    run: Callable[..., Sequence[Any]]


@dataclass
class Row:
    """What happened to one entrant. `bursts_s` are the final's, where it came that far."""

    error: float | None = None
    failure: str = ""
    bursts_s: list[list[float]] = field(default_factory=list[list[float]])
    is_finalist: bool = False

    @property
    def samples_s(self) -> list[float]:
        return [sample for burst in self.bursts_s for sample in burst]

    @property
    def each_s(self) -> list[float]:
        """The median of each burst: what a program does to itself, such as threads that wait for
        one another, counts as it does for its user."""
        return [statistics.median(burst) for burst in self.bursts_s]

    @property
    def typical_s(self) -> float:
        return statistics.median(self.each_s)

    @property
    def undisturbed_s(self) -> float:
        """The median over bursts of each one's best run: tells from three bursts who is near."""
        return statistics.median(min(burst) for burst in self.bursts_s)


@dataclass(frozen=True)
class Outcome:
    rows: Mapping[str, Row]
    fastest: str

    def to_json(self) -> dict[str, Any]:
        return {
            name: {
                "max_error": row.error,
                "failure": row.failure or None,
                "median_s": statistics.median(row.samples_s) if row.bursts_s else None,
                "typical_s": row.typical_s if row.bursts_s else None,
                "undisturbed_s": row.undisturbed_s if row.bursts_s else None,
                "is_finalist": row.is_finalist,
                "samples_s": row.samples_s,
            }
            for name, row in self.rows.items()
        }


def contest(
    entrants: Sequence[Entrant],
    inputs: Sequence[Any],
    *,
    reference: str = "",
    tolerance: float = 1e-3,
    seconds: float = 3.0,
    rounds: int = 25,
) -> Outcome:
    """Check each against the reference's results, then time those that agree in turns.

    Without a reference (or when it fails) the first that runs takes its place. Three rounds tell
    who is near the best; those are timed anew in a final of longer bursts, of at least 5 rounds, at
    most `rounds`, and about `seconds`, less where one is soon alone in front. Each round begins
    with another entrant. Who is behind the leader in so many rounds that chance does not explain it
    drops out, which leaves more of the time to the rest. Of those never told apart the first in
    `entrants` is taken.
    Raises CompileError when none gives the reference's numbers.
    """
    held = [np.array(i) for i in inputs]
    rows = {e.name: Row() for e in entrants}
    results: dict[str, list[np.ndarray]] = {}
    for one in entrants:
        try:
            results[one.name] = _results(one, held)
        except AnychipError as error:
            rows[one.name].failure = str(error).splitlines()[0]
    if not results:
        raise CompileError("; ".join(f"{name}: {row.failure}" for name, row in rows.items()))
    want = results.get(reference) or next(iter(results.values()))
    racing: list[Entrant] = []
    for one in entrants:
        if one.name not in results:
            continue
        error = rows[one.name].error = distance(results[one.name], want)
        if error <= tolerance:
            racing.append(one)
        else:
            rows[one.name].failure = f"differs by {error:.2g}, more than {tolerance:g}"
    results.clear()
    for turn in range(_HEATS):
        for one in _in_turn(racing, turn):
            rows[one.name].bursts_s.append(_burst(one, held, _HEAT))
        racing = _near_best(racing, rows, _FAR)
    finalists = _near_best(racing, rows, _NEAR)
    if len(finalists) > 1:
        for one in finalists:
            rows[one.name] = Row(rows[one.name].error, is_finalist=True)
        start = time.perf_counter()
        for turn in range(rounds):
            for one in _in_turn(finalists, turn):
                rows[one.name].bursts_s.append(_burst(one, held, _FINAL))
            if turn + 1 >= _LEAST:
                finalists = _not_told_apart(finalists, rows)
                if len(finalists) == 1 or time.perf_counter() - start > seconds:
                    break
    leader = min((rows[e.name] for e in finalists), key=lambda row: row.typical_s)
    return Outcome(rows, next(e.name for e in finalists if _behind(rows[e.name], leader) < _ALIKE))


def _not_told_apart(finalists: Sequence[Entrant], rows: Mapping[str, Row]) -> list[Entrant]:
    """The leader and those that may be as fast: all have been in every round so far."""
    leader = min((rows[e.name] for e in finalists), key=lambda row: row.typical_s)
    return [e for e in finalists if not _is_behind(rows[e.name].each_s, leader.each_s)]


def _behind(mine: Row, leader: Row) -> float:
    """How many times the leader's time mine takes: in the rounds both were in, since what slows
    the machine for a while slows a round."""
    return statistics.median(m / k for m, k in zip(mine.each_s, leader.each_s, strict=True))


def _is_behind(mine: Sequence[float], leaders: Sequence[float]) -> bool:
    """Whether `mine` lose so many rounds that a fair coin would hardly (sign test, one-sided)."""
    rounds = len(mine)
    lost = sum(m > k for m, k in zip(mine, leaders, strict=True))
    return sum(math.comb(rounds, n) for n in range(lost, rounds + 1)) <= _CHANCE * 2**rounds


def _near_best(racing: list[Entrant], rows: Mapping[str, Row], times: float) -> list[Entrant]:
    best = min(rows[e.name].undisturbed_s for e in racing)
    return [e for e in racing if rows[e.name].undisturbed_s < times * best]


def _in_turn(racing: Sequence[Entrant], turn: int) -> list[Entrant]:
    first = turn % len(racing)
    return [*racing[first:], *racing[:first]]


def _results(one: Entrant, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(r) for r in one.run(*[np.array(i) for i in inputs])]


def _burst(one: Entrant, inputs: Sequence[np.ndarray], burst: _Burst) -> list[float]:
    time.sleep(burst.settle_s)
    began = time.perf_counter()
    if (first := _timed(one, inputs)) > _LONG_S:
        return [first]
    while time.perf_counter() - began < burst.warm_s:
        _timed(one, inputs)
    samples: list[float] = []
    while len(samples) < 2 or (sum(samples) < burst.counted_s and len(samples) < burst.most):
        samples.append(_timed(one, inputs))
    return samples


def _timed(one: Entrant, inputs: Sequence[np.ndarray]) -> float:
    start = time.perf_counter()
    for result in one.run(*inputs):
        np.asarray(result)  # XLA returns before it is done
    return time.perf_counter() - start


def distance(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> float:
    """The largest difference of any result, relative to that result's largest value.

    Infinite where shapes, NaNs or infinities differ; integers and booleans must be equal.
    """
    worst = 0.0 if len(got) == len(want) else float("inf")
    for g, w in zip(got, want, strict=False):
        if g.shape != w.shape:
            return float("inf")
        if w.dtype.kind in "biu":
            worst = max(worst, 0.0 if (g == w).all() else float("inf"))
            continue
        a, b = g.astype(np.float64), w.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        if same.all():
            continue
        finite = np.isfinite(b)
        scale = float(np.abs(b[finite]).max()) if finite.any() else 0.0
        gap = float(np.abs(a - b)[~same].max())
        worst = max(worst, gap / scale if scale and np.isfinite(gap) else float("inf"))
    return worst
