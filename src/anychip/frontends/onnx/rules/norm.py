"""Normalisation over batch, channels, groups and rows; matrix products; losses."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.frontends.onnx.rules.conv import per_channel
from anychip.frontends.onnx.table import Call, op
from anychip.frontends.onnx.tensors import element
from anychip.ops import composites


@op("BatchNormalization", known=lambda node: ())
def batch_normalization(call: Call, x: Any, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
    eps = call.attr("epsilon", 1e-5)
    training = call.attr("training_mode", 0)
    if call.version < 9 and not call.attr("spatial", 1):
        return (x - mean) * lax.rsqrt(var + eps) * scale + bias
    running = (mean, var)
    if training:
        axes = (0, *range(2, x.ndim))
        keep = call.attr("momentum", 0.9)
        mean = jnp.mean(x, axes)
        var = jnp.mean((x - per_channel(mean, x.ndim)) ** 2, axes)
        running = tuple(
            (old * keep + new * (1 - keep)).astype(old.dtype)
            for old, new in zip(running, (mean, var), strict=True)
        )
    wide = jnp.promote_types(x.dtype, mean.dtype)
    factor = scale.astype(wide) * lax.rsqrt(var.astype(wide) + eps)
    shift = bias.astype(wide) - mean.astype(wide) * factor
    out = x * per_channel(factor, x.ndim) + per_channel(shift, x.ndim)
    return out.astype(x.dtype), *running


def normalised(x: Any, axes: Any, eps: float) -> Any:
    """(x - mean) / sqrt(variance + eps) over these axes, the mean, and the inverse of the root."""
    mean = jnp.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    inverse = lax.rsqrt(jnp.mean(centred * centred, axis=axes, keepdims=True) + eps)
    return centred * inverse, mean, inverse


@op("InstanceNormalization")
def instance_normalization(call: Call, x: Any, scale: Any, bias: Any) -> Any:
    y, _, _ = normalised(x, tuple(range(2, x.ndim)), call.attr("epsilon", 1e-5))
    return y * per_channel(scale, x.ndim) + per_channel(bias, x.ndim)


@op("GroupNormalization")
def group_normalization(call: Call, x: Any, scale: Any, bias: Any) -> Any:
    groups = call.required("num_groups")
    wide = _wide(call, x)
    y, _, _ = normalised(wide.reshape((x.shape[0], groups, -1)), 2, call.attr("epsilon", 1e-5))
    if call.version < 21:  # scale and bias per group
        y = y.astype(x.dtype) * scale[None, :, None] + bias[None, :, None]
        return y.reshape(x.shape)
    y = y.reshape(x.shape).astype(x.dtype)
    return y * per_channel(scale, x.ndim) + per_channel(bias, x.ndim)


def _wide(call: Call, x: Any) -> Any:
    """The type statistics are computed in (`stash_type`), never narrower than the input."""
    stash = element(call.attr("stash_type", 1)).numpy
    return x.astype(jnp.promote_types(stash, x.dtype) if x.dtype != np.float64 else x.dtype)


@op("LayerNormalization")
def layer_normalization(call: Call, x: Any, scale: Any, bias: Any = None) -> Any:
    axis, eps = call.attr("axis", -1) % x.ndim, call.attr("epsilon", 1e-5)
    if _is_row(call, x, axis, scale, bias) and not (call.wants(1) or call.wants(2)):
        return call.composite(composites.layer_norm, x, scale, bias, eps=eps)
    wide = _wide(call, x)
    y, mean, inverse = normalised(wide, tuple(range(axis, x.ndim)), eps)
    out = y.astype(x.dtype) * scale
    out = out if bias is None else out + bias
    return out, mean, inverse


def _is_row(call: Call, x: Any, axis: int, *parameters: Any) -> bool:
    """Whether a norm is over the last axis, with parameters of that length, in f32 or wider."""
    wanted = (x.shape[-1],)
    return (
        axis == x.ndim - 1
        and call.attr("stash_type", 1) == 1
        and all(p is None or p.shape == wanted for p in parameters)
    )


@op("RMSNormalization")
def rms_normalization(call: Call, x: Any, scale: Any) -> Any:
    axis, eps = call.attr("axis", -1) % x.ndim, call.attr("epsilon", 1e-5)
    if _is_row(call, x, axis, scale):
        return call.composite(composites.rms_norm, x, scale, eps=eps)
    wide = _wide(call, x)
    mean_square = jnp.mean(wide * wide, axis=tuple(range(axis, x.ndim)), keepdims=True)
    return (wide * lax.rsqrt(mean_square + eps)).astype(x.dtype) * scale


@op("MeanVarianceNormalization")
def mean_variance_normalization(call: Call, x: Any) -> Any:
    axes = tuple(call.attr("axes", [0, 2, 3]))
    mean = jnp.mean(x, axis=axes, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(x * x, axis=axes, keepdims=True) - mean * mean)
    return (x - mean) / (deviation + 1e-9)


@op("LRN")
def lrn(call: Call, x: Any) -> Any:
    size = call.required("size")
    low = (size - 1) // 2
    pads = [(0, 0)] * x.ndim
    pads[1] = (low, size - 1 - low)
    shape = [1] * x.ndim
    shape[1] = size
    total = lax.reduce_window(x * x, np.zeros((), x.dtype), lax.add, shape, [1] * x.ndim, pads)
    base = call.attr("bias", 1.0) + call.attr("alpha", 1e-4) / size * total
    return x / base ** call.attr("beta", 0.75)


@op("MatMul")
def mat_mul(call: Call, a: Any, b: Any) -> Any:
    return jnp.matmul(a, b, preferred_element_type=a.dtype)


@op("Gemm")
def gemm(call: Call, a: Any, b: Any, c: Any = None) -> Any:
    a = a.T if call.attr("transA", 0) else a
    b = b.T if call.attr("transB", 0) else b
    alpha, beta = call.attr("alpha", 1.0), call.attr("beta", 1.0)
    out = jnp.matmul(a, b, preferred_element_type=a.dtype)
    out = out if alpha == 1 else (alpha * out).astype(a.dtype)
    if c is None:
        return out
    return out + (c if beta == 1 else (beta * c).astype(a.dtype))


@op("Einsum")
def einsum(call: Call, *xs: Any) -> Any:
    return jnp.einsum(call.required("equation"), *xs, preferred_element_type=xs[0].dtype)


@op("Det")
def det(call: Call, x: Any) -> Any:
    """Determinant by Gaussian elimination with partial pivoting, unrolled (sizes are small)."""
    n = x.shape[-1]
    if n > 16:
        raise call.unsupported(f"wants the determinant of a {n} × {n} matrix; up to 16 × 16 work")
    if n == 0:
        return jnp.ones(x.shape[:-2], x.dtype)
    sign = jnp.ones(x.shape[:-2], x.dtype)
    product = sign
    for k in range(n):
        column = jnp.abs(x[..., :, k])
        pivot = jnp.argmax(jnp.where(jnp.arange(n) >= k, column, -1), axis=-1)
        sign = jnp.where(pivot == k, sign, -sign)
        swapped = jnp.take_along_axis(x, pivot[..., None, None], axis=-2)
        row_k = x[..., k : k + 1, :]
        rows = jnp.arange(n)[:, None]
        x = jnp.where(rows == pivot[..., None, None], row_k, x)
        x = jnp.where(rows == k, swapped, x)
        head = x[..., k, k]
        product = product * head
        safe = jnp.where(head == 0, 1, head)[..., None, None]
        factor = jnp.where(rows > k, x[..., :, k : k + 1] / safe, 0)
        x = x - factor * swapped
    return sign * product


@op("NegativeLogLikelihoodLoss")
def nll_loss(call: Call, scores: Any, target: Any, weight: Any = None) -> Any:
    return _nll(call, scores, target, weight)


@op("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy_loss(call: Call, scores: Any, labels: Any, weight: Any = None) -> Any:
    log_probability = jax.nn.log_softmax(scores, axis=1)
    return _nll(call, log_probability, labels, weight), log_probability


def _nll(call: Call, scores: Any, target: Any, weight: Any) -> Any:
    ignored = call.attr("ignore_index")
    keep = jnp.ones(target.shape, bool) if ignored is None else target != ignored
    index = jnp.where(keep, target, 0)
    loss = -jnp.take_along_axis(scores, jnp.expand_dims(index, 1), axis=1).squeeze(1)
    factor = jnp.ones(target.shape, scores.dtype) if weight is None else weight[index]
    factor = jnp.where(keep, factor, 0).astype(scores.dtype)
    loss = loss * factor
    reduction = call.attr("reduction", "mean")
    if reduction == "none":
        return loss
    if reduction == "sum":
        return jnp.sum(loss)
    total = math.prod(loss.shape) if weight is None and ignored is None else jnp.sum(factor)
    return jnp.sum(loss) / total
