"""Elementwise ops. Types that runtimes have no kernels for are computed in a wider one.

Pending broadcasts stay pending: ONNX's elementwise ops broadcast by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from anychip.compilers.onnx_export.element import onnx_type
from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.compilers.onnx_export.integers import logical, negate, power, shift, whole_division
from anychip.compilers.onnx_export.typed import (
    Arithmetic,
    Make,
    apply,
    broadcast,
    computing_type,
)
from anychip.core import UnsupportedError, dtype
from anychip.ops.view import OpView


def _plain(kind: str, g: Graph, op: OpView, *tensors: Tensor) -> Tensor:
    return apply(g, op, tensors, lambda g, names, _: g.node(kind, names))


def _float(make: Callable[..., str], g: Graph, op: OpView, x: Tensor) -> Tensor:
    """A function of one float, in terms of a few ONNX ops."""
    return apply(g, op, [x], lambda g, names, wide: make(Arithmetic(g, wide), names[0]))


def _log1p(a: Any, x: str) -> str:
    """x log(u) / (u - 1) with u = 1 + x, and x where u = 1: Goldberg 1991, theorem 4."""
    u = a.Add(x, 1.0)
    far = a.Div(a.Mul(x, a.Log(u)), a.Sub(u, 1.0))
    whole = a.Where(a.IsInf(u), a.Log(u), far)
    return a.Where(a.Equal(u, 1.0), x, whole)


def _expm1(a: Any, x: str) -> str:
    """tanh(x/2) (e^x + 1), which does not cancel; e^x - 1 where that is far from 0."""
    e = a.Exp(x)
    near = a.Mul(a.Tanh(a.Mul(x, 0.5)), a.Add(e, 1.0))
    return a.Where(a.Less(a.Abs(x), 1.0), near, a.Sub(e, 1.0))


def _sinh(a: Any, x: str) -> str:
    """With u = e^|x| - 1 it does not cancel near 0; e^(|x|-ln 2) does not overflow early."""
    size = a.Abs(x)
    u = _expm1(a, size)
    near = a.Mul(a.Add(u, a.Div(u, a.Add(u, 1.0))), 0.5)
    far = a.Exp(a.Sub(size, math.log(2.0)))
    return a.Mul(a.Sign(x), a.Where(a.Less(size, 20.0), near, far))


def _cosh(a: Any, x: str) -> str:
    size = a.Sub(a.Abs(x), math.log(2.0))
    return a.Add(a.Exp(size), a.Exp(a.Sub(-2 * math.log(2.0), size)))


def _asinh(a: Any, x: str) -> str:
    """log1p(|x| + x²/(1 + √(x² + 1))), log 2|x| where the square would overflow."""
    size = a.Abs(x)
    square = a.Mul(size, size)
    near = _log1p(a, a.Add(size, a.Div(square, a.Add(a.Sqrt(a.Add(square, 1.0)), 1.0))))
    far = a.Add(a.Log(size), math.log(2.0))
    return a.Mul(a.Sign(x), a.Where(a.Less(size, 1e8), near, far))


def _acosh(a: Any, x: str) -> str:
    """log1p(t + √(2t + t²)) with t = x - 1."""
    t = a.Sub(x, 1.0)
    near = _log1p(a, a.Add(t, a.Sqrt(a.Mul(t, a.Add(t, 2.0)))))
    return a.Where(a.Less(x, 1e8), near, a.Add(a.Log(x), math.log(2.0)))


def _atanh(a: Any, x: str) -> str:
    size = a.Abs(x)
    grown = _log1p(a, a.Div(a.Mul(size, 2.0), a.Sub(1.0, size)))
    return a.Mul(a.Mul(a.Sign(x), 0.5), grown)


_NEAR = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087)
_NEAR += (-0.00125372503, -0.00417768164, 0.246640727, 1.50140941)
_TAIL = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773)
_TAIL += (-0.0076224613, 0.00943887047, 1.00167406, 2.83297682)


def _erf_inv(a: Any, x: str) -> str:
    """Two polynomials in w = -log(1 - x²), of single precision: Giles 2010, table 5."""

    def polynomial(coefficients: tuple[float, ...], w: str) -> str:
        first, *rest = coefficients
        sum_ = a.Add(a.Mul(w, first), rest[0])
        for one in rest[1:]:
            sum_ = a.Add(a.Mul(sum_, w), one)
        return sum_

    w = a.Neg(_log1p(a, a.Neg(a.Mul(x, x))))
    near = polynomial(_NEAR, a.Sub(w, 2.5))
    tail = polynomial(_TAIL, a.Sub(a.Sqrt(w), 3.0))
    made = a.Mul(a.Where(a.Less(w, 5.0), near, tail), x)
    return a.Where(a.Equal(a.Abs(x), 1.0), a.Mul(x, math.inf), made)


def _erf_inverse(g: Graph, op: OpView, x: Tensor) -> Tensor:
    if x.dtype == "f64":
        raise UnsupportedError("its polynomials are those of single precision")
    return _float(_erf_inv, g, op, x)


def _own(kind: str, formula: Callable[..., str], g: Graph, op: OpView, x: Tensor) -> Tensor:
    """ONNX's op, which runtimes have in f32 only; a formula in f64."""
    return _float(formula, g, op, x) if x.dtype == "f64" else _plain(kind, g, op, x)


def _cbrt(a: Any, x: str) -> str:
    return a.Mul(a.Sign(x), a.Pow(a.Abs(x), 1.0 / 3.0))


def _away(a: Any, x: str) -> str:
    """Halves away from zero."""
    size = a.Abs(x)
    whole = a.Floor(size)
    up = a.Where(a.GreaterOrEqual(a.Sub(size, whole), 0.5), a.Add(whole, 1.0), whole)
    return a.Mul(a.Sign(x), up)


def _atan2(g: Graph, op: OpView, y: Tensor, x: Tensor) -> Tensor:
    def make(g: Graph, names: list[str], wide: str) -> str:
        a, (top, side) = Arithmetic(g, wide), names
        base = a.Atan(a.Div(top, side))
        is_left = a.Less(side, 0.0)
        turned = a.Where(a.Less(top, 0.0), a.Sub(base, math.pi), a.Add(base, math.pi))
        angle = a.Where(is_left, turned, base)
        on_axis = a.Where(a.Equal(top, 0.0), 0.0, a.Mul(a.Sign(top), math.pi / 2))
        return a.Where(a.Equal(side, 0.0), on_axis, angle)

    return apply(g, op, [y, x], make)


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
        return apply(g, op, [low, high, x], _clip)
    return apply(
        g,
        op,
        [low, x, high],
        lambda g, n, _: g.node("Min", [g.node("Max", [n[1], n[0]]), n[2]]),
    )


def _clip(g: Graph, names: list[str], wide: str) -> str:
    low, high, x = names
    clipped = g.node("Clip", [x, low, high])
    return (_hard_sigmoid(g, clipped, 1.0) if wide == "f32" else "") or clipped


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


def _divide(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    if x.name in g.windows and g.windows.get(y.name) == g.windows[x.name]:
        return Tensor(_inside(g, x), x.held, x.shape, x.dtype, x.target)
    by = g.scalar(y.name)
    if by and dtype(x.dtype).kind == "float" and (mean := _mean(g, x, by)):
        return Tensor(mean, x.held, x.shape, x.dtype, x.target)
    return apply(g, op, [x, y], lambda g, n, wide: _quotient(g, n, wide))


def _quotient(g: Graph, names: list[str], wide: str) -> str:
    if dtype(wide).kind != "float":
        return whole_division(g, names, wide, "Div")
    gated = g.producer.get(names[0])
    if gated is not None and gated.op_type == "Mul" and g.scalar(names[1]) == 6.0:
        for x, gate in (list(gated.input), list(gated.input)[::-1]):
            if wide == "f32" and _gates(g, gate, x):
                return g.node("HardSwish", [x])
    by = g.scalar(names[1])
    if wide == "f32" and by and (gate := _hard_sigmoid(g, names[0], 1 / by)):
        return gate
    one = g.scalar(names[0])
    below = g.producer.get(names[1])
    if one == 1.0 and below is not None and below.op_type == "Add":
        parts = list(below.input)
        for unit, other in (parts, parts[::-1]):
            grown = g.producer.get(other)
            if g.scalar(unit) == 1.0 and grown is not None and grown.op_type == "Exp":
                turned = g.producer.get(grown.input[0])
                if turned is not None and turned.op_type == "Neg":
                    return g.node("Sigmoid", [turned.input[0]])
    return g.node("Div", names)


def _inside(g: Graph, x: Tensor) -> str:
    """A window's sum divided by how many elements it covers, padding not counted."""
    pool = g.producer[g.producer[x.name].input[0]]
    given: dict[str, Any] = {
        a.name: list(a.ints) for a in pool.attribute if a.name != "count_include_pad"
    }
    return g.node("AveragePool", list(pool.input), count_include_pad=0, **given)


def _mean(g: Graph, x: Tensor, count: float) -> str:
    """ReduceMean or AveragePool for a sum divided by how many it adds; "" when it is neither."""
    made = g.producer.get(x.name)
    if made is None:
        return ""
    if made.op_type == "ReduceSum" and g.counts.get(x.name) == count:
        axes, keep = made.input[1], made.attribute[0].i
        inner = g.producer.get(made.input[0])
        if inner is not None and inner.op_type == "ReduceMean" and keep and inner.attribute[0].i:
            both = sorted({*g.arrays[axes].tolist(), *g.arrays[inner.input[1]].tolist()})
            return g.node("ReduceMean", [inner.input[0], g.ints(*both)], keepdims=1)
        return g.node("ReduceMean", [made.input[0], axes], keepdims=keep)
    if made.op_type == "Mul" and g.counts.get(x.name) == count:
        return made.input[0]
    return ""


def _maximum(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    if x.dtype == "i1":
        return _plain("Or", g, op, x, y)
    for one, other in ((x, y), (y, x)):
        if dtype(x.dtype).kind == "float" and g.scalar(other.name) == 0.0 and not one.is_pending:
            return apply(g, op, [one], lambda g, n, _: g.node("Relu", n))
    return apply(g, op, [x, y], _extreme("Max"))


def _minimum(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    if x.dtype == "i1":
        return _plain("And", g, op, x, y)
    for one, other in ((x, y), (y, x)):
        made, top = g.producer.get(one.name), g.scalar(other.name)
        if made is not None and made.op_type == "Relu" and top is not None and x.dtype == "f32":
            low, high = g.constant(0.0, "f32"), g.constant(top, "f32")
            clipped = _clip(g, [low, high, made.input[0]], x.dtype)
            return Tensor(clipped, one.held, one.shape, one.dtype, one.target)
    return apply(g, op, [x, y], _extreme("Min"))


def _extreme(kind: str) -> Make:
    """Max or Min; of floats NaN wins, which ONNX leaves open and runtimes do not all keep."""
    return lambda g, names, wide: g.node(kind, names)


def _multiply(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    if x.dtype == "i1":
        return _plain("And", g, op, x, y)
    for one, unit in ((x, y), (y, x)):
        if g.scalar(unit.name) == 1 and len(one.shape) == len(unit.shape):
            return Tensor(one.name, one.held, op.outputs[0].shape, one.dtype, one.target)
    return apply(g, op, [x, y], _product)


def _product(g: Graph, names: list[str], wide: str) -> str:
    """HardSwish where it is x clip(x + 3, 0, 6) / 6, in whichever order."""
    for x, gate in (names, names[::-1]):
        factor = g.scalar(gate)
        if wide == "f32" and factor and (made := _hard_sigmoid(g, x, factor)):
            return made
        made = g.producer.get(gate)
        if made is None or wide != "f32":
            continue
        if made.op_type == "HardSigmoid" and made.input[0] == x:
            slope, shift = (a.f for a in made.attribute)
            if abs(slope - 1 / 6) < 1e-7 and abs(shift - 0.5) < 1e-7:
                return g.node("HardSwish", [x])
        if made.op_type == "Div" and g.scalar(made.input[1]) == 6.0 and _gates(g, made.input[0], x):
            return g.node("HardSwish", [x])
        sixth = [i for i in made.input if abs((g.scalar(i) or 0) - 1 / 6) < 1e-7]
        if made.op_type == "Mul" and sixth:
            (other,) = [i for i in made.input if i != sixth[0]] or [""]
            if _gates(g, other, x):
                return g.node("HardSwish", [x])
    return g.node("Mul", names)


def _hard_sigmoid(g: Graph, name: str, factor: float) -> str:
    """`factor` clip(a x + b, 0, 1 / factor) as one node where that is wanted; "" for what is
    something else."""
    made = g.producer.get(name)
    if not g.gates or made is None or made.op_type != "Clip" or g.scalar(made.input[1]) != 0.0:
        return ""
    top, added = g.scalar(made.input[2]), g.producer.get(made.input[0])
    if top is None or abs(top * factor - 1) > 1e-6 or added is None or added.op_type != "Add":
        return ""
    for inner, constant in (list(added.input), list(added.input)[::-1]):
        shift = g.scalar(constant)
        if shift is None:
            continue
        slope, product = 1.0, g.producer.get(inner)
        if product is not None and product.op_type == "Mul":
            for other, by in (list(product.input), list(product.input)[::-1]):
                if g.scalar(by) is not None:
                    inner, slope = other, float(g.scalar(by) or 0.0)
                    break
        return g.node("HardSigmoid", [inner], alpha=slope * factor, beta=shift * factor)
    return ""


def _gates(g: Graph, name: str, x: str) -> bool:
    made = g.producer.get(name)
    if made is None or made.op_type != "Clip":
        return False
    if g.scalar(made.input[1]) != 0.0 or g.scalar(made.input[2]) != 6.0:
        return False
    added = g.producer.get(made.input[0])
    if added is None or added.op_type != "Add" or x not in added.input:
        return False
    return any(g.scalar(i) == 3.0 for i in added.input)


def _add(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    return _plain("Or" if x.dtype == "i1" else "Add", g, op, x, y)


def _remainder(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    """With the sign of the dividend, as C's fmod."""

    def make(g: Graph, names: list[str], wide: str) -> str:
        if dtype(wide).kind == "float":
            return g.node("Mod", names, fmod=1)
        return whole_division(g, names, wide, "Mod")

    return apply(g, op, [x, y], make)


def _rsqrt(a: Any, x: str) -> str:
    return a.Div(1.0, a.Sqrt(x))


def _not(g: Graph, op: OpView, x: Tensor) -> Tensor:
    return logical("Not", g, op, x)


def _tan(a: Any, x: str) -> str:
    return a.Div(a.Sin(x), a.Cos(x))


def _erfc(a: Any, x: str) -> str:
    return a.Sub(1.0, a.Erf(x))


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
    return _plain("Sub", g, op, x, y)


def _square(a: Any, x: str) -> str:
    return a.Mul(x, x)


def _square_any(g: Graph, op: OpView, x: Tensor) -> Tensor:
    return apply(g, op, [x], lambda g, n, _: g.node("Mul", [n[0], n[0]]))


def _sign(a: Any, x: str) -> str:
    """The sign of NaN is NaN, which ONNX's Sign leaves open."""
    return a.Where(a.IsNaN(x), x, a.Sign(x))


def _sign_any(g: Graph, op: OpView, x: Tensor) -> Tensor:
    if dtype(x.dtype).kind == "float":
        return _float(_sign, g, op, x)
    return _plain("Sign", g, op, x)


_BINARY = {
    "add": _add,
    "subtract": _sub,
    "multiply": _multiply,
    "divide": _divide,
    "remainder": _remainder,
    "maximum": _maximum,
    "minimum": _minimum,
    "power": power,
    "atan2": _atan2,
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
        f"stablehlo.{name}": partial(_plain, kind)
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
        f"chlo.{name}": partial(_plain, kind)
        for name, kind in {
            "erf": "Erf",
            "asin": "Asin",
            "acos": "Acos",
            "atan": "Atan",
        }.items()
    },
    "stablehlo.negate": negate,
    "stablehlo.sign": _sign_any,
    "stablehlo.rsqrt": partial(_float, _rsqrt),
    "stablehlo.cbrt": partial(_float, _cbrt),
    "stablehlo.tan": partial(_float, _tan),
    "chlo.tan": partial(_float, _tan),
    "chlo.sinh": partial(_own, "Sinh", _sinh),
    "chlo.cosh": partial(_own, "Cosh", _cosh),
    "chlo.asinh": partial(_own, "Asinh", _asinh),
    "chlo.acosh": partial(_own, "Acosh", _acosh),
    "chlo.atanh": partial(_own, "Atanh", _atanh),
    "chlo.erf_inv": _erf_inverse,
    "chlo.erfc": partial(_float, _erfc),
    "chlo.square": _square_any,
    "stablehlo.log_plus_one": partial(_float, _log1p),
    "stablehlo.exponential_minus_one": partial(_float, _expm1),
    "stablehlo.round_nearest_afz": partial(_float, _away),
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
