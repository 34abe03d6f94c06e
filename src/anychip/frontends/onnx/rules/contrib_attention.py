"""Attention of ONNX Runtime's domain com.microsoft: grouped-query, multi-head, packed, rotary."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from anychip.core.errors import InputError, UnsupportedError
from anychip.frontends.onnx.rules.attention import causal_mask, combine, heads, merged, rotate
from anychip.frontends.onnx.table import MICROSOFT, Call, explain, op, sizes
from anychip.ops import composites

explain(
    *("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"),
    domain=MICROSOFT,
    why="is a whole decoding loop; export the decoder alone and generate outside of it",
)


@op("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(call: Call, x: Any, positions: Any, cos: Any, sin: Any) -> Any:
    """x[B, S, H·D] or [B, H, S, D]; positions[B, S], or [1]: where the first token stands."""
    if call.attr("is_packed_batching", 0):
        raise UnsupportedError("packs sequences of one batch together; export without packing")
    size = call.attr("rotary_embedding_dim", 0)
    count = call.attr("num_heads", 0)
    flat = x.ndim == 3
    if flat and not count:
        count = x.shape[2] // (size or 2 * cos.shape[-1])
    y = heads(x, count) if flat else x
    length = y.shape[2]
    if positions.ndim == 1:
        positions = positions.reshape((1, 1)) + jnp.arange(length)[None]
    turned = _rotated(call, y, cos, sin, positions, bool(call.attr("interleaved", 0)))
    return merged(turned) if flat else turned


def _rotated(call: Call, x: Any, cos: Any, sin: Any, positions: Any, interleaved: bool) -> Any:
    size = call.attr("rotary_embedding_dim", 0) or 2 * cos.shape[-1]
    return rotate(x, cos[positions][:, None], sin[positions][:, None], size, interleaved)


def _attend(call: Call, q: Any, k: Any, v: Any, mask: Any, scale: Any, softcap: float = 0.0) -> Any:
    scale = float(scale or 1 / math.sqrt(q.shape[3]))
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    return call.composite(composites.attention, q, k, v, mask, scale=scale, softcap=float(softcap))


@op("GroupQueryAttention", domain=MICROSOFT, known=(6,))
def group_query_attention(
    call: Call,
    q: Any,
    k: Any = None,
    v: Any = None,
    past_k: Any = None,
    past_v: Any = None,
    last: Any = None,
    total: Any = None,
    cos: Any = None,
    sin: Any = None,
    positions: Any = None,
    bias: Any = None,
    sink: Any = None,
    *scales: Any,
) -> Any:
    """Causal attention over a KV cache; `last`[B] is each sequence's length - 1, new tokens too.

    The present cache is as long as the past one, or as `total` where that is longer.
    """
    if sink is not None or call.attr("smooth_softmax", 0) > 0:
        raise UnsupportedError("uses attention sinks or smooth softmax, which have no rule yet")
    if any(s is not None for s in scales):
        raise UnsupportedError("holds its cache quantised; export with a float cache")
    many, few = call.required("num_heads"), call.required("kv_num_heads")
    if k is None:
        width = q.shape[2] // (many + 2 * few)
        q, k, v = jnp.split(q, [many * width, (many + few) * width], axis=2)
    q, k, v = heads(q, many), heads(k, few), heads(v, few)
    batch, _, length, width = q.shape
    (whole,) = sizes(total)
    first = whole is length or (isinstance(whole, int) and whole == length)
    before = jnp.zeros(batch, np.int32) if first else last.reshape(-1).astype(np.int32) + 1 - length
    if call.attr("do_rotary", 0):
        if positions is None:
            positions = before[:, None] + jnp.arange(length)[None]
        turn = bool(call.attr("rotary_interleaved", 0))
        q, k = (_rotated(call, t, cos, sin, positions, turn) for t in (q, k))
    present_k, present_v = (
        _appended(call, past, new, before, whole) for past, new in ((past_k, k), (past_v, v))
    )
    window = call.attr("local_window_size", -1)
    left = window - 1 if window > 0 else -1
    masks = [causal_mask(length, present_k.shape[2], before, left), bias]
    out = _attend(
        call,
        q,
        present_k,
        present_v,
        combine(*masks),
        call.attr("scale"),
        call.attr("softcap", 0.0),
    )
    return merged(out), present_k, present_v


def _appended(call: Call, past: Any, new: Any, before: Any, whole: Any) -> Any:
    """The cache [B, K, T, D] with the new tokens of each sequence after its old ones."""
    if past is None:
        return new
    have, length = past.shape[2], new.shape[2]
    if isinstance(have, int) and isinstance(whole, int) and have < whole:
        past = jnp.pad(past, ((0, 0), (0, 0), (0, whole - have), (0, 0)))
    elif not isinstance(have, int) or not isinstance(whole, int):
        past = jnp.concatenate([past, jnp.zeros_like(new)], axis=2)
    if isinstance(have, int) and have == 0:
        return new if past.shape[2] == length else past.at[:, :, :length].set(new)
    return call.composite(composites.cache_update, past, new, before.astype(np.int64))


def _unpacked(q: Any, k: Any, v: Any, count: int) -> tuple[Any, Any, Any]:
    """Query, key and value as [B, H, S, D], from separate or packed inputs."""
    if q.ndim == 5:  # [B, S, H, 3, D]
        q, k, v = (q[:, :, :, i].transpose(0, 2, 1, 3) for i in range(3))
        return q, k, v
    if k is not None and k.ndim == 5:  # [B, S, H, 2, D]
        k, v = (k[:, :, :, i].transpose(0, 2, 1, 3) for i in range(2))
        return heads(q, count), k, v
    if k is None:
        raise InputError("has a query but no key")
    split = [t if t.ndim == 4 else heads(t, count) for t in (k, v)]
    return heads(q, count), split[0], split[1]


@op("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    call: Call,
    q: Any,
    k: Any = None,
    v: Any = None,
    bias: Any = None,
    padding: Any = None,
    attention_bias: Any = None,
    past_k: Any = None,
    past_v: Any = None,
    *rest: Any,
) -> Any:
    if any(r is not None for r in rest):
        raise UnsupportedError("shares a cache buffer or reorders beams; export without those")
    count = call.required("num_heads")
    if bias is not None:
        q, k, v = _biased(q, k, v, bias)
    q, k, v = _unpacked(q, k, v, count)
    if past_k is not None:
        k, v = jnp.concatenate([past_k, k], axis=2), jnp.concatenate([past_v, v], axis=2)
    masks = [_padding_mask(padding, k.shape[2]), attention_bias]
    if call.attr("unidirectional", 0):
        masks.append(causal_mask(q.shape[2], k.shape[2], k.shape[2] - q.shape[2]))
    out = _attend(call, q, k, v, combine(*masks), call.attr("scale"))
    return merged(out), k, v


def _biased(q: Any, k: Any, v: Any, bias: Any) -> tuple[Any, Any, Any]:
    if k is None or k.ndim == 5 or q.ndim == 5:
        raise UnsupportedError("adds a bias to packed projections; export them apart")
    a, b = q.shape[2], q.shape[2] if k.ndim == 4 else q.shape[2] + k.shape[2]
    q = q + bias[:a]
    if k.ndim == 3:
        k, v = k + bias[a:b], v + bias[b:]
    return q, k, v


def _padding_mask(mask: Any, keys: Any) -> Any:
    """`mask` as a boolean [B, 1, 1 or Q, S], from lengths [B] or flags [B, S] or [B, Q, S]."""
    if mask is None:
        return None
    if mask.ndim == 1:
        return (jnp.arange(keys)[None] < mask[:, None])[:, None, None]
    return (mask != 0)[:, None, None] if mask.ndim == 2 else (mask != 0)[:, None]


@op("Attention", domain=MICROSOFT)
def attention(
    call: Call,
    x: Any,
    weight: Any,
    bias: Any = None,
    mask: Any = None,
    past: Any = None,
    attention_bias: Any = None,
    *rest: Any,
) -> Any:
    """One input projected to query, key and value, then attention; the cache is [2, B, H, S, D]."""
    if any(r is not None for r in rest) or call.attr("do_rotary", 0):
        raise UnsupportedError("uses rotary embedding or a shared cache; use GroupQueryAttention")
    count = call.required("num_heads")
    projected = jnp.matmul(x, weight)
    projected = projected if bias is None else projected + bias
    third = projected.shape[2] // 3
    parts = call.attr("qkv_hidden_sizes") or [third] * 3
    q, k, v = jnp.split(projected, [parts[0], parts[0] + parts[1]], axis=2)
    q, k, v = heads(q, count), heads(k, count), heads(v, count)
    if past is not None:
        k, v = jnp.concatenate([past[0], k], axis=2), jnp.concatenate([past[1], v], axis=2)
    masks = [_padding_mask(mask, k.shape[2]), attention_bias]
    if call.attr("unidirectional", 0):
        masks.append(causal_mask(q.shape[2], k.shape[2], k.shape[2] - q.shape[2]))
    out = merged(_attend(call, q, k, v, combine(*masks), call.attr("scale")))
    return (out, jnp.stack([k, v])) if call.wants(1) else out
