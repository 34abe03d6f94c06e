"""Counts of bits, and constants shaped like another value."""

from __future__ import annotations

import numpy as np

from anychip.compilers.onnx_export.element import onnx_type
from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.core import UnsupportedError, dtype
from anychip.ops.view import OpView


def _counted(g: Graph, op: OpView, x: Tensor, is_set: str) -> Tensor:
    """How many along a new last dimension are true."""
    total = g.node("ReduceSum", [g.cast(is_set, "i64"), g.ints(-1)], keepdims=0)
    return Tensor(g.cast(total, op.outputs[0].dtype), x.held, x.shape, x.dtype, x.target)


def _lined(g: Graph, x: Tensor) -> str:
    return g.node("Unsqueeze", [g.cast(x.name, "i64"), g.ints(-1)])


def _population(g: Graph, op: OpView, x: Tensor) -> Tensor:
    masks = g.constant(np.left_shift(np.int64(1), np.arange(dtype(x.dtype).bits)))
    bits = g.node("BitwiseAnd", [_lined(g, x), masks])
    return _counted(g, op, x, g.node("Not", [g.node("Equal", [bits, g.constant(0, "i64")])]))


def _leading_zeros(g: Graph, op: OpView, x: Tensor) -> Tensor:
    """As many as there are powers of two above the number, read without sign."""
    bits = dtype(x.dtype).bits
    value = _lined(g, x)
    if bits < 64:
        value = g.node("BitwiseAnd", [value, g.constant(2**bits - 1, "i64")])
        powers = np.left_shift(np.int64(1), np.arange(bits))
        return _counted(g, op, x, g.node("Less", [value, g.constant(powers)]))
    # Its top bit is the sign of an i64: below no power then, and one more zero without it.
    powers = np.append(np.left_shift(np.int64(1), np.arange(63)), np.iinfo(np.int64).max)
    above = g.node("LessOrEqual", [value, g.constant(powers - (np.arange(64) < 63))])
    is_positive = g.node("GreaterOrEqual", [value, g.constant(0, "i64")])
    return _counted(g, op, x, g.node("And", [above, is_positive]))


def _constant_like(g: Graph, op: OpView, x: Tensor) -> Tensor:
    if None in x.shape and not x.target:
        raise UnsupportedError("a constant of a size known only when running")
    spec = op.outputs[0]
    onnx_type(spec.dtype, "a constant")
    ones = (1,) * len(spec.shape)
    one = np.asarray(op.attributes["value"]).reshape(-1)[0].reshape(ones)
    return Tensor(g.constant(one, spec.dtype), ones, x.shape, spec.dtype, x.target)


def _bitcast(g: Graph, op: OpView, x: Tensor) -> Tensor:
    """Integers of another width by arithmetic, 16-bit floats by a table of all of them."""
    spec = op.outputs[0]
    old, new = dtype(x.dtype), dtype(spec.dtype)
    if x.dtype == spec.dtype:
        return x
    is_whole = old.kind in ("int", "uint") and min(old.bits, new.bits) >= 8
    if is_whole and new.kind in ("int", "uint") and old.bits == new.bits:
        return Tensor(g.cast(x.name, spec.dtype), x.held, x.shape, spec.dtype)
    if not is_whole or not (new.kind in ("int", "uint") or new.name in ("f16", "bf16")):
        raise UnsupportedError("opset 23 reinterprets no bits of floats")
    code = g.cast(g.whole(x), "i64")
    if old.bits < 64:
        code = g.node("BitwiseAnd", [code, g.constant((1 << old.bits) - 1, "i64")])
    if new.bits > old.bits:  # the last dimension holds the parts, the lowest first
        parts = np.left_shift(np.int64(1), np.arange(0, new.bits, old.bits))
        code = g.node(
            "ReduceSum", [g.node("Mul", [code, g.constant(parts)]), g.ints(-1)], keepdims=0
        )
    elif old.bits == 64:
        raise UnsupportedError("runtimes divide no unsigned 64-bit integers in parts")
    elif new.bits < old.bits:
        parts = np.left_shift(np.int64(1), np.arange(0, old.bits, new.bits))
        code = g.node("Unsqueeze", [code, g.ints(-1)])
        code = g.node("Div", [code, g.constant(parts)])
        code = g.node("BitwiseAnd", [code, g.constant((1 << new.bits) - 1, "i64")])
    if new.kind != "float":
        return Tensor(g.cast(code, spec.dtype), spec.shape, spec.shape, spec.dtype)
    every = np.arange(1 << 16, dtype=np.uint32)
    if new.name == "f16":
        made = g.node(
            "Gather", [g.constant(every.astype(np.uint16).view(np.float16)), code], axis=0
        )
    else:
        table = g.constant((every << 16).view(np.float32))
        made = g.cast(g.node("Gather", [table, code], axis=0), "bf16")
    return Tensor(made, spec.shape, spec.shape, spec.dtype)


RULES = {
    "stablehlo.bitcast_convert": _bitcast,
    "stablehlo.popcnt": _population,
    "stablehlo.count_leading_zeros": _leading_zeros,
    "chlo.constant_like": _constant_like,
}
