"""Surface: a language model's kernels at any batch and context, from Modules built at a few.

Every amount of a kernel is affine in batch and, for decoding, in context (the experts touched are
worked out later, from rows), so Tables between built Modules are exact. Each Module is built once
and shared by all chips that use its precision.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from anychip.core import LanguageModel, Module, Precision
from anychip.twin import Table, lower

OTHER_BATCH = 64
"""The second batch at which Modules are built, where the first is 1."""


@dataclass(frozen=True)
class Surface:
    """Tables of one model at one precision. Modules are built at batch `near` and one other; what
    was lowered is kept in `made`, what others derive from it in `kept`."""

    model: LanguageModel
    precision: Precision
    near: int
    made: dict[tuple[str, float, int], Table] = field(
        default_factory=dict[tuple[str, float, int], Table], repr=False
    )
    kept: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any], repr=False)

    def decode(self, batch: float, context: int) -> Table:
        """One token for each of `batch` sequences whose cache holds `context` positions."""
        return self._at(
            "decode", batch, context, lambda b: self.model.decode(b, context, self.precision)
        )

    def decode_later(self, batch: float, first: int, last: int) -> Table:
        """`decode(batch, last)` from `first`: weights do not depend on the context, so what a
        longer context adds is the same for every sequence."""
        start, end = self.decode(self.near, first), self.decode(self.near, last)
        if batch == self.near:
            return end
        here = self.decode(batch, first)
        if not (start.resembles(end) and here.resembles(start)):
            return self.decode(batch, last)
        return here.grown(start, end, batch / self.near)

    def prefill(self, batch: float, length: int) -> Table:
        """All `length` tokens of `batch` prompts; a fraction stands for a part of one prompt."""
        return self._at(
            "prefill",
            batch,
            length,
            lambda b: self.model.prefill(b, length, length, self.precision),
        )

    def _at(self, kind: str, batch: float, size: int, build: Callable[[int], Module]) -> Table:
        key = (kind, batch, size)
        if key not in self.made:
            self.made[key] = self._between(kind, batch, size, build)
        return self.made[key]

    def _between(self, kind: str, batch: float, size: int, build: Callable[[int], Module]) -> Table:
        if batch == self.near:
            return Table.of(lower(build(self.near)))
        other = 1 if self.near > 1 else OTHER_BATCH
        if batch == other:
            return Table.of(lower(build(other)))
        low, high = (self._at(kind, at, size, build) for at in (self.near, other))
        if low.resembles(high):
            return low.blend(high, (batch - self.near) / (other - self.near))
        whole = max(1, round(batch))  # this program changes with its batch
        return (
            self._at(kind, whole, size, build) if whole != batch else Table.of(lower(build(whole)))
        )


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
            self.made[key] = Surface(model, precision, near)
        return self.made[key]
