"""Matrix products as MatMul: dot_general, dot, einsum."""

from __future__ import annotations

import math
from typing import Any

from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.compilers.onnx_export.typed import computing_type
from anychip.core import UnsupportedError, dtype
from anychip.ops.attributes import DotDims
from anychip.ops.view import OpView


def _dot_general(g: Graph, op: OpView, lhs: Tensor, rhs: Tensor) -> Tensor:
    return product(g, op, lhs, rhs, op.attributes["dot_dimension_numbers"])


def _dot(g: Graph, op: OpView, lhs: Tensor, rhs: Tensor) -> Tensor:
    return product(g, op, lhs, rhs, DotDims((), (), (len(lhs.shape) - 1,), (0,)))


def product(g: Graph, op: OpView, lhs: Tensor, rhs: Tensor, dims: DotDims) -> Tensor:
    """Batch dimensions first, one row and one column dimension each: what MatMul takes."""
    out = op.outputs[0]
    wide = computing_type(out.dtype)
    if dtype(out.dtype).kind == "bool":
        raise UnsupportedError("ONNX multiplies no matrices of i1")
    a, b = _in(g, g.whole(lhs), lhs.dtype, wide), _in(g, g.whole(rhs), rhs.dtype, wide)
    rows = _free(lhs, dims.lhs_batch, dims.lhs_contract)
    columns = _free(rhs, dims.rhs_batch, dims.rhs_contract)
    a_order = [*dims.lhs_batch, *rows, *dims.lhs_contract]
    b_order = [*dims.rhs_batch, *dims.rhs_contract, *columns]
    a, b = g.transpose(a, a_order), g.transpose(b, b_order)
    a_sizes = [lhs.shape[d] for d in a_order]
    b_sizes = [rhs.shape[d] for d in b_order]
    batch, k = len(dims.lhs_batch), len(dims.lhs_contract)
    plain_rhs = k == 1 and len(columns) == 1
    if (plain_rhs and len(rows) == 1) or (plain_rhs and not batch and rows):
        made = _stacked(g, a, b, b_sizes, out.shape, batch) or g.node("MatMul", [a, b])
    else:
        heads = a_sizes[:batch]
        a = g.reshape(
            a,
            [
                *heads,
                _size(a_sizes[batch : batch + len(rows)]),
                _size(a_sizes[batch + len(rows) :]),
            ],
        )
        b = g.reshape(b, [*heads, _size(b_sizes[batch : batch + k]), _size(b_sizes[batch + k :])])
        made = g.reshape(g.node("MatMul", [a, b]), out.shape)
    made = made if wide == out.dtype else g.cast(made, out.dtype)
    return Tensor(made, out.shape, out.shape, out.dtype)


def _stacked(g: Graph, a: str, b: str, b_sizes: Any, out: Any, batch: int) -> str:
    """The product with the leading ones that a reshape took from `a`; "" when it took none.

    A batch of one is squeezed away before a product and put back after it, which would hide
    attention from the runtimes: they know it by four dimensions.
    """
    made, sizes = g.producer.get(a), g.sizes.get(a)
    if not batch or made is None or made.op_type != "Reshape" or sizes is None:
        return ""
    before = g.sizes.get(made.input[0]) or ()
    ones = len(before) - len(sizes)
    if ones < 1 or before != (1,) * ones + sizes or None in (*out, *b_sizes):
        return ""
    wide = g.node("MatMul", [made.input[0], g.reshape(b, [*before[:ones], *b_sizes])])
    g.sizes[wide] = (*before[:ones], *out)
    return g.reshape(wide, out)


def _in(g: Graph, name: str, element: str, wide: str) -> str:
    return name if element == wide else g.cast(name, wide)


def _free(t: Tensor, batch: tuple[int, ...], contract: tuple[int, ...]) -> list[int]:
    return [d for d in range(len(t.shape)) if d not in (*batch, *contract)]


def _size(sizes: list[Any]) -> int | None:
    return None if None in sizes else math.prod(sizes)


def _einsum(g: Graph, op: OpView, *tensors: Tensor) -> Tensor:
    out = op.outputs[0]
    wide = computing_type(out.dtype)
    names = [_in(g, g.whole(t), t.dtype, wide) for t in tensors]
    made = g.node("Einsum", names, equation=op.attributes["einsum_config"])
    made = made if wide == out.dtype else g.cast(made, out.dtype)
    return Tensor(made, out.shape, out.shape, out.dtype)


RULES = {
    "stablehlo.dot_general": _dot_general,
    "stablehlo.dot": _dot,
    "stablehlo.einsum": _einsum,
    "stablehlo.unary_einsum": _einsum,
}
