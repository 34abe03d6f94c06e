"""Surface: a language model's kernels at any batch, from one Module a phase and context.

Weights are read once for the whole batch; everything else is done for each sequence. So a Table at
one batch gives those at others (the experts touched are worked out later, from rows). Each Module
is built once and shared by all chips that use its precision.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from anychip.core import LanguageModel, Module, Precision
from anychip.twin import Table, lower


@dataclass(frozen=True)
class Surface:
    """Tables of one model at one precision. Modules are built at batch `near`, where Tables are
    exact; what was lowered is kept in `made`, what others derive from it in `kept`."""

    model: LanguageModel
    precision: Precision
    near: int
    weight_bytes: int
    made: dict[tuple[str, int], Table] = field(
        default_factory=dict[tuple[str, int], Table], repr=False
    )
    kept: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any], repr=False)

    def decode(self, batch: float, context: int) -> Table:
        """One token for each of `batch` sequences whose cache holds `context` positions."""
        made = self._made(
            "decode", context, lambda: self.model.decode(self.near, context, self.precision)
        )
        return made.at_batch(batch / self.near)

    def prefill(self, batch: float, length: int) -> Table:
        """All `length` tokens of `batch` prompts; a fraction stands for a part of one prompt."""
        made = self._made(
            "prefill",
            length,
            lambda: self.model.prefill(self.near, length, length, self.precision),
        )
        return made.at_batch(batch / self.near)

    def _made(self, phase: str, size: int, build: Callable[[], Module]) -> Table:
        key = (phase, size)
        if key not in self.made:
            self.made[key] = Table.of(lower(build()))
        return self.made[key]


@dataclass(frozen=True)
class Surfaces:
    """Surfaces by model and precision, shared by everything that is asked of them."""

    made: dict[tuple[str, str], Surface] = field(
        default_factory=dict[tuple[str, str], Surface], repr=False
    )

    def at(self, model: LanguageModel, precision: Precision, near: int) -> Surface:
        """The Surface of a model at a precision; a new one is built at batch `near`."""
        key = (model.name, precision.name)
        if key not in self.made:
            self.made[key] = Surface(model, precision, near, model.bind(precision).nbytes)
        return self.made[key]
