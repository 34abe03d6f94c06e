"""Elementwise ops. Types that runtimes have no kernels for are computed in a wider one.

Pending broadcasts stay pending: ONNX's elementwise ops broadcast by themselves. Formulas for what
ONNX lacks are in `formulas.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from anychip.compilers.onnx_export.activations import clip, divide, maximum, minimum, multiply
from anychip.compilers.onnx_export.element import onnx_type
from anychip.compilers.onnx_export.formulas import atan2
from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.compilers.onnx_export.integers import logical, negate, power, shift, whole_division
from anychip.compilers.onnx_export.typed import (
    Arithmetic,
    apply,
    broadcast,
    computing_type,
    plain,
)
from anychip.core import UnsupportedError, dtype
from anychip.ops.view import OpView


def _finite(g: Graph, op: OpView, x: Tensor) -> Tensor:
    wide = computing_type(x.dtype)
    name = x.name if x.dtype == wide else g.cast(x.name, wide)
    a = Arithmetic(g, wide)
    bad = a.Or(a.IsInf(name), a.IsNaN(name))
    return Tensor(a.Not(bad), x.held, x.shape, "i1", x.target)


def _infinite(sign: int, g: Graph, op: OpView, x: Tensor) -> Tensor:
    wide = computing_type(x.dtype)
    name = x.name if x.dtype == wide else g.cast(x.name, wide)
    made = g.node("IsInf", [name], detect_negative=int(sign <= 0), detect_positive=int(sign >= 0))
    return Tensor(made, x.held, x.shape, "i1", x.target)


_COMPARE = {
    "EQ": "Equal",
    "LT": "Less",
    "LE": "LessOrEqual",
    "GT": "Greater",
    "GE": "GreaterOrEqual",
}


def _compare(g: Graph, op: OpView, lhs: Tensor, rhs: Tensor) -> Tensor:
    how = op.attributes["comparison_direction"]
    element = lhs.dtype
    if op.attributes.get("compare_type") == "TOTALORDER":
        raise UnsupportedError("ONNX has no total order of floats")
    wide = computing_type(element)
    if dtype(element).kind == "bool":
        wide = "bool" if how in ("EQ", "NE") else "i32"
    if wide == "ui64" and how not in ("EQ", "NE"):
        raise UnsupportedError("runtimes order no ui64; use i64")
    wide = {"bool": "i1", "ui64": "i64"}.get(wide, wide)
    names = [t.name if t.dtype == wide else g.cast(t.name, wide) for t in (lhs, rhs)]
    made = g.node(_COMPARE["EQ" if how == "NE" else how], names)
    held, shape, target = broadcast([lhs, rhs])
    return Tensor(g.node("Not", [made]) if how == "NE" else made, held, shape, "i1", target)


def _select(g: Graph, op: OpView, which: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    element = yes.dtype
    known = g.arrays.get(which.name)
    if known is not None and (known.all() or not known.any()) and None not in op.outputs[0].shape:
        kept = yes if known.all() else no
        if len(kept.shape) == len(op.outputs[0].shape):
            return Tensor(kept.name, kept.held, op.outputs[0].shape, element, kept.target)
    wide = {"i1": "i32", "ui64": "i64"}.get(element) or computing_type(element)
    names = [t.name if element == wide else g.cast(t.name, wide) for t in (yes, no)]
    made = g.node("Where", [which.name, *names])
    held, shape, target = broadcast([which, yes, no])
    if which.shape == () and len(held):
        held, shape, target = broadcast([yes, no])
    return Tensor(made if wide == element else g.cast(made, element), held, shape, element, target)


def _clamp(g: Graph, op: OpView, low: Tensor, x: Tensor, high: Tensor) -> Tensor:
    ends = [g.scalar(low.name), g.scalar(high.name)]
    if None not in ends:
        low, high = (
            Tensor(g.constant(end, low.dtype), (), (), low.dtype) for end in ends if end is not None
        )
    if low.shape == () and high.shape == ():
        return apply(g, op, [low, high, x], clip)
    return apply(
        g,
        op,
        [low, x, high],
        lambda g, n, _: g.node("Min", [g.node("Max", [n[1], n[0]]), n[2]]),
    )


def _convert(g: Graph, op: OpView, x: Tensor) -> Tensor:
    out = op.outputs[0].dtype
    onnx_type(out, "a conversion")
    onnx_type(x.dtype, "a conversion")
    if dtype(x.dtype).kind == "complex" or x.dtype == out:
        return Tensor(x.name, x.held, x.shape, out, x.target)
    name = x.name
    if dtype(x.dtype).bits < 8 or "f8" in x.dtype:
        name = g.cast(name, "f32")
    return Tensor(g.cast(name, out), x.held, x.shape, out, x.target)


def _add(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    return plain("Or" if x.dtype == "i1" else "Add", g, op, x, y)


def _remainder(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    """With the sign of the dividend, as C's fmod."""

    def make(g: Graph, names: list[str], wide: str) -> str:
        if dtype(wide).kind == "float":
            return g.node("Mod", names, fmod=1)
        return whole_division(g, names, wide, "Mod")

    return apply(g, op, [x, y], make)


def _not(g: Graph, op: OpView, x: Tensor) -> Tensor:
    return logical("Not", g, op, x)


def _reduce_precision(g: Graph, op: OpView, x: Tensor) -> Tensor:
    bits = (op.attributes["exponent_bits"], op.attributes["mantissa_bits"])
    via = {(8, 7): "bf16", (5, 10): "f16", (8, 23): "f32", (11, 52): "f64"}.get(bits)
    if via is None:
        raise UnsupportedError(f"no ONNX type has {bits[0]} exponent and {bits[1]} mantissa bits")
    return Tensor(g.cast(g.cast(x.name, via), x.dtype), x.held, x.shape, x.dtype, x.target)


def _constant(g: Graph, op: OpView) -> Tensor:
    value, spec = np.asarray(op.attributes["value"]), op.outputs[0]
    onnx_type(spec.dtype, "a constant")
    if value.size > 1 and (value == value.reshape(-1)[0]).all():
        one = g.constant(value.reshape(-1)[0].reshape((1,) * value.ndim), spec.dtype)
        return Tensor(one, (1,) * value.ndim, spec.shape, spec.dtype)
    return Tensor(g.constant(value, spec.dtype), spec.shape, spec.shape, spec.dtype)


def _same(g: Graph, op: OpView, *tensors: Tensor) -> list[Tensor]:
    return list(tensors)


def _sub(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    return plain("Sub", g, op, x, y)


def _square_any(g: Graph, op: OpView, x: Tensor) -> Tensor:
    return apply(g, op, [x], lambda g, n, _: g.node("Mul", [n[0], n[0]]))


_BINARY = {
    "add": _add,
    "subtract": _sub,
    "multiply": multiply,
    "divide": divide,
    "remainder": _remainder,
    "maximum": maximum,
    "minimum": minimum,
    "power": power,
    "atan2": atan2,
    "and": partial(logical, "And"),
    "or": partial(logical, "Or"),
    "xor": partial(logical, "Xor"),
    "shift_left": partial(shift, "left"),
    "shift_right_logical": partial(shift, "logical"),
    "shift_right_arithmetic": partial(shift, "arithmetic"),
    "compare": _compare,
    "select": _select,
}


def _spread(rule: Callable[..., Any], g: Graph, op: OpView, *tensors: Tensor) -> Any:
    """A chlo.broadcast_… op: operands of lower rank gain leading (or given) dimensions."""
    rank = len(op.outputs[0].shape)
    placed: list[Tensor] = []
    for t in tensors:
        dims = op.attributes.get("broadcast_dimensions")
        if len(t.shape) == rank or not t.shape:
            placed.append(t)
            continue
        dims = tuple(dims) if dims is not None else tuple(range(rank - len(t.shape), rank))
        held: list[int | None] = [1] * rank
        for at, size in zip(dims, t.held, strict=True):
            held[at] = size
        name = g.reshape(t.name, held)
        placed.append(Tensor(name, tuple(held), tuple(held), t.dtype))
    made = rule(g, op, *placed)
    shape = op.outputs[0].shape
    return Tensor(made.name, made.held, shape if None not in shape else made.shape, made.dtype)


RULES = {
    **{f"chlo.broadcast_{name}": partial(_spread, rule) for name, rule in _BINARY.items()},
    **{f"stablehlo.{name}": rule for name, rule in _BINARY.items()},
    **{
        f"stablehlo.{name}": partial(plain, kind)
        for name, kind in {
            "abs": "Abs",
            "ceil": "Ceil",
            "floor": "Floor",
            "round_nearest_even": "Round",
            "exponential": "Exp",
            "log": "Log",
            "logistic": "Sigmoid",
            "sqrt": "Sqrt",
            "cosine": "Cos",
            "sine": "Sin",
            "tanh": "Tanh",
        }.items()
    },
    **{
        f"chlo.{name}": partial(plain, kind)
        for name, kind in {
            "erf": "Erf",
            "asin": "Asin",
            "acos": "Acos",
            "atan": "Atan",
        }.items()
    },
    "stablehlo.negate": negate,
    "chlo.square": _square_any,
    "stablehlo.is_finite": _finite,
    "chlo.is_inf": partial(_infinite, 0),
    "chlo.is_pos_inf": partial(_infinite, 1),
    "chlo.is_neg_inf": partial(_infinite, -1),
    "stablehlo.not": _not,
    "stablehlo.clamp": _clamp,
    "stablehlo.convert": _convert,
    "stablehlo.reduce_precision": _reduce_precision,
    "stablehlo.constant": _constant,
    "chlo.constant": _constant,
    "stablehlo.optimization_barrier": _same,
    "sdy.sharding_constraint": _same,
    "sdy.reshard": _same,
}
