"""How the next token is drawn from its logits. The i-th token of an answer has a random number of
its own, made from the seed and i alone: what else is computed, or computed again, does not move it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from anychip.core import UsageError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Temperature 0 takes the likeliest token. Equal seeds draw alike.

    In this order: `repetition` divides positive logits of tokens already in prompt or answer and
    multiplies negative ones (arXiv:1909.05858); of a token that the answer holds n times,
    `presence` + n × `frequency` are taken off; `bias` is added by token id; after the temperature,
    `top_k` keeps the k likeliest (0: all), `top_p` the fewest whose probabilities reach it
    (arXiv:1904.09751), `min_p` those at least that part as likely as the likeliest
    (arXiv:2407.01082). `logprobs` gives that many of the likeliest tokens' log probabilities by
    the model's own logits, beside the drawn token's; None gives none.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict[int, float])
    logprobs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            (0 <= self.temperature <= 100, "temperature", "0 (greedy) to 100"),
            (self.top_k >= 0, "top_k", "0 (all tokens) or more"),
            (0 < self.top_p <= 1, "top_p", "more than 0 and at most 1"),
            (0 <= self.min_p <= 1, "min_p", "0 (off) to 1"),
            (0 < self.repetition <= 100, "repetition", "more than 0 (1 is off) and at most 100"),
            (-100 <= self.presence <= 100, "presence", "-100 to 100"),
            (-100 <= self.frequency <= 100, "frequency", "-100 to 100"),
            (self.logprobs is None or 0 <= self.logprobs <= 100, "logprobs", "0 to 100"),
            (0 <= self.seed < 2**63, "seed", "0 or more"),
        )
        for holds, name, wanted in checks:
            if not holds:
                raise UsageError(f"{name} {getattr(self, name)} must be {wanted}")
        for token, value in self.bias.items():
            if token < 0 or not np.isfinite(value):
                raise UsageError(f"bias {value} of token {token} must be a number, of an id")

    @property
    def keeps_all(self) -> bool:
        """Whether every token may be drawn."""
        return not self.top_k and self.top_p == 1 and self.min_p == 0

    @property
    def needs_history(self) -> bool:
        return self.repetition != 1 or self.presence != 0 or self.frequency != 0


@dataclass(frozen=True)
class Logprobs:
    """Natural logarithms of the model's probabilities: the drawn token's, and the likeliest ones'
    as (token, logprob), likeliest first."""

    drawn: float
    top: tuple[tuple[int, float], ...]


@dataclass
class History:
    """Which tokens prompt and answer hold, as the penalties ask."""

    seen: set[int] = field(default_factory=set[int])
    counts: dict[int, int] = field(default_factory=dict[int, int])

    def add(self, token: int) -> None:
        self.seen.add(token)
        self.counts[token] = self.counts.get(token, 0) + 1


def draw(logits: np.ndarray, sampling: Sampling, index: int, history: History | None = None) -> int:
    """The `index`-th token of an answer, from logits f32[vocabulary]."""
    logits = adjusted(logits, sampling, history)
    if sampling.temperature == 0:
        return int(np.argmax(logits))
    share = np.random.Generator(np.random.Philox(key=[sampling.seed, index])).random()
    if sampling.keeps_all:
        return _at_share(_odds(logits, sampling.temperature), share)
    ids, odds = distribution(logits, sampling)
    return int(ids[_at_share(odds, share)])


def _at_share(odds: np.ndarray, share: float) -> int:
    """The first index up to which the odds, summed, pass `share` (in [0, 1)) of their whole. Sums
    are in f64, of blocks first: only one block of a vocabulary is summed one by one."""
    ends = np.cumsum(np.add.reduceat(odds, np.arange(0, len(odds), _BLOCK), dtype=np.float64))
    wanted = min(share * ends[-1], np.nextafter(ends[-1], 0.0))
    block = int(np.searchsorted(ends, wanted, side="right"))
    before = ends[block - 1] if block else 0.0
    own = odds[block * _BLOCK : (block + 1) * _BLOCK]
    index = int(np.searchsorted(np.cumsum(own, dtype=np.float64), wanted - before, side="right"))
    # the sums of a block's parts and of the whole block are rounded differently
    return block * _BLOCK + min(index, int(np.flatnonzero(own)[-1]))


_BLOCK = 256


def adjusted(logits: np.ndarray, sampling: Sampling, history: History | None) -> np.ndarray:
    """Logits after penalties and bias."""
    if not sampling.bias and not (history and sampling.needs_history):
        return logits
    logits = logits.astype(np.float32, copy=True)
    if history and sampling.repetition != 1 and history.seen:
        ids = np.fromiter(history.seen, np.int64)
        own = logits[ids]
        logits[ids] = np.where(own > 0, own / sampling.repetition, own * sampling.repetition)
    if history and (sampling.presence or sampling.frequency):
        for token, count in history.counts.items():
            logits[token] -= sampling.presence + count * sampling.frequency
    for token, value in sampling.bias.items():
        logits[token] += value
    return logits


def distribution(logits: np.ndarray, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may be drawn and their odds, each exact to f32: likeliest first (of equals
    the smaller id) where tokens are left out, by id where none is."""
    odds = _odds(logits, sampling.temperature)
    whole = odds.sum(dtype=np.float64)
    if sampling.keeps_all:
        return np.arange(len(odds)), odds / whole
    for most in (sampling.top_k or 512, 0):  # few tokens nearly always hold enough
        order = _likeliest(odds, most)
        some = odds[order].astype(np.float64)
        some /= some.sum() if sampling.top_k else whole
        if sampling.top_k or some.sum() >= sampling.top_p or some[-1] < sampling.min_p * some[0]:
            break
    kept = len(some)
    if sampling.top_p < 1:
        kept = min(kept, int(np.searchsorted(np.cumsum(some), sampling.top_p)) + 1)
    if sampling.min_p > 0:
        kept = min(kept, int(np.searchsorted(-some, -sampling.min_p * some[0], side="right")))
    return order[:kept], some[:kept] / some[:kept].sum()


def _odds(logits: np.ndarray, temperature: float) -> np.ndarray:
    """exp(logits / temperature) as f32, the largest scaled to 1."""
    return np.exp((logits - logits.max()) / np.float32(temperature), dtype=np.float32)


def logprobs(logits: np.ndarray, token: int, count: int) -> Logprobs:
    """See Logprobs."""
    wide = logits.astype(np.float64)
    top = float(wide.max())
    wide = wide - (top + np.log(np.exp(wide - top).sum()))
    best = _likeliest(logits, count) if count else ()
    return Logprobs(float(wide[token]), tuple((int(i), float(wide[i])) for i in best))


def _likeliest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest (0: all), largest first, of equals the smaller index."""
    if count and count < len(values) // 4:
        bound = np.partition(values, -count)[-count]
        candidates = np.flatnonzero(values >= bound)
        return candidates[np.argsort(-values[candidates], kind="stable")][:count]
    order = np.argsort(-values, kind="stable")
    return order[:count] if count else order
