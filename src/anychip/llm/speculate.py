"""Guesses at the tokens that follow, to be checked by the model several at once: from the text so
far, or by a smaller model. A guess is kept when it is what the model draws there, so answers are
those without guessing, token by token, whatever the sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from anychip.core import CompileOptions, LanguageModel, Precision, Target, UsageError
from anychip.llm.generate import TokenLoop, compile_runner


class Drafter(Protocol):
    """Guesses for many requests, each known by a number. `name` says how it guesses."""

    @property
    def name(self) -> str: ...
    def draft(self, request: int, tokens: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may follow `tokens`, all of the request's so far."""
        ...

    def forget(self, request: int) -> None:
        """The request is over."""
        ...


@runtime_checkable
class SeesHidden(Protocol):
    """A drafter that reads what the model's head is given."""

    def see(self, request: int, position: int, hidden: np.ndarray) -> None:
        """Of the tokens from `position` on, f32[tokens, hidden]. Those of guesses that do not come
        true are shown too, and written over by the next call."""
        ...


@dataclass
class PromptLookup:
    """What followed the last time the same `longest` … `shortest` tokens stood in the text."""

    longest: int = 4
    shortest: int = 2
    name: str = "prompt-lookup"
    _known: dict[int, tuple[int, dict[tuple[int, ...], int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise UsageError(f"prompt lookup of {self.shortest} to {self.longest} tokens")

    def draft(self, request: int, tokens: Sequence[int], most: int) -> list[int]:
        done, ends = self._known.get(request, (0, {}))
        # Each run of tokens → where the text goes on behind its last occurrence but the newest.
        for end in range(done + 1, len(tokens)):
            for length in range(self.shortest, min(self.longest, end) + 1):
                ends[tuple(tokens[end - length : end])] = end
        self._known[request] = (max(len(tokens) - 1, 0), ends)
        for length in range(min(self.longest, len(tokens)), self.shortest - 1, -1):
            at = ends.get(tuple(tokens[len(tokens) - length :]))
            if at is not None:
                return list(tokens[at : at + most])
        return []

    def forget(self, request: int) -> None:
        self._known.pop(request, None)


@dataclass
class DraftModel:
    """A smaller model with the same vocabulary guesses its likeliest tokens, one after the other.

    Each request has a cache of its own for `context` tokens; `kv_bytes` says how much one takes.
    """

    model: LanguageModel
    target: Target
    context: int
    precision: Precision | None = None
    options: CompileOptions | None = None
    name: str = field(init=False)
    _loops: dict[int, tuple[TokenLoop, list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = f"draft:{self.model.name}"
        self._runner = compile_runner(
            self.model,
            self.target,
            prompt_tokens=min(64, self.context - 1),
            max_new=max(self.context - 64, 1),
            precision=self.precision,
            options=self.options,
        )
        state = self._runner.decode.signature.named("state")
        self.kv_bytes = sum(a.nbytes for a in state)
        if any(a.shape[-2] != self._runner.context for a in state):
            raise UsageError(
                f"{self.model.name} keeps a window only, so guesses cannot be taken back; "
                "use another draft model"
            )

    def draft(self, request: int, tokens: Sequence[int], most: int) -> list[int]:
        room = self._runner.context - len(tokens)
        most = min(most, room)
        if most < 1:
            return []
        if request not in self._loops:
            self._loops[request] = (TokenLoop(self._runner.decode, self._runner.context), [])
        loop, cached = self._loops[request]
        alike = 0
        for a, b in zip(cached, tokens[:-1], strict=False):
            if a != b:
                break
            alike += 1
        loop.position = alike
        loop.read(self._runner.prefill, list(tokens[alike:-1]))
        guesses = [tokens[-1]]
        for _ in range(most):
            guesses.append(int(loop.step(guesses[-1]).argmax()))
        self._loops[request] = (loop, [*tokens[:-1], *guesses[:-1]])
        return guesses[1:]

    def forget(self, request: int) -> None:
        self._loops.pop(request, None)


@dataclass
class Acceptance:
    """How many guesses came true: `runs[n]` counts the checks of which n guesses in a row did."""

    drafter: str
    proposed: int = 0
    runs: dict[int, int] = field(default_factory=dict)
    rate: float = 0.5  # a guess's recent chance, given that those before it were right

    def add(self, proposed: int, accepted: int) -> None:
        self.proposed += proposed
        self.runs[accepted] = self.runs.get(accepted, 0) + 1
        for i in range(accepted + (accepted < proposed)):
            self.saw(i < accepted)

    def saw(self, is_right: bool) -> None:
        """A guess and the token that came there, whether or not it was checked ahead."""
        self.rate += 0.1 * (is_right - self.rate)

    @property
    def checks(self) -> int:
        return sum(self.runs.values())

    @property
    def accepted(self) -> int:
        return sum(n * count for n, count in self.runs.items())

    def to_json(self) -> dict[str, Any]:
        """`mean_accepted_length` counts the token that a step gives anyway, as papers do."""
        checks = max(self.checks, 1)
        return {
            "drafter": self.drafter,
            "checks": self.checks,
            "proposed": self.proposed,
            "accepted": self.accepted,
            "mean_accepted_length": 1 + self.accepted / checks,
            "mean_draft_length": self.proposed / checks,
            "accepted_runs": {str(n): self.runs[n] for n in sorted(self.runs)},
        }


def best_length(rate: float, costs: Sequence[float]) -> int:
    """How many guesses pay most, each true with probability `rate` after the one before, when
    making and checking n takes costs[n] of a step without any (arXiv:2211.17192, eq. 1); none
    where the best would save less than one step in twenty, for rates are seen late."""
    best, most, expected, chance = 0, 1.05 / costs[0], 1.0, 1.0
    for count, cost in enumerate(costs[1:], 1):
        chance *= rate
        expected += chance
        if expected / cost > most:
            best, most = count, expected / cost
    return best
