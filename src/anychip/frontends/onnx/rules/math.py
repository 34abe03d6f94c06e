"""Elementwise arithmetic, comparison, logic and activations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anychip.frontends.onnx.fold import at_least, at_most, each, is_sizes, same
from anychip.frontends.onnx.rules.cast import clamp
from anychip.frontends.onnx.table import Call, op
from anychip.ops import composites


def _aligned(call: Call, x: Any, y: Any) -> Any:
    """The second operand, shaped for opset 6's explicit `broadcast` and `axis`."""
    if not call.attr("broadcast") or y.ndim == 0:
        return y
    axis = call.attr("axis", x.ndim - y.ndim)
    return y.reshape(y.shape + (1,) * (x.ndim - axis - y.ndim))


@op("Add", folds=True)
def add(call: Call, x: Any, y: Any) -> Any:
    return x + _aligned(call, x, y)


@op("Sub", folds=True)
def sub(call: Call, x: Any, y: Any) -> Any:
    return x - _aligned(call, x, y)


@op("Mul", folds=True)
def mul(call: Call, x: Any, y: Any) -> Any:
    return x * _aligned(call, x, y)


@op("Div", folds=True)
def div(call: Call, x: Any, y: Any) -> Any:
    y = _aligned(call, x, y)
    if is_sizes(x, y):
        return each(lambda a, b: a // b, x, y)
    if x.dtype.kind in "iu":
        return _truncated(call.xp, x, y)
    return x / y


def _truncated(xp: Any, x: Any, y: Any) -> Any:
    """Integer division toward zero, as C++ and ONNX have it."""
    if xp is jnp:
        return jax.lax.div(*jnp.broadcast_arrays(x, y))
    quotient = x // y
    return quotient + ((x % y != 0) & ((x < 0) != (y < 0))).astype(x.dtype)


@op("Mod", folds=True)
def mod(call: Call, x: Any, y: Any) -> Any:
    return call.xp.fmod(x, y) if call.attr("fmod", 0) else call.xp.mod(x, y)


@op("Pow", folds=True)
def pow_(call: Call, x: Any, y: Any) -> Any:
    y = _aligned(call, x, y)
    if is_sizes(x, y):
        return each(lambda a, b: a ** int(b), x, y)
    if x.dtype.kind in "iu" and y.dtype.kind not in "iu":
        return call.xp.power(x.astype(y.dtype), y).astype(x.dtype)
    if x.dtype.kind in "iu":
        return call.xp.power(x, y).astype(x.dtype)
    return call.xp.power(x, y.astype(x.dtype))


@op("Neg", folds=True)
def neg(call: Call, x: Any) -> Any:
    return -x


@op("Abs", folds=True)
def abs_(call: Call, x: Any) -> Any:
    return call.xp.abs(x)


@op("Sign", folds=True)
def sign(call: Call, x: Any) -> Any:
    return call.xp.sign(x)


def _unary(name: str, function: str) -> None:
    """An op that numpy and JAX both have under one name."""

    def rule(call: Call, x: Any) -> Any:
        return getattr(call.xp, function)(x).astype(x.dtype)

    rule.__name__ = name.lower()
    op(name, folds=True)(rule)


for _name, _function in {
    "Acos": "arccos",
    "Acosh": "arccosh",
    "Asin": "arcsin",
    "Asinh": "arcsinh",
    "Atan": "arctan",
    "Atanh": "arctanh",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Exp": "exp",
    "Floor": "floor",
    "Log": "log",
    "Round": "round",
    "Sin": "sin",
    "Sinh": "sinh",
    "Sqrt": "sqrt",
    "Tan": "tan",
    "Tanh": "tanh",
    "BitwiseNot": "invert",
}.items():
    _unary(_name, _function)


@op("Reciprocal", folds=True)
def reciprocal(call: Call, x: Any) -> Any:
    return (1 / x).astype(x.dtype)


@op("Erf")
def erf(call: Call, x: Any) -> Any:
    return jax.scipy.special.erf(x) if x.dtype.kind == "f" else jax.lax.erf(x)


@op("Max", folds=True)
def max_(call: Call, *xs: Any) -> Any:
    out = xs[0]
    for x in xs[1:]:
        out = each(at_least, out, x) if is_sizes(out, x) else call.xp.maximum(out, x)
    return out


@op("Min", folds=True)
def min_(call: Call, *xs: Any) -> Any:
    out = xs[0]
    for x in xs[1:]:
        out = each(at_most, out, x) if is_sizes(out, x) else call.xp.minimum(out, x)
    return out


@op("Sum", folds=True)
def sum_(call: Call, *xs: Any) -> Any:
    return sum(xs[1:], start=xs[0])


@op("Mean")
def mean(call: Call, *xs: Any) -> Any:
    return sum(xs[1:], start=xs[0]) / len(xs)


@op("Equal", folds=True)
def equal(call: Call, x: Any, y: Any) -> Any:
    if is_sizes(x, y):
        return each(same, x, y).astype(bool)
    return x == _aligned(call, x, y)


@op("Greater", folds=True)
def greater(call: Call, x: Any, y: Any) -> Any:
    return _decided(x > _aligned(call, x, y))


@op("Less", folds=True)
def less(call: Call, x: Any, y: Any) -> Any:
    return _decided(x < _aligned(call, x, y))


@op("GreaterOrEqual", folds=True)
def greater_or_equal(call: Call, x: Any, y: Any) -> Any:
    return _decided(x >= y)


@op("LessOrEqual", folds=True)
def less_or_equal(call: Call, x: Any, y: Any) -> Any:
    return _decided(x <= y)


def _decided(answer: Any) -> Any:
    """Comparisons of symbolic sizes give objects; those that could be decided are booleans."""
    return answer.astype(bool) if is_sizes(answer) else answer


@op("And", folds=True)
def and_(call: Call, x: Any, y: Any) -> Any:
    return x & _aligned(call, x, y)


@op("Or", folds=True)
def or_(call: Call, x: Any, y: Any) -> Any:
    return x | _aligned(call, x, y)


@op("Xor", folds=True)
def xor(call: Call, x: Any, y: Any) -> Any:
    return x ^ _aligned(call, x, y)


@op("Not", folds=True)
def not_(call: Call, x: Any) -> Any:
    return ~x


@op("BitwiseAnd", folds=True)
def bitwise_and(call: Call, x: Any, y: Any) -> Any:
    return x & y


@op("BitwiseOr", folds=True)
def bitwise_or(call: Call, x: Any, y: Any) -> Any:
    return x | y


@op("BitwiseXor", folds=True)
def bitwise_xor(call: Call, x: Any, y: Any) -> Any:
    return x ^ y


@op("BitShift", folds=True)
def bit_shift(call: Call, x: Any, y: Any) -> Any:
    last = np.asarray(x.dtype.itemsize * 8 - 1, y.dtype)
    within = call.xp.minimum(y, last)
    if call.required("direction") == "LEFT":
        return call.xp.where(y <= last, call.xp.left_shift(x, within), call.xp.zeros_like(x))
    shifted = call.xp.right_shift(x, within)  # a signed shift that is too far leaves the sign
    return call.xp.where(y > last, call.xp.right_shift(shifted, np.ones((), y.dtype)), shifted)


@op("IsNaN", folds=True)
def is_nan(call: Call, x: Any) -> Any:
    return call.xp.isnan(x)


@op("IsInf", folds=True)
def is_inf(call: Call, x: Any) -> Any:
    positive = (x == np.inf) & bool(call.attr("detect_positive", 1))
    negative = (x == -np.inf) & bool(call.attr("detect_negative", 1))
    return positive | negative


@op("Where", folds=True)
def where(call: Call, condition: Any, x: Any, y: Any) -> Any:
    return call.xp.where(condition, x, y)


@op("Clip", folds=True)
def clip(call: Call, x: Any, low: Any = None, high: Any = None) -> Any:
    if call.version < 11:
        low, high = call.attr("min"), call.attr("max")
        low = None if low is None else np.asarray(low, x.dtype)
        high = None if high is None else np.asarray(high, x.dtype)
    if low is not None:
        x = each(at_least, x, low) if is_sizes(x, low) else call.xp.maximum(x, low)
    if high is not None:
        x = each(at_most, x, high) if is_sizes(x, high) else call.xp.minimum(x, high)
    return x


@op("Relu", folds=True)
def relu(call: Call, x: Any) -> Any:
    return call.xp.maximum(x, np.zeros((), x.dtype))


@op("Sigmoid")
def sigmoid(call: Call, x: Any) -> Any:
    return jax.nn.sigmoid(x)


@op("LeakyRelu")
def leaky_relu(call: Call, x: Any) -> Any:
    return jnp.where(x >= 0, x, x * call.attr("alpha", 0.01))


@op("ThresholdedRelu")
def thresholded_relu(call: Call, x: Any) -> Any:
    return jnp.where(x > call.attr("alpha", 1.0), x, jnp.zeros_like(x))


@op("PRelu")
def prelu(call: Call, x: Any, slope: Any) -> Any:
    if call.version < 7 and slope.ndim == 1 and x.ndim > 1:
        slope = slope.reshape((-1,) + (1,) * (x.ndim - 2))
    return jnp.where(x < 0, x * slope, x)


@op("Elu")
def elu(call: Call, x: Any) -> Any:
    alpha = call.attr("alpha", 1.0)
    return jnp.where(x < 0, alpha * jnp.expm1(jnp.minimum(x, 0)), x)


@op("Celu")
def celu(call: Call, x: Any) -> Any:
    alpha = call.attr("alpha", 1.0)
    return jnp.maximum(x, 0) + jnp.minimum(0, alpha * jnp.expm1(jnp.minimum(x, 0) / alpha))


@op("Selu")
def selu(call: Call, x: Any) -> Any:
    alpha = call.attr("alpha", 1.67326319217681884765625)  # ONNX operator docs, Selu-6
    gamma = call.attr("gamma", 1.05070102214813232421875)
    return gamma * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0)))


@op("HardSigmoid")
def hard_sigmoid(call: Call, x: Any) -> Any:
    return clamp(call.attr("alpha", 0.2) * x + call.attr("beta", 0.5), 0, 1)


@op("HardSwish")
def hard_swish(call: Call, x: Any) -> Any:
    return x * clamp(x / 6 + 0.5, 0, 1)


@op("Mish")
def mish(call: Call, x: Any) -> Any:
    return x * jnp.tanh(jax.nn.softplus(x))


@op("Swish")
def swish(call: Call, x: Any) -> Any:
    return x * jax.nn.sigmoid(call.attr("alpha", 1.0) * x)


@op("Softplus")
def softplus(call: Call, x: Any) -> Any:
    return jax.nn.softplus(x)


@op("Softsign")
def softsign(call: Call, x: Any) -> Any:
    return x / (1 + jnp.abs(x))


@op("Shrink")
def shrink(call: Call, x: Any) -> Any:
    bound, bias = call.attr("lambd", 0.5), call.attr("bias", 0.0)
    zero = jnp.zeros_like(x)
    return jnp.where(x < -bound, x + bias, jnp.where(x > bound, x - bias, zero)).astype(x.dtype)


@op("Gelu")
def gelu(call: Call, x: Any) -> Any:
    return call.composite(
        composites.gelu, x, approximate=call.attr("approximate", "none") == "tanh"
    )
