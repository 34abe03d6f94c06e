"""Time a language model's real steps on a target: TTFT and TPOT as Measurements."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from anychip.core import (
    CompileOptions,
    Executable,
    LanguageModel,
    Measurement,
    Precision,
    Target,
    UsageError,
    dtype,
    measured,
    simulates,
)

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds to the first token (the whole prompt in one prefill) and for each later one."""

    ttft_s: Measurement
    tpot_s: Measurement


def time_steps(
    model: LanguageModel,
    target: Target,
    *,
    prompt: int,
    generate: int,
    batch: int = 1,
    precision: Precision | None = None,
    prefills: int = 3,
    budget_s: float = 30.0,
    options: CompileOptions | None = None,
    progress: Progress | None = None,
) -> Timing:
    """Run `batch` sequences of `prompt` random tokens and `generate` answers each.

    After one warm-up of each step, `prefills` prefills are timed, then decode steps one by one at
    the positions they really have: all `generate - 1` of them when they fit in `budget_s`, else as
    many, spread evenly over the answer; the note says how many. Times end when the logits are in
    host memory. Raises InputError for a model without weights and UsageError for a target that
    only compiles.
    """
    if not target.runs or simulates(target):
        raise UsageError(f"{target.name} only compiles or predicts; there is nothing to time")
    say, options = progress or (lambda what: None), options or CompileOptions()
    precision = precision or model.native_precision
    context, weights = prompt + generate, model.bind(precision)
    say(f"compiling prefill of {prompt} tokens")
    prefill = target.compile(
        model.prefill(batch, prompt, context, precision).with_weights(weights), options
    )
    say("compiling decode")
    decode = target.compile(model.decode(batch, context, precision).with_weights(weights), options)
    tokens = np.random.default_rng(0).integers(0, model.facts.vocabulary, (batch, prompt))
    stepper = _Stepper(batch)
    firsts: list[float] = []
    for number in range(prefills + 1):
        say(f"prefill {number} of {prefills}" if number else "warming up prefill")
        stepper.reset(prefill)
        seconds = stepper.step(prefill, tokens, 0)
        if number:
            firsts.append(seconds)
    say("warming up decode")
    stepper.step(decode, tokens[:, :1], prompt)
    positions = _positions(prompt, generate, stepper.step(decode, tokens[:, :1], prompt), budget_s)
    say(f"timing {len(positions)} decode steps")
    steps = [stepper.step(decode, tokens[:, :1], position) for position in positions]
    note = f"{len(steps)} of {max(generate - 1, 1)} decode steps, batch {batch}, {precision.name}"
    return Timing(
        ttft_s=measured(
            firsts, note=f"prefill of {prompt} tokens, batch {batch}, {precision.name}"
        ),
        tpot_s=measured(steps, note=note),
    )


class _Stepper:
    """Holds the KV cache between steps, since it is donated to each."""

    def __init__(self, batch: int):
        self._batch = batch
        self._state: dict[str, Any] = {}

    def reset(self, executable: Executable) -> None:
        self._state = {
            a.name: np.zeros([int(d) for d in a.shape], dtype(a.dtype).numpy)
            for a in executable.signature.named("state")
        }

    def step(self, executable: Executable, tokens: np.ndarray, position: int) -> float:
        """Seconds of one call, logits read back included."""
        values: dict[str, Any] = {
            "tokens": tokens.astype(np.int32),
            "start": np.full(self._batch, position, np.int32),
            **self._state,
        }
        signature = executable.signature
        inputs = [values[a.name] for a in signature.arguments if a.role != "weight"]
        start = time.perf_counter()
        outputs = executable.run(*inputs)
        named = dict(zip(signature.results, outputs, strict=True))
        np.asarray(next(value for r, value in named.items() if r.name == "logits"))
        seconds = time.perf_counter() - start
        self._state = {r.updates: value for r, value in named.items() if r.updates}
        return seconds


def _positions(prompt: int, generate: int, first_s: float, budget_s: float) -> list[int]:
    """Cache positions of the decode steps to time: all, or as many as the budget allows."""
    steps = max(generate - 1, 1)
    affordable = max(3, int(budget_s / max(first_s, 1e-9)))
    if steps <= affordable:
        return [prompt + i for i in range(steps)]
    spread = np.linspace(0, steps - 1, affordable)
    return [prompt + round(float(i)) for i in spread]
