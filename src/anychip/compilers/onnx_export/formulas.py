"""Functions of one float that ONNX lacks, or runtimes have in f32 only, as formulas; and atan2."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.compilers.onnx_export.typed import Arithmetic, apply, plain
from anychip.core import UnsupportedError, dtype
from anychip.ops.view import OpView


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
    return _float(formula, g, op, x) if x.dtype == "f64" else plain(kind, g, op, x)


def _cbrt(a: Any, x: str) -> str:
    return a.Mul(a.Sign(x), a.Pow(a.Abs(x), 1.0 / 3.0))


def _away(a: Any, x: str) -> str:
    """Halves away from zero."""
    size = a.Abs(x)
    whole = a.Floor(size)
    up = a.Where(a.GreaterOrEqual(a.Sub(size, whole), 0.5), a.Add(whole, 1.0), whole)
    return a.Mul(a.Sign(x), up)


def atan2(g: Graph, op: OpView, y: Tensor, x: Tensor) -> Tensor:
    def make(g: Graph, names: list[str], wide: str) -> str:
        a, (top, side) = Arithmetic(g, wide), names
        base = a.Atan(a.Div(top, side))
        is_left = a.Less(side, 0.0)
        turned = a.Where(a.Less(top, 0.0), a.Sub(base, math.pi), a.Add(base, math.pi))
        angle = a.Where(is_left, turned, base)
        on_axis = a.Where(a.Equal(top, 0.0), 0.0, a.Mul(a.Sign(top), math.pi / 2))
        return a.Where(a.Equal(side, 0.0), on_axis, angle)

    return apply(g, op, [y, x], make)


def _rsqrt(a: Any, x: str) -> str:
    return a.Div(1.0, a.Sqrt(x))


def _tan(a: Any, x: str) -> str:
    return a.Div(a.Sin(x), a.Cos(x))


def _erfc(a: Any, x: str) -> str:
    return a.Sub(1.0, a.Erf(x))


def _sign(a: Any, x: str) -> str:
    """The sign of NaN is NaN, which ONNX's Sign leaves open."""
    return a.Where(a.IsNaN(x), x, a.Sign(x))


def _sign_any(g: Graph, op: OpView, x: Tensor) -> Tensor:
    if dtype(x.dtype).kind == "float":
        return _float(_sign, g, op, x)
    return plain("Sign", g, op, x)


RULES = {
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
    "stablehlo.log_plus_one": partial(_float, _log1p),
    "stablehlo.exponential_minus_one": partial(_float, _expm1),
    "stablehlo.round_nearest_afz": partial(_float, _away),
}
