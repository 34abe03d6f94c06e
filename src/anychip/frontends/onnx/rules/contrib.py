"""Fused ops of ONNX Runtime's domain com.microsoft: norms, activations, products."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.frontends.onnx.rules.cast import clamp
from anychip.frontends.onnx.rules.conv import convolve, per_channel
from anychip.frontends.onnx.rules.norm import normalised
from anychip.frontends.onnx.table import MICROSOFT, Call, op
from anychip.ops import composites


def _wide(x: Any) -> Any:
    return x if x.dtype == np.float64 else x.astype(np.float32)


@op("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(
    call: Call, x: Any, skip: Any, gamma: Any, beta: Any = None, bias: Any = None
) -> Any:
    """Layer norm of x + skip + bias; the fourth output is that sum."""
    total = x + skip if bias is None else x + skip + bias
    eps = call.attr("epsilon", 1e-12)
    out = call.composite(composites.layer_norm, total, gamma, beta, eps=eps)
    if not (call.wants(1) or call.wants(2)):
        return out, None, None, total
    _, mean, inverse = normalised(_wide(total), -1, eps)
    return out, mean, inverse, total


@op("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_normalization(
    call: Call, x: Any, skip: Any, gamma: Any, bias: Any = None
) -> Any:
    total = x + skip if bias is None else x + skip + bias
    eps = call.attr("epsilon", 1e-12)
    out = call.composite(composites.rms_norm, total, gamma, eps=eps)
    return out, None, _inverse_rms(total, eps) if call.wants(2) else None, total


@op("SimplifiedLayerNormalization", domain=MICROSOFT)
def simplified_layer_normalization(call: Call, x: Any, scale: Any) -> Any:
    axis = call.attr("axis", -1) % x.ndim
    if axis != x.ndim - 1:
        raise call.unsupported("normalises over more than the last axis; use RMSNormalization")
    eps = call.attr("epsilon", 1e-5)
    out = call.composite(composites.rms_norm, x, scale, eps=eps)
    return out, _inverse_rms(x, eps) if call.wants(1) else None


def _inverse_rms(x: Any, eps: float) -> Any:
    wide = _wide(x)
    return lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)


@op("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(
    call: Call,
    ids: Any,
    segments: Any,
    words: Any,
    places: Any,
    kinds: Any,
    gamma: Any,
    beta: Any,
    mask: Any = None,
    positions: Any = None,
) -> Any:
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    total = words[ids] + places[positions]
    total = total if kinds is None or segments is None else total + kinds[segments]
    out = call.composite(composites.layer_norm, total, gamma, beta, eps=call.attr("epsilon", 1e-12))
    count = jnp.zeros(ids.shape[0], np.int32)
    if mask is not None:
        count = jnp.sum(mask, axis=1).astype(np.int32)
    return out, count, total


@op("Gelu", domain=MICROSOFT)
def gelu(call: Call, x: Any) -> Any:
    return call.composite(composites.gelu, x, approximate=False)


@op("BiasGelu", domain=MICROSOFT)
def bias_gelu(call: Call, x: Any, bias: Any) -> Any:
    return call.composite(composites.gelu, x + bias, approximate=False)


@op("FastGelu", domain=MICROSOFT)
def fast_gelu(call: Call, x: Any, bias: Any = None) -> Any:
    return call.composite(composites.gelu, x if bias is None else x + bias, approximate=True)


@op("QuickGelu", domain=MICROSOFT)
def quick_gelu(call: Call, x: Any) -> Any:
    return x * jax.nn.sigmoid(call.attr("alpha", 1.702) * x)


@op("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(call: Call, x: Any, bias: Any) -> Any:
    value, gate = jnp.split(x + bias, 2, axis=-1)
    return value * call.composite(composites.gelu, gate, approximate=False)


@op("BiasAdd", domain=MICROSOFT)
def bias_add(call: Call, x: Any, bias: Any, skip: Any) -> Any:
    return x + bias + skip


@op("BiasSoftmax", domain=MICROSOFT)
def bias_softmax(call: Call, x: Any, bias: Any) -> Any:
    axis = call.attr("axis", 1) % x.ndim
    total = x + bias
    flat = total.reshape((*total.shape[:axis], -1))
    return call.composite(composites.softmax, flat, axis=-1).reshape(total.shape)


@op("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_mat_mul(call: Call, a: Any, b: Any) -> Any:
    """alpha · op(a) · op(b); `transBatch` moves the first axis next to last before transposing."""
    sides = []
    for value, letter in ((a, "A"), (b, "B")):
        if call.attr(f"transBatch{letter}", 0):
            value = jnp.moveaxis(value, 0, -2)
        if call.attr(f"trans{letter}", 0) and value.ndim > 1:
            value = value.swapaxes(-1, -2)
        sides.append(value)
    out = jnp.matmul(*sides, preferred_element_type=a.dtype)
    alpha = call.attr("alpha", 1.0)
    return out if alpha == 1 else (out * alpha).astype(a.dtype)


@op("FusedGemm", domain=MICROSOFT)
def fused_gemm(call: Call, a: Any, b: Any, c: Any = None) -> Any:
    a = a.T if call.attr("transA", 0) else a
    b = b.T if call.attr("transB", 0) else b
    out = call.attr("alpha", 1.0) * jnp.matmul(a, b)
    out = out if c is None else out + call.attr("beta", 1.0) * c
    return _activated(call, out.astype(a.dtype), call.attr("activation", ""))


@op("FusedConv", domain=MICROSOFT)
def fused_conv(call: Call, x: Any, w: Any, b: Any = None, z: Any = None) -> Any:
    out = convolve(call, x, w)
    out = out if b is None else out + per_channel(b, out.ndim)
    out = out if z is None else out + z
    return _activated(call, out, call.attr("activation", ""))


def _activated(call: Call, x: Any, name: str) -> Any:
    params = call.attr("activation_params") or []
    alpha = call.attr("activation_alpha", params[0] if params else None)
    beta = call.attr("activation_beta", params[1] if len(params) > 1 else None)
    if not name:
        return x
    if name == "Relu":
        return jnp.maximum(x, 0)
    if name == "Sigmoid":
        return jax.nn.sigmoid(x)
    if name == "Tanh":
        return jnp.tanh(x)
    if name == "LeakyRelu":
        return jnp.where(x < 0, x * (0.01 if alpha is None else alpha), x)
    if name == "Clip":
        return clamp(x, alpha, beta)
    if name == "HardSigmoid":
        slope, shift = 0.2 if alpha is None else alpha, 0.5 if beta is None else beta
        return clamp(slope * x + shift, 0, 1)
    raise call.unsupported(f"fuses the activation {name!r}, which has no rule")


@op("GroupNorm", domain=MICROSOFT)
def group_norm(call: Call, x: Any, gamma: Any, beta: Any) -> Any:
    """Group norm of N…C (`channels_last`, the default) or NC…, with SiLU if `activation` is 1."""
    last = bool(call.attr("channels_last", 1))
    y = jnp.moveaxis(x, -1, 1) if last else x
    groups = call.required("groups")
    flat, _, _ = normalised(
        _wide(y).reshape((y.shape[0], groups, -1)), 2, call.attr("epsilon", 1e-5)
    )
    out = flat.reshape(y.shape) * per_channel(_wide(gamma), y.ndim) + per_channel(
        _wide(beta), y.ndim
    )
    out = jax.nn.silu(out) if call.attr("activation", 0) else out
    return (jnp.moveaxis(out, 1, -1) if last else out).astype(x.dtype)


@op("ExpandDims", domain=MICROSOFT, known=(1,))
def expand_dims(call: Call, x: Any, axis: Any) -> Any:
    return jnp.expand_dims(x, int(np.reshape(axis, ())))


@op("Inverse", domain=MICROSOFT)
def inverse(call: Call, x: Any) -> Any:
    """Gauss–Jordan elimination with partial pivoting, unrolled (sizes are small)."""
    n = x.shape[-1]
    if not isinstance(n, int) or n > 16:
        raise call.unsupported(f"inverts a {n} × {n} matrix; up to 16 × 16 work")
    rows = jnp.arange(n)[:, None]
    both = jnp.concatenate([x, jnp.broadcast_to(jnp.eye(n, dtype=x.dtype), x.shape)], axis=-1)
    for k in range(n):
        column = jnp.where(jnp.arange(n) >= k, jnp.abs(both[..., :, k]), -1)
        pivot = jnp.argmax(column, axis=-1)[..., None, None]
        top, old = jnp.take_along_axis(both, pivot, axis=-2), both[..., k : k + 1, :]
        both = jnp.where(rows == pivot, old, both)
        top = top / top[..., k : k + 1]
        both = jnp.where(rows == k, top, both - both[..., :, k : k + 1] * top)
    return both[..., n:]
