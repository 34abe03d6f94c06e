"""Activation functions. Those that hardware knows as one thing are composites."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import torch
from jax import lax, nn

from anychip.core.errors import UnsupportedError
from anychip.frontends.torch.plain import filled, has_elements, where
from anychip.frontends.torch.promote import cast, floating
from anychip.frontends.torch.table import Rules
from anychip.frontends.torch.tensors import torch_dtype
from anychip.ops import composites

RULES = Rules()


def _number(value: Any, like: Any) -> Any:
    return cast(value, torch_dtype(like.dtype))


RULES("relu")(lambda x: jnp.maximum(x, jnp.zeros((), x.dtype)))
RULES("silu")(lambda x: composites.silu(x))
RULES("gelu")(
    lambda x, *, approximate="none": composites.gelu(x, approximate=approximate == "tanh")
)
RULES("relu6")(lambda x: hardtanh(x, 0, 6))


@RULES("hardtanh")
def hardtanh(x: Any, min_val: Any = -1, max_val: Any = 1) -> Any:
    return jnp.minimum(jnp.maximum(x, _number(min_val, x)), _number(max_val, x))


@RULES("hardsigmoid")
def hardsigmoid(x: Any) -> Any:
    return hardtanh(x + _number(3, x), 0, 6) / _number(6, x)


RULES("hardswish")(lambda x: x * hardsigmoid(x))


@RULES("leaky_relu")
def leaky_relu(x: Any, negative_slope: Any = 0.01) -> Any:
    return where(x > 0, x, x * _number(negative_slope, x))


@RULES("rrelu")
def rrelu(x: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Any:
    if training:
        raise UnsupportedError("its slopes are random numbers in training; call .eval()")
    return leaky_relu(x, (lower + upper) / 2)


@RULES("rrelu_with_noise_functional")
def rrelu_with_noise(
    x: Any, noise: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False
) -> Any:
    return rrelu(x, lower, upper, training), noise


@RULES("prelu", "_prelu_kernel")
def prelu(x: Any, weight: Any) -> Any:
    if weight.size > 1 and weight.ndim == 1 and x.ndim > 1:
        weight = weight.reshape(-1, *[1] * (x.ndim - 2))
    return where(x > 0, x, x * (weight if x.ndim else weight.reshape(())))


@RULES("elu")
def elu(x: Any, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Any:
    low = _number(alpha, x) * jnp.expm1(x * _number(input_scale, x))
    return where(x > 0, x, low) * _number(scale, x)


RULES("celu")(lambda x, alpha=1.0: elu(x, alpha, 1, 1 / alpha))
# Klambauer et al., Self-Normalizing Neural Networks, 2017
RULES("selu")(lambda x: elu(x, 1.6732632423543772, 1.0507009873554805))


@RULES("softplus")
def softplus(x: Any, beta: Any = 1, threshold: Any = 20) -> Any:
    scaled = x * _number(beta, x)
    # log(1+exp(s)) = max(s, 0) + log1p(exp(-|s|)) does not overflow
    soft = jnp.maximum(scaled, _number(0, x)) + jnp.log1p(jnp.exp(-jnp.abs(scaled)))
    return where(scaled > _number(threshold, x), x, soft / _number(beta, x))


RULES("mish")(lambda x: x * jnp.tanh(softplus(x)))
RULES("log_sigmoid")(lambda x: -softplus(-x))
RULES("log_sigmoid_forward")(lambda x: (-softplus(-x), jnp.zeros((0,), x.dtype)))


@RULES("glu")
def glu(x: Any, dim: int = -1) -> Any:
    value, gate = jnp.split(x, 2, axis=dim)
    return value * lax.logistic(gate)


@RULES("hardshrink")
def hardshrink(x: Any, lambd: Any = 0.5) -> Any:
    return where(jnp.abs(x) > _number(lambd, x), x, filled(x, 0))


@RULES("softshrink")
def softshrink(x: Any, lambd: Any = 0.5) -> Any:
    size = _number(lambd, x)
    return where(x > size, x - size, where(x < -size, x + size, filled(x, 0)))


@RULES("softmax.int", "special_softmax")
def softmax(x: Any, dim: int, dtype: Any = None) -> Any:
    (x,) = floating(x) if dtype is None else (cast(x, dtype),)
    if not x.ndim:
        return filled(x, 1)
    return composites.softmax(x, axis=dim % x.ndim) if has_elements(x) else x


@RULES("log_softmax.int", "special_log_softmax")
def log_softmax(x: Any, dim: int, dtype: Any = None) -> Any:
    (x,) = floating(x) if dtype is None else (cast(x, dtype),)
    return nn.log_softmax(x, dim) if x.ndim else filled(x, 0)


RULES("_softmax")(
    lambda x, dim, half_to_float: softmax(x, dim, torch.float32 if half_to_float else None)
)
RULES("_log_softmax")(
    lambda x, dim, half_to_float: log_softmax(x, dim, torch.float32 if half_to_float else None)
)


@RULES("_safe_softmax")
def safe_softmax(x: Any, dim: int, dtype: Any = None) -> Any:
    """Softmax that gives zeros where every entry of a row is -inf."""
    out = softmax(x, dim, dtype)
    masked = jnp.all(x == -jnp.inf, axis=dim, keepdims=True)
    return where(masked, filled(out, 0), out)


@RULES("logit")
def logit(x: Any, eps: float | None = None) -> Any:
    (x,) = floating(x)
    if eps is not None:
        x = jnp.minimum(jnp.maximum(x, _number(eps, x)), _number(1 - eps, x))
    return jnp.log(x / (1 - x))


RULES("special_ndtr")(lambda x: 0.5 * lax.erfc(-x * jnp.asarray(math.sqrt(0.5), x.dtype)))
