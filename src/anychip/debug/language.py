"""What an error in the logits does to a language model: agreement, margins, perplexity."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, kw_only=True)
class LanguageOutput:
    """Over `positions` that predict a token of a text, a being the reference.

    `perplexity_a`, `perplexity_b`: exp of the mean negative log-likelihood of the text's tokens.
    `top1_agreement`: share of positions where both find the same token likeliest. `margin`: mean
    of a's likeliest logit minus its second; `margin_lost`: share of positions where b has these two
    the other way round. `logit_rms`: root mean square of b's logits minus a's, each position's mean
    taken off, which no probability depends on. `divergence`: mean Kullback-Leibler divergence of
    b's next-token distribution from a's, in nats.
    """

    positions: int
    perplexity_a: float
    perplexity_b: float
    top1_agreement: float
    margin: float
    margin_lost: float
    logit_rms: float
    divergence: float

    @staticmethod
    def empty() -> LanguageOutput:
        return LanguageOutput(
            positions=0,
            perplexity_a=1.0,
            perplexity_b=1.0,
            top1_agreement=0.0,
            margin=0.0,
            margin_lost=0.0,
            logit_rms=0.0,
            divergence=0.0,
        )

    def with_window(self, tokens: np.ndarray, a: np.ndarray, b: np.ndarray) -> LanguageOutput:
        """This and one more window: tokens [length], both logits [length, vocabulary]."""
        here = _window(tokens, a, b)
        total = self.positions + here.positions

        def mean(name: str) -> float:
            mine, new = getattr(self, name) * self.positions, getattr(here, name) * here.positions
            return (mine + new) / total

        def perplexity(name: str) -> float:
            mine, new = (math.log(getattr(one, name)) for one in (self, here))
            return math.exp((mine * self.positions + new * here.positions) / total)

        squares = self.logit_rms**2 * self.positions + here.logit_rms**2 * here.positions
        return replace(
            self,
            positions=total,
            perplexity_a=perplexity("perplexity_a"),
            perplexity_b=perplexity("perplexity_b"),
            logit_rms=math.sqrt(squares / total),
            **{n: mean(n) for n in ("top1_agreement", "margin", "margin_lost", "divergence")},
        )


def _window(tokens: np.ndarray, a: np.ndarray, b: np.ndarray) -> LanguageOutput:
    a, b = a[:-1].astype(np.float64), b[:-1].astype(np.float64)
    following = tokens[1:]
    log_a, log_b = _log_softmax(a), _log_softmax(b)
    rows = np.arange(len(following))
    second, first = np.argpartition(a, -2, axis=-1)[:, -2:].T
    swap = a[rows, second] > a[rows, first]
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    margin = a[rows, first] - a[rows, second]
    off = b - a
    off = off - off.mean(-1, keepdims=True)
    agrees = b.argmax(-1) == a.argmax(-1)
    return LanguageOutput(
        positions=len(following),
        perplexity_a=math.exp(-log_a[rows, following].mean()),
        perplexity_b=math.exp(-log_b[rows, following].mean()),
        top1_agreement=float(agrees.mean()),
        margin=float(margin.mean()),
        margin_lost=float((b[rows, first] < b[rows, second]).mean()),
        logit_rms=float(np.sqrt((off**2).mean())),
        divergence=float((np.exp(log_a) * (log_a - log_b)).sum(-1).mean()),
    )


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
