"""The mixture-of-experts feed-forward network: route, sort tokens by expert, multiply, combine."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from anychip.frontends.llm.config import MoE
from anychip.frontends.llm.linear import Layer, product
from anychip.ops import composites


def mix_experts(layer: Layer, x: Any) -> Any:
    """x[B,Q,hidden] → Σ over each token's experts of weight * expert(x), plus the shared ones."""
    moe = layer.config.moe
    assert moe is not None
    tokens = x.reshape((-1, x.shape[-1]))
    chosen, weights = route(layer, moe, tokens)
    flat = chosen.reshape(-1)
    slots = lax.iota(jnp.int32, flat.shape[0])
    owner, order = lax.sort_key_val(flat, slots)  # stable: tokens of an expert stay in order
    expert = lax.iota(jnp.int32, moe.experts)
    sizes = jnp.sum((flat[:, None] == expert[None, :]).astype(jnp.int32), axis=0)
    rows = _take(tokens, order // moe.active)
    gate, up = (_expert(layer, f"moe.{name}", rows, owner, sizes) for name in ("gate", "up"))
    out = _expert(layer, "moe.down", layer.gated(gate, up), owner, sizes)
    _, back = lax.sort_key_val(order, slots)
    each = _take(out, back).reshape((*chosen.shape, x.shape[-1])).astype(jnp.float32)
    mixed = jnp.sum(each * weights[..., None], axis=1).astype(x.dtype).reshape(x.shape)
    return mixed + layer.feed_forward("moe.shared", x) if moe.shared_ffn else mixed


def route(layer: Layer, moe: MoE, tokens: Any) -> tuple[Any, Any]:
    """tokens[T,hidden] → (experts i32[T,active], their weights f32[T,active])."""
    router = layer.dense("moe.router")
    logits = product(tokens, router.astype(tokens.dtype), out=jnp.float32)
    if moe.router_bias:
        logits = logits + layer.arrays["moe.router.bias"].astype(jnp.float32)
    if moe.scoring == "softmax":
        scores = composites.softmax(logits, axis=-1)
    else:
        scores = lax.logistic(logits)
    eligible = scores
    if moe.score_correction:
        eligible = eligible + layer.arrays["moe.router.correction"].astype(jnp.float32)
    if moe.groups > 1:
        eligible = _best_groups(moe, eligible)
    _, chosen = lax.top_k(eligible, moe.active)
    weights = jnp.take_along_axis(scores, chosen, axis=-1, mode="promise_in_bounds")
    if moe.normalise:
        weights = weights / (jnp.sum(weights, axis=-1, keepdims=True) + 1e-20)
    return chosen, weights * moe.route_scale if moe.route_scale != 1.0 else weights


def _best_groups(moe: MoE, scores: Any) -> Any:
    """Scores [T,E] with those outside the best groups at -inf."""
    grouped = scores.reshape((-1, moe.groups, moe.experts // moe.groups))
    best, _ = lax.top_k(grouped, min(2, grouped.shape[-1]))
    _, kept = lax.top_k(jnp.sum(best, axis=-1), moe.active_groups)
    group = lax.iota(jnp.int32, moe.groups)
    is_kept = jnp.any(kept[:, :, None] == group[None, None, :], axis=1)
    shape = grouped.shape
    masked = lax.select(
        jnp.broadcast_to(is_kept[:, :, None], shape), grouped, jnp.full(shape, -jnp.inf)
    )
    return masked.reshape(scores.shape)


def _expert(layer: Layer, name: str, rows: Any, owner: Any, sizes: Any) -> Any:
    out = layer.grouped(name, rows, sizes)
    bias = f"{name}.bias"
    return out + _take(layer.arrays[bias], owner).astype(out.dtype) if bias in layer else out


def _take(rows: Any, index: Any) -> Any:
    return rows.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
