"""Scaled dot-product attention, kept as one composite, and attention with a score function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from anychip.core.errors import UnsupportedError
from anychip.frontends.torch.plain import filled, where
from anychip.frontends.torch.promote import accumulator
from anychip.frontends.torch.table import Rules
from anychip.ops import composites

RULES = Rules()


@RULES("scaled_dot_product_attention")
def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """query[…, Q, D], key[…, K, S, D], value[…, K, S, V] → […, Q, V]."""
    if dropout_p > 0:
        raise UnsupportedError(
            "attention with dropout; call .eval() on the model, or pass dropout_p=0"
        )
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    lead = jnp.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    four = lambda x: _four_axes(x, lead)  # noqa: E731
    out = composites.attention(
        four(query),
        four(key),
        four(value),
        None if attn_mask is None else _mask(attn_mask, query, lead),
        scale=factor,
        causal=is_causal,
    )
    return out.reshape(*lead, *query.shape[-3:-1], value.shape[-1])


def _four_axes(x: Any, lead: tuple[Any, ...]) -> Any:
    if x.ndim == 2:
        return x[None, None]
    x = jnp.broadcast_to(x, (*lead, *x.shape[-3:]))
    return x.reshape(math.prod(lead), *x.shape[-3:])


def _mask(mask: Any, query: Any, lead: tuple[Any, ...]) -> Any:
    """The mask with four axes, those it has one entry along left as they are."""
    mask = mask.astype(query.dtype) if mask.dtype.kind in "fV" else mask
    if mask.ndim <= 4 and len(lead) <= 1:
        return mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape)
    wide = jnp.broadcast_to(mask, (*lead, *mask.shape[-3:]))
    return wide.reshape(math.prod(lead), *mask.shape[-3:])


@RULES("_scaled_dot_product_flash_attention_for_cpu")
def flash_for_cpu(
    query: Any,
    key: Any,
    value: Any,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Any = None,
    scale: float | None = None,
) -> tuple[Any, Any]:
    out = attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    # the second result, each row's log-sum-exp, serves gradients only
    return out, jnp.zeros((*query.shape[:-1],), accumulator(query.dtype))


@RULES("_scaled_dot_product_attention_math")
def attention_math(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    dropout_mask: Any = None,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Any, Any]:
    out = attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    return out, jnp.zeros((0,), query.dtype)


@RULES("flex_attention", space="higher_order")
def flex_attention(
    query: Any,
    key: Any,
    value: Any,
    score_mod: Callable[..., Any],
    block_mask: tuple[Any, ...],
    scale: float,
    kernel_options: Any,
    score_mod_other_buffers: tuple[Any, ...] = (),
    mask_mod_other_buffers: tuple[Any, ...] = (),
) -> tuple[Any, Any, Any]:
    """Every score goes through `score_mod`, and through the block mask's own `mask_mod`."""
    b, h, q, _ = query.shape
    group = h // key.shape[1]
    key, value = (jnp.repeat(x, group, 1) if group > 1 else x for x in (key, value))
    wide = accumulator(query.dtype)
    scores = jnp.einsum("bhqd,bhkd->bhqk", query.astype(wide), key.astype(wide)) * scale
    places = [lax.iota(jnp.int32, n) for n in (b, h, q, key.shape[2])]
    bias = _over_places(lambda s, *at: score_mod(s, *at, *score_mod_other_buffers)[0], 1)
    scores = bias(scores, *places)
    allowed = _over_places(lambda *at: block_mask[-1](*at, *mask_mod_other_buffers)[0], 0)(*places)
    scores = where(allowed, scores, filled(scores, -jnp.inf))
    peak = jnp.max(scores, -1, keepdims=True)
    weights = jnp.exp(scores - where(peak == -jnp.inf, filled(peak, 0), peak))
    total = jnp.sum(weights, -1, keepdims=True)
    out = jnp.einsum("bhqk,bhkd->bhqd", weights, value.astype(wide))
    out = out / where(total == 0, filled(total, 1), total)
    return out.astype(query.dtype), jnp.log(total[..., 0]) + peak[..., 0], peak[..., 0]


def _over_places(fn: Callable[..., Any], scores: int) -> Callable[..., Any]:
    """`fn(score…, b, h, q, k)` mapped over all four axes; `scores` leading arguments have them."""
    for axis in (3, 2, 1, 0):
        of_scores = (0,) * scores
        own = tuple(0 if i == axis else None for i in range(4))
        fn = jax.vmap(fn, (*of_scores, *own))
    return fn
