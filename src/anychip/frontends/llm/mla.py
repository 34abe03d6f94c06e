"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) over a cache of latents.

Two equal forms, chosen by which needs fewer products at these sizes: absorbed (heads attend to
the latents; decoding) and expanded (keys and values of all heads are made first; long prefills).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from anychip.frontends.llm.attention import State
from anychip.frontends.llm.config import MLA
from anychip.frontends.llm.linear import Layer, multiplied_in
from anychip.ops import composites


def attend_latent(
    layer: Layer, x: Any, state: State, *, start: Any, positions: Any, inv_freq: Any
) -> tuple[Any, State]:
    """x[B,Q,hidden] → (the attention block's output [B,Q,hidden], the cache `latent` updated)."""
    c, mla = layer.config, layer.config.mla
    assert mla is not None
    plain, turned = _queries(layer, x, mla, positions, inv_freq)
    new = _latents(layer, x, mla, positions, inv_freq)
    cache = composites.cache_update(state["latent"], new, start)
    form = _absorbed if is_absorbed(mla, x.shape[1], cache.shape[1]) else _expanded
    out = form(layer, mla, plain, turned, cache, start)
    merged = out.transpose((0, 2, 1, 3)).reshape((*x.shape[:2], c.heads * mla.value_dim))
    return layer.linear("attn.o", merged), {"latent": cache}


def is_absorbed(mla: MLA, length: int, context: int) -> bool:
    """Whether folding the up-projections into query and output takes fewer multiplications.

    Counted for one head: projections of `length` tokens against those of the whole context, and
    causal pairs of latents against pairs of keys and values.
    """
    folded = mla.nope_dim + mla.value_dim
    pairs = length * context - length * (length - 1) // 2
    absorbed = length * mla.kv_rank * folded + pairs * (2 * mla.kv_rank + mla.rope_dim)
    expanded = context * mla.kv_rank * folded + pairs * (folded + mla.rope_dim)
    return absorbed <= expanded


def _queries(layer: Layer, x: Any, mla: MLA, positions: Any, inv_freq: Any) -> tuple[Any, Any]:
    """The queries' plain part [B,H,Q,nope] and rotated part [B,H,Q,rope]."""
    c = layer.config
    if mla.q_rank:
        low = layer.norm("attn.q_down_norm", layer.linear("attn.q_down", x))
        q = layer.linear("attn.q_up", low)
    else:
        q = layer.linear("attn.q", x)
    q = q.reshape((*x.shape[:2], c.heads, c.query_dim)).transpose((0, 2, 1, 3))
    turned = composites.rope(
        q[..., mla.nope_dim :], positions, inv_freq, interleaved=c.rope.interleaved
    )
    return q[..., : mla.nope_dim], turned


def _latents(layer: Layer, x: Any, mla: MLA, positions: Any, inv_freq: Any) -> Any:
    """What is cached of each token: [B,Q,kv_rank + rope_dim], normed latent then rotated key."""
    both = layer.linear("attn.kv_down", x)
    latent = layer.norm("attn.kv_norm", both[..., : mla.kv_rank])
    key = composites.rope(
        *(both[..., mla.kv_rank :][:, None], positions, inv_freq),
        interleaved=layer.config.rope.interleaved,
    )
    return lax.concatenate([latent, key[:, 0]], 2)


def _up(layer: Layer, name: str, equation: str, x: Any) -> Any:
    """x through the per-head projection `name`, in x's type."""
    wide = multiplied_in(layer.precision)
    w = layer.dense(name).astype(wide)
    made = jnp.einsum(equation, x.astype(wide), w, preferred_element_type=jnp.float32)
    return made.astype(x.dtype)


def _absorbed(layer: Layer, mla: MLA, plain: Any, turned: Any, cache: Any, start: Any) -> Any:
    folded = _up(layer, "attn.k_up", "bhqn,hrn->bhqr", plain)
    out = composites.latent_attention(
        *(lax.concatenate([folded, turned], 3), cache, start),
        rank=mla.kv_rank,
        scale=layer.config.scale,
    )
    return _up(layer, "attn.v_up", "bhqr,hvr->bhqv", out)


def _expanded(layer: Layer, mla: MLA, plain: Any, turned: Any, cache: Any, start: Any) -> Any:
    latent = cache[..., : mla.kv_rank].astype(plain.dtype)
    key = _up(layer, "attn.k_up", "bsr,hrn->bhsn", latent)
    shared = cache[..., mla.kv_rank :].astype(plain.dtype)[:, None]
    shared = jnp.broadcast_to(shared, (*key.shape[:3], mla.rope_dim))
    return composites.cached_attention(
        lax.concatenate([plain, turned], 3),
        lax.concatenate([key, shared], 3),
        _up(layer, "attn.v_up", "bsr,hvr->bhsv", latent),
        start,
        scale=layer.config.scale,
    )
