"""Pace: how long one step of a server takes, whatever mix of prompts and answers is in it.

A step multiplies every weight once with all its tokens, and each token attends to what stands
before it. So its time is `linear(tokens) + attention(context of each)`, both taken from the twin's
cost of pure decode and pure prefill steps and interpolated. Built once, asked a million times.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from anychip.mapper.surface import Surface
from anychip.twin import Machine, Placement, Shards, Table, place, share, step_cost

NEAR, FAR = 256, 4096
"""Contexts (tokens) between which decode attention is read off, where the model reaches as far."""
PROMPTS = (512, 2048)
"""Prompt lengths at which prefill attention and the single row of logits are read off."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Step times of one model copy. `linear_s[i]` is a step of `tokens[i]` tokens without any
    context; `context_s[i]` what a token of context costs when so many sequences decode.

    `prompt_s` (per token of a prompt) is negative: only its last token has logits.
    `pair_s` is the cost of one token attending to one before it in a prompt. `cache_tokens` is how
    many tokens of KV cache find room, all sequences together, `token_bytes` what one takes on each
    chip; `layers` are the model's.
    """

    tokens: np.ndarray
    linear_s: np.ndarray
    context_s: np.ndarray
    prompt_s: float
    pair_s: float
    cache_tokens: float
    layers: int = 0
    token_bytes: float = 0.0

    def step_s(
        self,
        decodes: float,
        context: float,
        chunks: Iterable[tuple[int, int]] = (),
        slower: float = 1.0,
        checked: int = 1,
    ) -> float:
        """Seconds of a step: `decodes` sequences of `context` tokens in all, `checked` new tokens
        of each, and prompt `chunks` as (tokens, tokens of that prompt already cached). What prompts
        add takes `slower` times as long."""
        prompt, pairs = 0, 0.0
        for size, done in chunks:
            prompt += size
            pairs += size * (done + size / 2)
        tokens, linears, contexts = self._lists
        rows = decodes * checked
        alone = _at(rows, tokens, linears) if decodes else 0.0
        attention = context * _at(decodes, tokens, contexts)
        if not prompt:
            return alone + attention
        linear = _at(rows + prompt, tokens, linears)
        added = linear - alone + prompt * self.prompt_s + pairs * self.pair_s
        return alone + attention + slower * added

    def padded(self) -> Pace:
        """The same where steps are compiled for powers of two of tokens only and filled up."""
        powers = 2.0 ** np.arange(0, np.ceil(np.log2(self.tokens[-1])) + 1)
        powers = np.minimum(powers, self.tokens[-1])
        at = np.unique(np.concatenate([powers, np.minimum(powers + 1, self.tokens[-1])]))
        filled = np.minimum(2.0 ** np.ceil(np.log2(at)), self.tokens[-1])
        return replace(
            self,
            tokens=at,
            linear_s=np.interp(filled, self.tokens, self.linear_s),
            context_s=np.interp(at, self.tokens, self.context_s),
        )

    @cached_property
    def _lists(self) -> tuple[list[float], list[float], list[float]]:
        return self.tokens.tolist(), self.linear_s.tolist(), self.context_s.tolist()


def _at(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """`np.interp` of one number, which arrays make five times as slow."""
    if x <= xs[0]:
        return ys[0]
    if x >= xs[-1]:
        return ys[-1]
    i = bisect_right(xs, x)
    low, high = xs[i - 1], xs[i]
    return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - low) / (high - low)


def pace(
    surface: Surface, machine: Machine, shards: Shards, *, step_tokens: int, sequences: int
) -> Pace:
    """The Pace of steps of up to `step_tokens` tokens, of which `sequences` may be decodes.

    Of a pipeline it is the pace of one batch of the several in flight, one a stage: a step ends
    after all stages, and no sooner than the slowest has served every batch.
    """
    longest = surface.model.facts.context
    near, far = min(NEAR, longest // 4), min(FAR, longest)
    tokens = _grid(step_tokens + sequences)
    at = place(share(surface.decode(1, near), shards), machine)

    def seconds(table: Table) -> float:
        cost = step_cost(table, machine, shards, at)
        return max(cost.seconds, shards.pipeline * cost.stage_s)

    def decode(batch: float, context: int) -> float:
        return seconds(surface.decode(batch, context))

    close = np.array([decode(n, near) for n in tokens])
    distant = np.array([decode(n, far) for n in tokens])
    slope = (distant - close) / (far - near)
    linear = np.maximum(close - slope * near, 0.0)
    short, long = (min(length, longest) for length in PROMPTS)
    extra = [
        seconds(surface.prefill(1, length)) - float(np.interp(length, tokens, linear))
        for length in (short, long)
    ]
    # extra(n) = prompt_s n + pair_s n^2 / 2
    pair = 2 * (extra[1] / long - extra[0] / short) / (long - short)
    return Pace(
        tokens=tokens,
        linear_s=linear,
        context_s=slope / tokens,
        prompt_s=extra[0] / short - pair * short / 2,
        pair_s=max(pair, 0.0),
        cache_tokens=_room(surface, at, shards, near),
        layers=surface.model.facts.layers,
        token_bytes=share(surface.decode(1, near), shards).state_bytes / near,
    )


def _grid(most: int) -> np.ndarray:
    """1, 2, 3, 4, 6, 8, 12 … up to `most`: dense where a step turns from bytes to arithmetic."""
    powers = 2.0 ** np.arange(0, np.log2(most) + 1)
    return np.unique(np.concatenate([powers, powers * 1.5, [most]]))


def _room(surface: Surface, at: Placement, shards: Shards, context: int) -> float:
    """Tokens of cache beside the weights, on the chip that has least room."""
    one = share(surface.decode(1, context), shards)
    left = at.capacity_bytes - one.weight_bytes - one.activation_bytes
    return max(left, 0.0) / (one.state_bytes / context) if one.state_bytes else np.inf
