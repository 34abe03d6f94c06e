"""Attention and rotary embedding of the standard domain (opset 23 on)."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anychip.frontends.onnx.table import Call, op
from anychip.frontends.onnx.tensors import element
from anychip.ops import composites


def heads(x: Any, count: int) -> Any:
    """[B, S, H·D] → [B, H, S, D]."""
    batch, length, width = x.shape
    return x.reshape((batch, length, count, width // count)).transpose(0, 2, 1, 3)


def merged(x: Any) -> Any:
    """[B, H, S, D] → [B, S, H·D]."""
    batch, count, length, width = x.shape
    return x.transpose(0, 2, 1, 3).reshape((batch, length, count * width))


def combine(*masks: Any) -> Any:
    """The masks as one: boolean ones intersect, numbers add up (a boolean one hides with -inf)."""
    out = None
    for mask in masks:
        if mask is None or out is None:
            out = mask if out is None else out
        elif out.dtype == np.bool_ and mask.dtype == np.bool_:
            out = out & mask
        else:
            out = _additive(out, mask) + _additive(mask, out)
    return out


def _additive(mask: Any, other: Any) -> Any:
    if mask.dtype != np.bool_:
        return mask
    kind = other.dtype if other.dtype != np.bool_ else np.dtype(np.float32)
    return jnp.where(mask, jnp.zeros((), kind), jnp.full((), -np.inf, kind))


def causal_mask(queries: Any, keys: Any, offset: Any, left: int = -1, right: int = 0) -> Any:
    """May query i see key j: offset + i - left ≤ j ≤ offset + i + right; -1 is no bound.

    `offset` is a number, or a vector over the batch; then the mask is [B, 1, Q, S].
    """
    i = jnp.arange(queries)[:, None]
    j = jnp.arange(keys)[None]
    if getattr(offset, "ndim", 0):
        offset = offset.reshape((-1, 1, 1, 1))
    distance = j - (i + offset)
    mask = jnp.ones(distance.shape, bool)
    if right >= 0:
        mask = mask & (distance <= right)
    if left >= 0:
        mask = mask & (-distance <= left)
    return mask


@op("Attention")
def attention(
    call: Call,
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    past_k: Any = None,
    past_v: Any = None,
    lengths: Any = None,
) -> Any:
    flat = q.ndim == 3
    if flat:
        q = heads(q, call.required("q_num_heads"))
        k = heads(k, call.required("kv_num_heads"))
        v = heads(v, call.required("kv_num_heads"))
    if past_k is not None:
        k = jnp.concatenate([past_k, k], axis=2)
        v = jnp.concatenate([past_v, v], axis=2)
    present = (k, v)
    queries, keys = q.shape[2], k.shape[2]
    offset = past_k.shape[2] if past_k is not None else 0
    if past_k is None and lengths is not None:
        offset = lengths.reshape(-1) - queries
    masks = [_padded(mask, keys)]
    if call.attr("is_causal", 0):
        masks.append(causal_mask(queries, keys, offset))
    left, right = call.attr("left_window_size", -1), call.attr("right_window_size", -1)
    if left >= 0 or right >= 0:
        masks.append(causal_mask(queries, keys, offset, left, right))
    if lengths is not None:
        masks.append(jnp.arange(keys) < lengths.reshape((-1, 1, 1, 1)))
    scale = call.attr("scale") or 1 / math.sqrt(q.shape[3])
    softcap = call.attr("softcap", 0.0)
    both = combine(*masks)
    if call.wants(3) or q.dtype.kind not in "fV" or q.dtype == np.float64:
        out, logits = _explicit(call, q, k, v, both, scale, softcap)
    else:
        out = call.composite(
            composites.attention, q, k, v, _four(both), scale=float(scale), softcap=float(softcap)
        )
        logits = None
    out = merged(out) if flat else out
    return (out, *present, logits)[: 4 if call.wants(3) else 3]


def _padded(mask: Any, keys: Any) -> Any:
    """A mask that covers fewer keys hides the rest."""
    if mask is None or mask.shape[-1] == keys:
        return mask
    widths = [(0, 0)] * (mask.ndim - 1) + [(0, keys - mask.shape[-1])]
    fill = False if mask.dtype == np.bool_ else -np.inf
    return jnp.pad(mask, widths, constant_values=fill)


def _four(mask: Any) -> Any:
    return mask if mask is None else mask.reshape((1,) * (4 - mask.ndim) + mask.shape)


def _explicit(
    call: Call, q: Any, k: Any, v: Any, mask: Any, scale: float, softcap: float
) -> tuple[Any, Any]:
    """Attention that also gives the logits `qk_matmul_output_mode` asks for."""
    group = q.shape[1] // k.shape[1]
    k, v = jnp.repeat(k, group, axis=1), jnp.repeat(v, group, axis=1)
    root = jnp.asarray(math.sqrt(scale), q.dtype)
    logits = jnp.einsum("bhqd,bhsd->bhqs", q * root, k * root, preferred_element_type=q.dtype)
    mode = call.attr("qk_matmul_output_mode", 0)
    raw = logits
    if softcap:
        logits = (softcap * jnp.tanh(logits / softcap)).astype(q.dtype)
        raw = logits if mode == 1 else raw
        raw = logits if call.version >= 23 and mode in (0, 1) else raw
    hidden = None
    if mask is not None:
        bias = _additive(mask, logits)
        hidden = jnp.max(bias, axis=-1, keepdims=True) == -np.inf
        logits = logits + bias
    if mode == 2:
        raw = logits
    wide = logits
    if precision := call.attr("softmax_precision"):
        wide = logits.astype(element(precision).numpy)
    weights = jax.nn.softmax(wide, axis=-1)
    if hidden is not None:
        weights = jnp.where(hidden, jnp.zeros_like(weights), weights)
    weights = weights.astype(q.dtype)
    out = jnp.einsum("bhqs,bhsd->bhqd", weights, v, preferred_element_type=q.dtype)
    return out, weights if mode == 3 else raw.astype(q.dtype)


@op("RotaryEmbedding")
def rotary_embedding(call: Call, x: Any, cos: Any, sin: Any, positions: Any = None) -> Any:
    flat = x.ndim == 3
    y = heads(x, call.required("num_heads")) if flat else x
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    size = call.attr("rotary_embedding_dim", 0) or y.shape[-1]
    out = rotate(y, cos[:, None], sin[:, None], size, bool(call.attr("interleaved", 0)))
    return merged(out) if flat else out


def rotate(x: Any, cos: Any, sin: Any, size: int, interleaved: bool) -> Any:
    """Turn the first `size` numbers of each head; cos and sin broadcast to [B, H, S, size/2]."""
    turned, rest = x[..., :size], x[..., size:]
    half = size // 2
    cos, sin = cos[..., :half].astype(x.dtype), sin[..., :half].astype(x.dtype)
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        out = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(turned.shape)
    else:
        a, b = turned[..., :half], turned[..., half:]
        out = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return jnp.concatenate([out, rest], axis=-1)
