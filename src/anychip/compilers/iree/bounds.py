"""Positions outside an array, as StableHLO has them: gathers clamp, scatters drop.

IREE 3.13 reads (github.com/iree-org/iree issue 24881) and writes where such a position points, in
other arrays' memory. A gather's positions are clamped first; a scatter goes into an array with
margins as wide as its window, which are cut off again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anychip.core import ir
from anychip.ops.attributes import GatherDims, ScatterDims, decode


def keep_inside(parsed: Any) -> None:
    """Change every gather and scatter of a parsed module in place."""
    from jaxlib.mlir import ir as mlir

    for op in ir.ops_named(parsed, "stablehlo.gather", "stablehlo.scatter"):
        with mlir.InsertionPoint(op), op.location:
            if op.name == "stablehlo.gather":
                _clamp(op)
            else:
                _with_margins(op)


def _clamp(op: Any) -> None:
    dims = decode(op.attributes["dimension_numbers"])
    assert isinstance(dims, GatherDims)
    shape, sizes = _shape(op.operands[0]), decode(op.attributes["slice_sizes"])
    top = [shape[d] - sizes[d] for d in dims.start_index_map]
    op.operands[1] = _between(op.operands[1], [0] * len(top), top, dims.index_vector)


def _with_margins(op: Any) -> None:
    from jaxlib.mlir import ir as mlir

    dims = decode(op.attributes["scatter_dimension_numbers"])
    assert isinstance(dims, ScatterDims)
    count = len(op.results)
    shape, updates = _shape(op.operands[0]), _shape(op.operands[count + 1])
    kept = [d for d in range(len(shape)) if d not in (*dims.inserted_window, *dims.operand_batch)]
    width = {d: updates[w] for d, w in zip(kept, dims.update_window, strict=True)}
    widths = [width.get(d, 1) for d in dims.scattered]
    margin = [0] * len(shape)
    for d, wide in zip(dims.scattered, widths, strict=True):
        margin[d] = wide
    wide = [size + 2 * edge for size, edge in zip(shape, margin, strict=True)]
    zero = mlir.IntegerType.get_signless(64)
    at = _between(
        _made("stablehlo.convert", _like(op.operands[count], zero), [op.operands[count]]),
        [-w for w in widths],
        [shape[d] for d in dims.scattered],
        dims.index_vector,
    )
    moved = _spread(np.array(widths, np.int64), at, dims.index_vector)
    op.operands[count] = _made("stablehlo.add", at.type, [at, moved])
    after = op.operation
    for i, result in enumerate(op.results):
        narrow = mlir.RankedTensorType(result.type)
        scalar = mlir.RankedTensorType.get([], narrow.element_type)
        nothing = _made("stablehlo.constant", scalar, [], value=_zero(scalar))
        op.operands[i] = _made(
            "stablehlo.pad",
            mlir.RankedTensorType.get(wide, narrow.element_type),
            [op.operands[i], nothing],
            edge_padding_low=mlir.DenseI64ArrayAttr.get(margin),
            edge_padding_high=mlir.DenseI64ArrayAttr.get(margin),
            interior_padding=mlir.DenseI64ArrayAttr.get([0] * len(shape)),
        )
        result.set_type(mlir.RankedTensorType.get(wide, narrow.element_type))
        cut = mlir.Operation.create(
            "stablehlo.slice",
            results=[narrow],
            operands=[result],
            attributes={
                "start_indices": mlir.DenseI64ArrayAttr.get(margin),
                "limit_indices": mlir.DenseI64ArrayAttr.get(
                    [size + edge for size, edge in zip(shape, margin, strict=True)]
                ),
                "strides": mlir.DenseI64ArrayAttr.get([1] * len(shape)),
            },
        )
        cut.move_after(after)
        after = cut
        result.replace_all_uses_except(cut.results[0], [cut])


def _between(at: Any, low: Sequence[int], high: Sequence[int], axis: int) -> Any:
    """Positions clamped to bounds for each component, as far as their type can leave them."""
    from jaxlib.mlir import ir as mlir

    kind = mlir.IntegerType(mlir.RankedTensorType(at.type).element_type)
    element = f"{'u' * kind.is_unsigned}int{kind.width}"
    bits = np.iinfo(element)
    edges = [
        _spread(
            np.array([min(max(e, int(bits.min)), int(bits.max)) for e in edge], element), at, axis
        )
        for edge in (low, high)
    ]
    return _made("stablehlo.clamp", at.type, [edges[0], at, edges[1]])


def _spread(vector: np.ndarray, at: Any, axis: int) -> Any:
    """A constant of the shape of `at`, one of `vector` for each component of a position."""
    from jaxlib.mlir import ir as mlir

    kind = mlir.RankedTensorType(at.type).element_type
    is_apart = axis < len(_shape(at))
    shape = [len(vector)] if is_apart else []
    held = mlir.RankedTensorType.get(shape, kind)
    values: Any = np.ascontiguousarray(vector if is_apart else vector[0])
    constant = _made(
        "stablehlo.constant",
        held,
        [],
        value=mlir.DenseElementsAttr.get(values, type=kind, shape=shape),
    )
    return _made(
        "stablehlo.broadcast_in_dim",
        at.type,
        [constant],
        broadcast_dimensions=mlir.DenseI64ArrayAttr.get([axis] if is_apart else []),
    )


def _made(name: str, kind: Any, operands: Sequence[Any], **attributes: Any) -> Any:
    from jaxlib.mlir import ir as mlir

    made = mlir.Operation.create(
        name, results=[kind], operands=list(operands), attributes=attributes
    )
    return made.results[0]


def _zero(scalar: Any) -> Any:
    from jaxlib.mlir import ir as mlir

    return mlir.Attribute.parse(f"dense<{_literal(str(scalar.element_type))}> : {scalar}")


def _literal(element: str) -> str:
    if element.startswith("complex"):
        return "(0.0, 0.0)"
    return "false" if element == "i1" else "0" if element.lstrip("u").startswith("i") else "0.0"


def _like(value: Any, element: Any) -> Any:
    from jaxlib.mlir import ir as mlir

    return mlir.RankedTensorType.get(_shape(value), element)


def _shape(value: Any) -> list[int]:
    from jaxlib.mlir import ir as mlir

    return list(mlir.RankedTensorType(value.type).shape)
