"""Surface: a language model's kernels at any batch and context, from Modules built at a few.

Every amount of a kernel is affine in batch and, for decoding, in context (the experts touched are
worked out later, from rows), so Tables between two built Modules are exact. Each Module is built
once and shared by all chips that use its precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from anychip.core import LanguageModel, Precision
from anychip.twin import Table, lower

_OTHER_BATCH = 64
"""The second batch at which modules are built, where the workload's own is 1."""


@dataclass(frozen=True)
class Surface:
    """Tables of one model at one precision. `built` remembers what was lowered."""

    model: LanguageModel
    precision: Precision
    built: dict[tuple[str, int, int], Table] = field(default_factory=dict, repr=False)

    def decode(self, batch: float, context: int, *, near: int) -> Table:
        """One token for each of `batch` sequences whose cache holds `context` positions.

        `near` is a whole batch at which a Module is built anyway.
        """
        return self._at(
            "decode", batch, context, near, lambda b: self.model.decode(b, context, self.precision)
        )

    def prefill(self, batch: float, length: int, *, near: int) -> Table:
        """All `length` tokens of `batch` prompts; a fraction stands for a part of one prompt."""
        return self._at(
            "prefill",
            batch,
            length,
            near,
            lambda b: self.model.prefill(b, length, length, self.precision),
        )

    def _at(
        self, kind: str, batch: float, size: int, near: int, module: Callable[[int], object]
    ) -> Table:
        def table(at: int) -> Table:
            key = (kind, at, size)
            if key not in self.built:
                self.built[key] = Table.of(lower(module(at)))  # type: ignore[arg-type]
            return self.built[key]

        if batch == near:
            return table(near)
        other = 1 if near > 1 else _OTHER_BATCH
        low, high = table(near), table(other)
        if low.resembles(high):
            return low.blend(high, (batch - near) / (other - near))
        return table(max(1, round(batch)))  # this batch size changes the program itself
