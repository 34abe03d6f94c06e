"""The model's own module for guessing ahead (multi-token prediction) as a drafter: it reads what
the model made of each token, so the engine shows it that as steps go by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anychip.core import (
    CompileOptions,
    Executable,
    LanguageModel,
    Precision,
    Target,
    UsageError,
    dtype,
)

_LENGTHS = (64, 16, 4, 1)
"""Sizes of steps, each compiled when it comes up."""


@dataclass
class _Seen:
    """Of one request: its cache, how many pairs of it are of tokens that stand, and what the model
    made of its tokens from `first` on. What a prefix cache held is never seen."""

    state: list[Any]
    first: int
    pairs: int = 0
    hidden: list[np.ndarray] = field(default_factory=list)


@dataclass
class MTPDrafter:
    """Guesses the module's likeliest tokens, the first from what the model made of the last token
    it has read, further ones from what the module itself made.

    Each request has a cache of its own for `context` tokens; `kv_bytes` says how much one takes.
    Raises UsageError for a model without such a module.
    """

    model: LanguageModel
    target: Target
    context: int
    precision: Precision
    options: CompileOptions = field(default_factory=CompileOptions)
    name: str = field(init=False)
    _requests: dict[int, _Seen] = field(default_factory=dict)
    _compiled: dict[int, Executable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model.mtp is None:
            raise UsageError(
                f"{self.model.name} has no module that guesses ahead (multi-token prediction), or "
                "not of a kind that is built: full attention over keys and values, no experts. "
                "Guess with `lookup` or a draft model"
            )
        self.name = f"mtp:{self.model.name}"
        self.kv_bytes = sum(a.nbytes for a in self._step(1).signature.named("state"))

    def see(self, request: int, position: int, hidden: np.ndarray) -> None:
        """What the model made of the tokens from `position` on, f32[tokens, hidden]."""
        seen = self._requests.get(request)
        if seen is None or not seen.first <= position <= seen.first + len(seen.hidden):
            state = [
                np.zeros([int(d) for d in a.shape], dtype(a.dtype).numpy)
                for a in self._step(1).signature.named("state")
            ]
            seen = self._requests[request] = _Seen(state, position)
        at = position - seen.first
        seen.pairs = min(seen.pairs, at)
        seen.hidden[at:] = list(hidden)

    def draft(self, request: int, tokens: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may follow `tokens`; none of a request not seen."""
        seen = self._requests.get(request)
        if seen is None:
            return []
        # Pair i: what the model made of token i, and token i + 1.
        count = len(tokens) - 1 - seen.first
        most = min(most, self.context - count + 1)
        if not 0 < count <= len(seen.hidden) or most < 1:
            return []
        logits, after = self._read(seen, tokens, count)
        guesses = [int(logits.argmax())]
        for i in range(most - 1):
            # In the cache beyond the pairs that stand, which the next call writes over.
            logits, after = self._run(seen, [guesses[-1]], after[None], count + i)
            guesses.append(int(logits.argmax()))
        return guesses

    def forget(self, request: int) -> None:
        self._requests.pop(request, None)

    def _read(
        self, seen: _Seen, tokens: Sequence[int], count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """All pairs up to `count` that the cache does not hold; what the last one gave."""
        at = min(seen.pairs, count - 1)
        made: tuple[np.ndarray, np.ndarray] | None = None
        while at < count:
            size = next(n for n in _LENGTHS if n <= count - at)
            first = seen.first + at + 1
            hidden = np.stack(seen.hidden[at : at + size])
            made = self._run(seen, tokens[first : first + size], hidden, at)
            at += size
        seen.pairs = count
        assert made is not None
        return made

    def _run(
        self, seen: _Seen, tokens: Sequence[int], hidden: np.ndarray, start: int
    ) -> tuple[np.ndarray, np.ndarray]:
        ids = np.array([tokens], np.int32)
        step, places = self._step(len(tokens)), np.arange(len(tokens)) + seen.first + start
        logits, after, *seen.state = step.run(
            *seen.state,
            ids,
            hidden[None].astype(np.float32),
            (places[None] > 0).astype(np.float32),
            np.array([start], np.int32),
        )
        return np.asarray(logits)[0], np.asarray(after)[0]

    def _step(self, length: int) -> Executable:
        if length not in self._compiled:
            assert self.model.mtp is not None
            module = self.model.mtp(length, self.context, self.precision)
            self._compiled[length] = self.target.compile(module, self.options)
        return self._compiled[length]
