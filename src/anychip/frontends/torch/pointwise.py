"""Element-wise arithmetic, rounding, bits and logic."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import torch
from jax import lax

from anychip.core.errors import UnsupportedError
from anychip.frontends.torch.plain import filled, where
from anychip.frontends.torch.promote import (
    cast,
    floating,
    is_array,
    is_floating,
    result_type,
    same,
)
from anychip.frontends.torch.table import Rule, Rules
from anychip.frontends.torch.tensors import numpy_dtype, torch_dtype

RULES = Rules()


def _of_floats(fn: Rule) -> Rule:
    return lambda x: fn(*floating(x))


def _exp2(x: Any) -> Any:
    return jnp.exp(x * jnp.asarray(math.log(2), x.dtype))


def _log_by(base: float) -> Rule:
    return lambda x: jnp.log(x) * jnp.asarray(1 / math.log(base), x.dtype)


for _name, _fn in {
    "exp": jnp.exp,
    "exp2": _exp2,
    "expm1": jnp.expm1,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "log2": _log_by(2),
    "log10": _log_by(10),
    "sqrt": jnp.sqrt,
    "rsqrt": lax.rsqrt,
    "reciprocal": lambda x: jnp.asarray(1, x.dtype) / x,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "tan": jnp.tan,
    "asin": jnp.arcsin,
    "acos": jnp.arccos,
    "atan": jnp.arctan,
    "sinh": jnp.sinh,
    "cosh": jnp.cosh,
    "tanh": jnp.tanh,
    "asinh": jnp.arcsinh,
    "acosh": jnp.arccosh,
    "atanh": jnp.arctanh,
    "erf": lax.erf,
    "erfc": lax.erfc,
    "erfinv": lax.erf_inv,
    "lgamma": lax.lgamma,
    "digamma": lax.digamma,
    "special_i1e": lax.bessel_i1e,
    "special_i0e": lax.bessel_i0e,
    "i0": lambda x: lax.bessel_i0e(x) * jnp.exp(jnp.abs(x)),
    "special_i1": lambda x: lax.bessel_i1e(x) * jnp.exp(jnp.abs(x)),
    "sigmoid": lax.logistic,
    "sinc": jnp.sinc,
    "deg2rad": lambda x: x * jnp.asarray(math.pi / 180, x.dtype),
    "rad2deg": lambda x: x * jnp.asarray(180 / math.pi, x.dtype),
}.items():
    RULES(_name)(_of_floats(_fn))


def _rounding(fn: Rule) -> Rule:
    return lambda x: fn(x) if is_floating(x) else x


for _name, _fn in {
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "trunc": jnp.trunc,
    "round": lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN),
    "frac": lambda x: x - jnp.trunc(x),
}.items():
    RULES(_name)(_rounding(_fn))


@RULES("round.decimals")
def round_decimals(x: Any, *, decimals: int = 0) -> Any:
    if not is_floating(x):
        return x
    scale = jnp.asarray(10.0 ** abs(decimals), x.dtype)
    scaled = x * scale if decimals >= 0 else x / scale
    whole = lax.round(scaled, lax.RoundingMethod.TO_NEAREST_EVEN)
    return whole / scale if decimals >= 0 else whole * scale


RULES("abs")(jnp.abs)
RULES("neg")(jnp.negative)
RULES("square")(lambda x: x * x)
RULES("sign", "sgn")(lambda x: x if x.dtype == jnp.bool_ else lax.sign(x))
RULES("bitwise_not")(jnp.bitwise_not)
RULES("_conj", "conj_physical", "_conj_physical")(jnp.conj)
RULES("_neg_view")(lambda x: x)
RULES("angle")(lambda x: jnp.angle(*floating(x)))


@RULES("polygamma")
def polygamma(n: int, x: Any) -> Any:
    if n:
        raise UnsupportedError("derivatives of digamma have no op; only polygamma(0, x) has")
    return lax.digamma(*floating(x))


RULES("igamma", space="prims")(lambda a, x: lax.igamma(*jnp.broadcast_arrays(*same(a, x))))
RULES("igammac", space="prims")(lambda a, x: lax.igammac(*jnp.broadcast_arrays(*same(a, x))))
RULES("complex")(lambda real, imag: lax.complex(*jnp.broadcast_arrays(*same(real, imag))))
RULES("polar")(lambda r, angle: lax.complex(r * jnp.cos(angle), r * jnp.sin(angle)))
RULES("view_as_real")(lambda x: jnp.stack([jnp.real(x), jnp.imag(x)], -1))
RULES("view_as_complex")(lambda x: lax.complex(x[..., 0], x[..., 1]))


@RULES("signbit")
def signbit(x: Any) -> Any:
    return jnp.signbit(x) if is_floating(x) else x < 0


@RULES("add.Tensor", "add.Scalar")
def add(x: Any, other: Any, alpha: Any = 1) -> Any:
    lhs, rhs = same(x, other)
    return jnp.add(lhs, rhs if alpha == 1 else rhs * cast(alpha, torch_dtype(rhs.dtype)))


@RULES("sub.Tensor", "sub.Scalar")
def sub(x: Any, other: Any, alpha: Any = 1) -> Any:
    lhs, rhs = same(x, other)
    return jnp.subtract(lhs, rhs if alpha == 1 else rhs * cast(alpha, torch_dtype(rhs.dtype)))


@RULES("rsub.Tensor", "rsub.Scalar")
def rsub(x: Any, other: Any, alpha: Any = 1) -> Any:
    lhs, rhs = same(x, other)
    return jnp.subtract(rhs, lhs if alpha == 1 else lhs * cast(alpha, torch_dtype(rhs.dtype)))


def _of_common(fn: Rule) -> Rule:
    return lambda x, other: fn(*same(x, other))


def _of_common_floats(fn: Rule) -> Rule:
    return lambda x, other: fn(*floating(x, other))


for _names, _fn in {
    ("mul.Tensor", "mul.Scalar"): jnp.multiply,
    ("maximum", "max.other"): jnp.maximum,
    ("minimum", "min.other"): jnp.minimum,
    ("fmax",): jnp.fmax,
    ("fmin",): jnp.fmin,
    ("fmod.Tensor", "fmod.Scalar"): jnp.fmod,
    ("remainder.Tensor", "remainder.Scalar", "remainder.Scalar_Tensor"): jnp.remainder,
    ("floor_divide", "floor_divide.Scalar"): jnp.floor_divide,
    ("bitwise_and.Tensor", "bitwise_and.Scalar", "bitwise_and.Scalar_Tensor"): jnp.bitwise_and,
    ("bitwise_or.Tensor", "bitwise_or.Scalar", "bitwise_or.Scalar_Tensor"): jnp.bitwise_or,
    ("bitwise_xor.Tensor", "bitwise_xor.Scalar", "bitwise_xor.Scalar_Tensor"): jnp.bitwise_xor,
    ("__and__.Tensor", "__and__.Scalar"): jnp.bitwise_and,
    ("__or__.Tensor", "__or__.Scalar"): jnp.bitwise_or,
    ("__xor__.Tensor", "__xor__.Scalar"): jnp.bitwise_xor,
    (
        "bitwise_left_shift.Tensor",
        "bitwise_left_shift.Tensor_Scalar",
        "__lshift__.Tensor",
        "__lshift__.Scalar",
    ): jnp.left_shift,
    (
        "bitwise_right_shift.Tensor",
        "bitwise_right_shift.Tensor_Scalar",
        "__rshift__.Tensor",
        "__rshift__.Scalar",
    ): jnp.right_shift,
    ("gcd",): jnp.gcd,
    ("lcm",): jnp.lcm,
    ("nextafter",): jnp.nextafter,
    ("logaddexp",): jnp.logaddexp,
    ("hypot",): jnp.hypot,
}.items():
    RULES(*_names)(_of_common(_fn))

for _names, _fn in {
    ("div.Tensor", "div.Scalar", "true_divide.Tensor", "true_divide.Scalar"): jnp.true_divide,
    ("atan2",): jnp.arctan2,
    ("copysign.Tensor", "copysign.Scalar"): jnp.copysign,
    ("heaviside",): jnp.heaviside,
}.items():
    RULES(*_names)(_of_common_floats(_fn))


@RULES("div.Tensor_mode", "div.Scalar_mode")
def div_mode(x: Any, other: Any, *, rounding_mode: str | None) -> Any:
    if rounding_mode is None:
        return jnp.true_divide(*floating(x, other))
    lhs, rhs = same(x, other)
    if rounding_mode == "floor":
        return jnp.floor_divide(lhs, rhs)
    return jnp.trunc(lhs / rhs) if is_floating(lhs) else lax.div(*jnp.broadcast_arrays(lhs, rhs))


@RULES("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")
def power(x: Any, exponent: Any) -> Any:
    element = result_type(x, exponent)
    if isinstance(exponent, int | float) and is_array(x):
        base = cast(x, element)
        if exponent == int(exponent) and abs(exponent) <= 16:
            if exponent < 0 and not is_floating(base):
                raise UnsupportedError("integers cannot be raised to a negative power")
            return filled(base, 1) if exponent == 0 else lax.integer_pow(base, int(exponent))
        if abs(exponent) == 0.5:
            return jnp.sqrt(base) if exponent > 0 else lax.rsqrt(base)
    return jnp.power(cast(x, element), cast(exponent, element))


RULES("float_power.Tensor_Scalar", "float_power.Tensor_Tensor", "float_power.Scalar")(
    lambda x, exponent: jnp.power(cast(x, torch.float64), cast(exponent, torch.float64))
)


@RULES("xlogy.Tensor", "xlogy.Scalar_Other", "xlogy.Scalar_Self", "special_xlogy")
def xlogy(x: Any, other: Any) -> Any:
    lhs, rhs = jnp.broadcast_arrays(*floating(x, other))
    product = lhs * jnp.log(where(lhs == 0, filled(rhs, 1), rhs))
    return where(jnp.isnan(rhs), filled(rhs, jnp.nan), product)


@RULES("ldexp.Tensor")
def ldexp(x: Any, other: Any) -> Any:
    base, exponent = floating(x, other)
    return base * jnp.exp2(exponent)


@RULES("lerp.Tensor", "lerp.Scalar")
def lerp(start: Any, end: Any, weight: Any) -> Any:
    share = cast(weight, torch_dtype(start.dtype))
    near = start + share * (end - start)
    far = end - (end - start) * (1 - share)
    return where(jnp.abs(share) < 0.5, near, far)


@RULES("addcmul")
def addcmul(x: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    base, lhs, rhs = same(x, tensor1, tensor2)
    return base + cast(value, torch_dtype(base.dtype)) * lhs * rhs


@RULES("addcdiv")
def addcdiv(x: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    base, lhs, rhs = floating(x, tensor1, tensor2)
    return base + cast(value, torch_dtype(base.dtype)) * (lhs / rhs)


@RULES("clamp", "clamp.Tensor", "clip", "clip.Tensor")
def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    bounds = [b for b in (min, max) if b is not None]
    element = result_type(x, *bounds)
    out = cast(x, element)
    if min is not None:
        out = jnp.maximum(out, cast(min, element))
    return out if max is None else jnp.minimum(out, cast(max, element))


RULES("clamp_min", "clamp_min.Tensor")(lambda x, min: clamp(x, min=min))
RULES("clamp_max", "clamp_max.Tensor")(lambda x, max: clamp(x, max=max))


@RULES("nan_to_num")
def nan_to_num(x: Any, nan: Any = None, posinf: Any = None, neginf: Any = None) -> Any:
    if not is_floating(x):
        return x
    limits = jnp.finfo(x.dtype)
    out = where(jnp.isnan(x), filled(x, 0.0 if nan is None else nan), x)
    out = where(x == jnp.inf, filled(x, limits.max if posinf is None else posinf), out)
    return where(x == -jnp.inf, filled(x, limits.min if neginf is None else neginf), out)


@RULES("frexp.Tensor")
def frexp(x: Any) -> tuple[Any, Any]:
    mantissa, exponent = jnp.frexp(x)
    return mantissa, exponent.astype(jnp.int32)


@RULES("_to_copy")
def to_copy(x: Any, *, dtype: torch.dtype | None = None) -> Any:
    return x if dtype is None else cast(x, dtype)


RULES("type_as")(lambda x, other: lax.convert_element_type(x, other.dtype))


@RULES("view.dtype")
def view_dtype(x: Any, dtype: torch.dtype) -> Any:
    target = numpy_dtype(dtype)
    if target.kind == "c" or x.dtype.kind == "c":
        raise UnsupportedError("x.view(complex type) is not expressible; use torch.view_as_complex")
    old, new = x.dtype.itemsize, target.itemsize
    if new > old:
        x = x.reshape(*x.shape[:-1], x.shape[-1] // (new // old), new // old)
    out = lax.bitcast_convert_type(x, target)
    return out.reshape(*out.shape[:-2], -1) if new < old else out
