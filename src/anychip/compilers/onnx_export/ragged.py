"""chlo.ragged_dot: rows of one matrix, cut into consecutive groups, each with a matrix of its own.

ONNX has no such product. As long as there are no more rows than groups (a token's few experts),
each row's matrix is gathered; beyond that every group meets all rows, those of others set to zero,
which costs as many products as there are groups.
"""

from __future__ import annotations

import numpy as np

from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.compilers.onnx_export.linear import product
from anychip.compilers.onnx_export.typed import computing_type
from anychip.core import UnsupportedError
from anychip.ops.attributes import RaggedDotDims
from anychip.ops.view import OpView


def _ragged_dot(g: Graph, op: OpView, lhs: Tensor, rhs: Tensor, sizes: Tensor) -> Tensor:
    dims: RaggedDotDims = op.attributes["ragged_dot_dimension_numbers"]
    (ragged,), dot = dims.lhs_ragged, dims.dot
    if ragged in dot.lhs_batch:
        return product(g, op, lhs, rhs, dot)
    is_plain = len(lhs.shape) == 2 and not dot.lhs_batch and len(dot.lhs_contract) == 1
    if not is_plain or len(rhs.shape) != 2 + len(dims.rhs_group):
        raise UnsupportedError("ONNX: a ragged product is written for matrices only, not batches")
    out = op.outputs[0]
    wide = computing_type(out.dtype)
    a, b = (g.cast(g.whole(t), wide) if t.dtype != wide else g.whole(t) for t in (lhs, rhs))
    member = _members(g, g.whole(lhs), ragged, lhs.shape[ragged], sizes)
    zero = g.constant(np.zeros((), np.float64 if wide == "f64" else np.float32))
    (contracted,), (met,) = dot.lhs_contract, dot.rhs_contract
    if ragged == contracted:
        a, b = g.transpose(a, [1 - ragged, ragged]), g.transpose(b, [met, 1 - met])
        rows = g.node("Where", [g.node("Unsqueeze", [member, _axes(g, 1)]), a, zero])
        made = g.node("MatMul", [rows, b])
        return _given(g, made, wide, op)
    (group,) = dims.rhs_group
    a = g.transpose(a, [ragged, contracted])
    b = g.transpose(b, [group, met, 3 - group - met])
    rows, groups = lhs.shape[ragged], rhs.shape[group]
    if groups is None:
        raise UnsupportedError("ONNX: the number of groups must be known")
    if rows is not None and rows <= groups:
        made = _gathered(g, a, b, member, zero)
    else:
        made = _masked(g, a, b, member, zero, groups)
    return _given(g, made, wide, op)


def _members(g: Graph, lhs: str, axis: int, rows: int | None, sizes: Tensor) -> str:
    """[groups, rows], whether a row is of a group; of none, beyond the last."""
    lengths = g.cast(g.whole(sizes), "i64") if sizes.dtype != "i64" else g.whole(sizes)
    ends = g.node("CumSum", [lengths, g.constant(np.array(0, np.int64))])
    starts = g.node("Sub", [ends, lengths])
    ends, starts = (g.node("Unsqueeze", [n, _axes(g, 1)]) for n in (ends, starts))
    if rows is None:
        size = g.node("Gather", [g.node("Shape", [lhs]), g.constant(np.array(axis, np.int64))])
        zero, one = (g.constant(np.array(n, np.int64)) for n in (0, 1))
        row = g.node("Range", [zero, size, one])
    else:
        row = g.constant(np.arange(rows, dtype=np.int64))
    return g.node("And", [g.node("GreaterOrEqual", [row, starts]), g.node("Less", [row, ends])])


def _gathered(g: Graph, a: str, b: str, member: str, zero: str) -> str:
    """One small product a row, by the matrix of its group."""
    found = g.cast(member, "i32")
    expert = g.node("ArgMax", [found], axis=0, keepdims=0)
    is_any = g.node("ReduceMax", [found, _axes(g, 0)], keepdims=0)
    each = g.node("Gather", [b, expert], axis=0)
    lone = g.node("MatMul", [g.node("Unsqueeze", [a, _axes(g, 1)]), each])
    whole = g.node("Squeeze", [lone, _axes(g, 1)])
    reached = g.node("Unsqueeze", [g.cast(is_any, "i1"), _axes(g, 1)])
    return g.node("Where", [reached, whole, zero])


def _masked(g: Graph, a: str, b: str, member: str, zero: str, groups: int) -> str:
    """One product a group, of all rows; one after another, so that little is held at a time."""
    total = ""
    for index in range(groups):
        at = g.constant(np.array(index, np.int64))
        mine = g.node("Unsqueeze", [g.node("Gather", [member, at], axis=0), _axes(g, 1)])
        part = g.node(
            "MatMul", [g.node("Where", [mine, a, zero]), g.node("Gather", [b, at], axis=0)]
        )
        total = g.node("Add", [total, part]) if total else part
    return total


def _axes(g: Graph, *axes: int) -> str:
    return g.constant(np.array(axes, np.int64))


def _given(g: Graph, made: str, wide: str, op: OpView) -> Tensor:
    out = op.outputs[0]
    name = made if wide == out.dtype else g.cast(made, out.dtype)
    return Tensor(name, out.shape, out.shape, out.dtype)


RULES = {"chlo.ragged_dot": _ragged_dot}
