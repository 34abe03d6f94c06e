"""How fast a model generates on a target, by paged steps: decode and prefill, beside anything else
that is to be timed in the same rounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from anychip.core import (
    CompileOptions,
    LanguageModel,
    Measurement,
    PagedShape,
    Precision,
    Target,
    UsageError,
    measured,
)
from anychip.llm.paged import PAGE, PagedSteps, Row


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Tokens a second, and `ratio`: bytes a second that decode steps read, over what `beside` moved
    in the same round. `step_bytes` are a decode step's: weights once, and each sequence's cache."""

    decode_tok_s: Measurement
    prefill_tok_s: Measurement
    bytes_per_s: Measurement
    beside_bytes_per_s: Measurement
    ratio: Measurement
    step_bytes: int


@dataclass
class Bench:
    """A model on a target, `batch` sequences at `context` tokens each, prompts of `prompt`."""

    model: LanguageModel
    target: Target
    precision: Precision
    options: CompileOptions
    batch: int = 1
    context: int = 64
    prompt: int = 512
    progress: Callable[[str], None] = lambda what: None
    _steps: PagedSteps = field(init=False)

    def __post_init__(self) -> None:
        longest = max(self.context + 64, self.prompt)
        if min(self.batch, self.context, self.prompt) < 1:
            raise UsageError("batch, context and prompt must be at least 1")
        if longest > self.model.facts.context:
            raise UsageError(
                f"{self.model.name} was made for {self.model.facts.context} tokens, "
                f"this needs {longest}"
            )
        per = -(-longest // PAGE)
        shape = PagedShape(
            tokens=max(self.prompt, self.batch),
            rows=self.batch,
            sequences=self.batch + 1,
            pages=self.batch * per + 1,
            page_tokens=PAGE,
            table=per,
        )
        self._steps = PagedSteps(
            self.model, self.target, shape, self.precision, self.options, self.progress
        )
        self._table = np.full((shape.sequences, per), self._steps.scratch, np.int32)
        pages = np.arange(self.batch * per, dtype=np.int32)
        self._table[:-1] = pages.reshape(self.batch, per)
        self._token_bytes = self._steps.kv_bytes // (shape.pages * PAGE)

    @property
    def step_bytes(self) -> int:
        """After a first step. A table of embeddings that is no head is not read, but for a row."""
        weights = self._steps.weights
        is_tied = not any(name == "head" or name.startswith("head.") for name in weights)
        read = sum(
            w.nbytes for name, w in weights.items() if is_tied or name.split(".")[0] != "embed"
        )
        return read + self.batch * self.context * self._token_bytes

    def decode(self, steps: int) -> float:
        """Seconds of so many steps."""
        started = time.perf_counter()
        for i in range(steps):
            at = self.context + i % 64
            rows = [Row(5, line, at) for line in range(self.batch)]
            self._steps.run(rows, self.batch, self._table)
        return time.perf_counter() - started

    def prefill(self) -> float:
        """Seconds of one prompt."""
        started = time.perf_counter()
        self._steps.run([Row(5, 0, at) for at in range(self.prompt)], 1, self._table)
        return time.perf_counter() - started

    def run(
        self, beside: Callable[[], object], beside_bytes: float, *, rounds: int = 5, steps: int = 16
    ) -> Throughput:
        """Rounds of prefill, decode steps and `beside`, after one of each to warm up."""
        self.prefill()
        self.decode(2)
        beside()
        decodes: list[float] = []
        prefills: list[float] = []
        others: list[float] = []
        for number in range(rounds):
            self.progress(f"round {number + 1} of {rounds}")
            prefills.append(self.prefill())
            decodes.append(self.decode(steps) / steps)
            started = time.perf_counter()
            beside()
            others.append(time.perf_counter() - started)
        size = self.step_bytes
        note = f"{rounds} rounds of {steps} steps, batch {self.batch}, context {self.context}"
        return Throughput(
            decode_tok_s=measured([self.batch / s for s in decodes], note=note),
            prefill_tok_s=measured(
                [self.prompt / s for s in prefills], note=f"{rounds} prompts of {self.prompt}"
            ),
            bytes_per_s=measured([size / s for s in decodes], note=note),
            beside_bytes_per_s=measured([beside_bytes / s for s in others]),
            ratio=measured(
                [
                    (size / step) / (beside_bytes / other)
                    for step, other in zip(decodes, others, strict=True)
                ],
                note="round by round",
            ),
            step_bytes=size,
        )
