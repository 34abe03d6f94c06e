"""How tensor parallelism divides each op: a value is whole on every chip, or split over the chips.

Rules of Shoeybi et al., "Megatron-LM", 2019, section 3, read off the data flow instead of layer
names: a weight matmul of a whole value is split by columns; one of a split value by rows, and its
result is all-reduced. An op that needs a whole row (a norm, a top-k) of a value that was split by
columns makes that matmul replicated instead (a router, a latent down-projection).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from anychip.ops.attributes import DotDims, RaggedDotDims
from anychip.ops.view import OpView

NOBODY: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Layout:
    """`features`: the last axis is split, as the matmuls in `sources` left it. `heads`: another."""

    kind: Literal["whole", "features", "heads"] = "whole"
    sources: frozenset[int] = NOBODY

    @property
    def is_split(self) -> bool:
        return self.kind != "whole"


WHOLE = Layout()


def joined(layouts: list[Layout]) -> Layout:
    """The layout of an elementwise result: split when any operand is."""
    split = [one for one in layouts if one.is_split]
    if not split:
        return WHOLE
    kind = "features" if any(one.kind == "features" for one in split) else "heads"
    return Layout(kind, NOBODY.union(*(one.sources for one in split)))


def reshaped(op: OpView, layout: Layout) -> Layout:
    """A reshape or transpose that changes the last axis turns features into heads."""
    if layout.kind != "features" or not op.outputs[0].shape or not op.inputs[0].shape:
        return layout
    same = op.outputs[0].shape[-1] == op.inputs[0].shape[-1]
    if same and op.name != "stablehlo.transpose":
        return layout
    if op.name == "stablehlo.transpose" and _keeps_last(op):
        return layout
    return Layout("heads", layout.sources)


def _keeps_last(op: OpView) -> bool:
    order = op.attributes["permutation"]
    return tuple(order)[-1] == len(op.inputs[0].shape) - 1


def keeps_heads(op: OpView, value: int) -> bool:
    """Whether a weight matmul leaves the split axis of operand `value` alone (a batch axis)."""
    dims = op.attributes.get("dot_dimension_numbers")
    if isinstance(dims, RaggedDotDims):
        dims = dims.dot
    if not isinstance(dims, DotDims):
        return False
    batch = dims.lhs_batch if value == 0 else dims.rhs_batch
    return bool(batch)
