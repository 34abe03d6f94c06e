"""Paged steps on a target: compiled for the sizes that come up, over one KV cache in pages.

Knows no request: tokens and places in, logits out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import linear_regression, median
from typing import Any

import numpy as np

from anychip.core import (
    Argument,
    CompileOptions,
    Executable,
    LanguageModel,
    Module,
    PagedShape,
    Precision,
    Recalls,
    Target,
    UnsupportedError,
    UsageError,
    Weights,
    dtype,
    require_memory,
)

PAGE = 64
"""Tokens in a page, where nobody says otherwise. On a CPU a page's keys of one head should be some
kilobytes in a row: with 16, attention behind 1,024 tokens reads a fifth slower."""


@dataclass(frozen=True)
class Row:
    """A token of a step: its id, its sequence's line in the table, its position there."""

    token: int
    line: int
    position: int


@dataclass(frozen=True)
class Pace:
    """Seconds of a step by its tokens: as measured where steps of that size ran, else from a line
    through those that did. A line alone says too little: steps that are bound by reading weights
    cost hardly more with two tokens, and other sizes use other kernels."""

    measured: Mapping[int, float]

    def seconds(self, tokens: int) -> float:
        """Needs two sizes measured, or this one."""
        if tokens in self.measured:
            return self.measured[tokens]
        slope, base = self._line
        return max(base, 0.0) + max(slope, 0.0) * tokens

    @cached_property
    def _line(self) -> tuple[float, float]:
        slope, base = linear_regression(list(self.measured), list(self.measured.values()))
        return slope, base


@dataclass
class PagedSteps:
    """A model's steps of up to `shape.tokens` tokens over `shape.pages` pages, one of which, the
    last, is scratch for padding. `seconds` are those of the latest runs by size (tokens, rows);
    `weights` are the steps', once one is compiled."""

    model: LanguageModel
    target: Target
    shape: PagedShape
    precision: Precision
    options: CompileOptions
    progress: Callable[[str], None] = lambda what: None
    seconds: dict[tuple[int, int], deque[float]] = field(default_factory=dict)
    weights: Weights = Weights()
    hidden: np.ndarray | None = None
    """With `shape.gives_hidden`, what the last `run` gave: f32[rows, hidden], as its rows lie."""
    _compiled: dict[tuple[int, int], Executable] = field(default_factory=dict)
    _state: dict[str, Any] = field(default_factory=dict)
    _copy: Executable | None = None

    def __post_init__(self) -> None:
        if not self.target.runs:
            raise UsageError(f"{self.target.name} predicts or compiles only; it generates nothing")
        if self.model.step is None or self.model.step_state is None:
            raise UnsupportedError(
                f"{self.model.name} has no paged step (its frontend knows no builder for it, or it "
                "caches latents); generate one sequence at a time with compile_runner"
            )
        self._arguments: tuple[Argument, ...] = self.model.step_state(self.shape, self.precision)

    @property
    def kv_bytes(self) -> int:
        """What the KV cache takes, known before anything is compiled."""
        return sum(a.nbytes for a in self._arguments)

    @property
    def memory(self) -> str:
        """What the target says of where its weights lie; "" before a step is compiled, and where
        the target says nothing."""
        found = [one.artifacts.get("memory", "") for one in self._compiled.values()]
        return str(found[0]) if found else ""

    @property
    def not_kept(self) -> str:
        """Why the next process packs or compiles anew: the disk is full. Else nothing."""
        found = [str(one.artifacts.get("not_kept", "")) for one in self._compiled.values()]
        return next(filter(None, found), "")

    @property
    def scratch(self) -> int:
        return self.shape.pages - 1

    def warm(self, tokens: int, rows: int) -> None:
        """Compile what such a step needs, and place the weights."""
        self._executable(self.size(tokens, self.shape.tokens), self.size(rows, tokens))

    def run(self, rows: Sequence[Row], wanted: int, table: np.ndarray) -> np.ndarray:
        """Logits f32[wanted, vocabulary] of the last `wanted` rows. `table` has a line for each
        sequence and one more, of scratch pages."""
        tokens = self.size(len(rows), self.shape.tokens)
        count = self.size(max(wanted, 1), tokens)
        executable = self._executable(tokens, count)
        padding = tokens - len(rows)
        ids = np.zeros(tokens, np.int32)
        places = np.zeros((2, tokens), np.int32)
        places[0, :padding] = self.shape.sequences - 1
        ids[padding:] = [row.token for row in rows]
        places[0, padding:] = [row.line for row in rows]
        places[1, padding:] = [row.position for row in rows]
        started = time.perf_counter()
        logits = self._run(executable, {"tokens": ids, "places": places, "table": table})
        recent = self.seconds.setdefault((tokens, count), deque(maxlen=32))
        recent.append(time.perf_counter() - started)
        self.hidden = None if self.hidden is None else self.hidden[padding:]
        return logits[count - wanted :] if wanted else logits[:0]

    def pace(self) -> Pace | None:
        """The medians of small steps so far; None before two sizes were run often enough."""
        recent: dict[int, list[float]] = {}
        for (tokens, _), seconds in self.seconds.items():
            recent.setdefault(tokens, []).extend(seconds)
        known = {n: median(all_) for n, all_ in recent.items() if n <= 64 and len(all_) >= 4}
        return Pace(known) if len(known) > 1 else None

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole pages, (from, to), in this order."""
        if all(isinstance(value, np.ndarray) for value in self._caches().values()):
            for value in self._state.values():
                for source, to in pairs:
                    value[to] = value[source]
            return
        if self._copy is None:
            self._copy = self.target.compile(copy_module(self._arguments), self.options)
        for pair in pairs:
            self._run(self._copy, {"pair": np.array(pair, np.int32)})

    def _caches(self) -> dict[str, Any]:
        if not self._state:
            self._state = {
                a.name: np.zeros([int(d) for d in a.shape], dtype(a.dtype).numpy)
                for a in self._arguments
            }
        return self._state

    def _run(self, executable: Executable, inputs: Mapping[str, Any]) -> np.ndarray:
        values = {**self._caches(), **inputs}
        signature = executable.signature
        given = [values[a.name] for a in signature.arguments if a.role != "weight"]
        outputs = zip(signature.results, executable.run(*given), strict=True)
        named = {result.updates or result.name: value for result, value in outputs}
        logits = np.asarray(named.pop("logits"))
        self.hidden = np.asarray(named.pop("hidden")) if "hidden" in named else None
        self._state = named
        return logits

    def _executable(self, tokens: int, rows: int) -> Executable:
        key = (tokens, rows)
        if not self._compiled:
            require_memory(
                self.kv_bytes, "KV cache", "fewer pages (--kv-mb), or smaller ones (--kv q8_0)"
            )
        if key not in self._compiled:
            self.progress(f"compiling a step of {tokens} tokens, {rows} with logits")
            shape = PagedShape(
                tokens=tokens,
                rows=rows,
                sequences=self.shape.sequences,
                pages=self.shape.pages,
                page_tokens=self.shape.page_tokens,
                table=self.shape.table,
                gives_hidden=self.shape.gives_hidden,
            )
            self._compiled[key] = self._compile(shape)
        return self._compiled[key]

    def _compile(self, shape: PagedShape) -> Executable:
        if isinstance(self.target, Recalls) and self.model.step_recipe is not None:
            recipe = self.model.step_recipe(shape, self.precision)
            self.weights = recipe.weights
            return self.target.recall(recipe, self.options)
        assert self.model.step is not None
        module = self.model.step(shape, self.precision)
        self.weights = module.weights
        return self.target.compile(module, self.options)

    @staticmethod
    def size(count: int, most: int) -> int:
        """Few sizes are compiled: powers of two."""
        return min(1 << (count - 1).bit_length(), most)


def copy_module(state: Sequence[Argument]) -> Module:
    """Page pair[0] of every pool copied to page pair[1]; `logits` is the pair, for the shape of
    a step."""
    from anychip.frontends.trace import to_module

    def copy(*arrays: Any) -> tuple[Any, ...]:
        *pools, pair = arrays
        return (pair, *(pool.at[pair[1]].set(pool[pair[0]]) for pool in pools))

    names = [a.name for a in state]
    return to_module(
        copy,
        (*state, Argument("pair", (2,), "i32")),
        name="copy-page",
        result_names=["logits", *names],
        updates={name: name for name in names},
    )
