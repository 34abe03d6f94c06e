"""Normalisation by layer, group, batch and root mean square."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from anychip.frontends.torch.promote import accumulator
from anychip.frontends.torch.table import Rules
from anychip.ops import composites

RULES = Rules()


@RULES("layer_norm")
def layer_norm(
    x: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    rows, scale, shift = _last_axis(x, normalized_shape, weight, bias)
    if scale is None and shift is not None:
        scale = jnp.ones(shift.shape, x.dtype)
    return composites.layer_norm(rows, scale, shift, eps=eps).reshape(x.shape)


def _last_axis(x: Any, shape: Sequence[int], weight: Any, bias: Any) -> tuple[Any, Any, Any]:
    """The normalised axes of everything joined into one."""
    if len(shape) == 1:
        return x, weight, bias
    flat = lambda w: None if w is None else w.reshape(-1)  # noqa: E731
    return x.reshape(*x.shape[: x.ndim - len(shape)], math.prod(shape)), flat(weight), flat(bias)


@RULES("native_layer_norm")
def native_layer_norm(
    x: Any, normalized_shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> tuple[Any, Any, Any]:
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    mean, rstd = _mean_rstd(x, axes, eps)
    return layer_norm(x, normalized_shape, weight, bias, eps), mean, rstd


def _mean_rstd(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any]:
    wide = x.astype(accumulator(x.dtype))
    mean = jnp.mean(wide, axes, keepdims=True)
    var = jnp.mean(lax.square(wide - mean), axes, keepdims=True)
    return mean, lax.rsqrt(var + jnp.asarray(eps, wide.dtype))


@RULES("rms_norm")
def rms_norm(
    x: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None
) -> Any:
    rows, scale, _ = _last_axis(x, normalized_shape, weight, None)
    epsilon = float(jnp.finfo(accumulator(x.dtype)).eps) if eps is None else eps
    return composites.rms_norm(rows, scale, eps=epsilon).reshape(x.shape)


@RULES("_fused_rms_norm")
def fused_rms_norm(
    x: Any, normalized_shape: Sequence[int], weight: Any, eps: float | None
) -> tuple[Any, Any]:
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    epsilon = float(jnp.finfo(accumulator(x.dtype)).eps) if eps is None else eps
    squares = jnp.mean(lax.square(x.astype(accumulator(x.dtype))), axes, keepdims=True)
    return rms_norm(x, normalized_shape, weight, epsilon), lax.rsqrt(squares + epsilon)


@RULES("group_norm")
def group_norm(
    x: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    return _group_norm(x, num_groups, weight, bias, eps)[0]


def _group_norm(x: Any, groups: int, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    grouped = x.reshape(x.shape[0], groups, -1)
    mean, rstd = _mean_rstd(grouped, (2,), eps)
    out = ((grouped - mean) * rstd).reshape(x.shape)
    channels = (1, x.shape[1], *(1,) * (x.ndim - 2))
    if weight is not None:
        out = out * weight.reshape(channels)
    if bias is not None:
        out = out + bias.reshape(channels)
    return out.astype(x.dtype), mean[..., 0], rstd[..., 0]


@RULES("native_group_norm")
def native_group_norm(
    x: Any, weight: Any, bias: Any, n: Any, c: Any, hw: Any, group: int, eps: float
) -> tuple[Any, Any, Any]:
    out, mean, rstd = _group_norm(x, group, weight, bias, eps)
    return out, mean.astype(x.dtype), rstd.astype(x.dtype)


def _scale_and_shift(x: Any, weight: Any, bias: Any, mean: Any, rstd: Any) -> Any:
    """(x - mean)·rstd·weight + bias by channel, folded into one multiply and one add."""
    scale = rstd if weight is None else rstd * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    channels = (1, -1, *(1,) * (x.ndim - 2))
    return (x * scale.reshape(channels) + shift.reshape(channels)).astype(x.dtype)


@RULES("_native_batch_norm_legit_no_training")
def batch_norm_inference(
    x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, momentum: float, eps: float
) -> tuple[Any, Any, Any]:
    rstd = lax.rsqrt(running_var + jnp.asarray(eps, running_var.dtype))
    nothing = jnp.zeros((0,), accumulator(x.dtype))
    return _scale_and_shift(x, weight, bias, running_mean, rstd), nothing, nothing


RULES("_batch_norm_no_update")(
    lambda x, weight, bias, mean, var, momentum, eps: (
        *batch_norm_inference(x, weight, bias, mean, var, momentum, eps),
        jnp.zeros((0,), jnp.uint8),
    )
)


def _batch_statistics(x: Any, eps: float) -> tuple[Any, Any, Any, Any]:
    axes = (0, *range(2, x.ndim))
    wide = x.astype(accumulator(x.dtype))
    mean = jnp.mean(wide, axes)
    centred = wide - mean.reshape(1, -1, *(1,) * (x.ndim - 2))
    var = jnp.mean(lax.square(centred), axes)
    count = math.prod(x.shape[a] for a in axes)
    return mean, var, lax.rsqrt(var + jnp.asarray(eps, var.dtype)), count


@RULES("_native_batch_norm_legit.no_stats")
def batch_norm_no_stats(
    x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float
) -> tuple[Any, Any, Any]:
    mean, _, rstd, _ = _batch_statistics(x, eps)
    return _scale_and_shift(x, weight, bias, mean, rstd), mean, rstd


@RULES("_native_batch_norm_legit_functional")
def batch_norm_functional(
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Any, Any, Any, Any, Any]:
    """Also gives the running statistics after this batch (momentum counts for the new one)."""
    if not training:
        out = batch_norm_inference(x, weight, bias, running_mean, running_var, momentum, eps)
        return *out, running_mean, running_var
    mean, var, rstd, count = _batch_statistics(x, eps)
    unbiased = var * (count / jnp.asarray(max(count - 1, 1), var.dtype))
    later = lambda old, new: ((1 - momentum) * old + momentum * new).astype(old.dtype)  # noqa: E731
    out = _scale_and_shift(x, weight, bias, mean, rstd)
    return out, mean, rstd, later(running_mean, mean), later(running_var, unbiased)


@RULES("_batch_norm_with_update_functional")
def batch_norm_with_update(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float
) -> tuple[Any, ...]:
    out, saved, rstd, new_mean, new_var = batch_norm_functional(
        x, weight, bias, mean, var, True, momentum, eps
    )
    return out, saved, rstd, jnp.zeros((0,), jnp.uint8), new_mean, new_var


@RULES("_weight_norm_interface")
def weight_norm(v: Any, g: Any, dim: int = 0) -> tuple[Any, Any]:
    axes = tuple(a for a in range(v.ndim) if a != dim % v.ndim)
    norm = jnp.sqrt(jnp.sum(lax.square(v.astype(accumulator(v.dtype))), axes, keepdims=True))
    return v * (g / norm).astype(v.dtype), norm
