"""Grouped-query attention of one layer over its KV cache: linear for global layers, a ring for
window layers, or pages of many sequences.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from anychip.frontends.llm.config import LayerKind
from anychip.frontends.llm.linear import Layer
from anychip.ops import composites

State = dict[str, Any]


class Paged(NamedTuple):
    """In a start's place, for caches in pages: see ops/composite_paged.py."""

    table: Any
    places: Any


def attend(
    layer: Layer,
    x: Any,
    state: State,
    *,
    kind: LayerKind,
    start: Any,
    positions: Any,
    inv_freq: Any,
) -> tuple[Any, State]:
    """x[B,Q,hidden] → (the attention block's output [B,Q,hidden], the caches `k` and `v` updated).

    start i32[B] counts the tokens already cached, positions i32[B,Q] are those of x. Where start
    is Paged, B is 1, the tokens may be of many sequences, and `k` and `v` are pools of pages.
    """
    c = layer.config
    q = _heads(layer, "q", x, c.heads)
    k, v = _heads(layer, "k", x, c.kv_heads), _heads(layer, "v", x, c.kv_heads)
    if c.qk_norm:
        q, k = layer.norm("attn.q_norm", q), layer.norm("attn.k_norm", k)
    interleaved = c.rope.interleaved
    q = composites.rope(q, positions, inv_freq, interleaved=interleaved)
    k = composites.rope(k, positions, inv_freq, interleaved=interleaved)
    sinks = layer.arrays["attn.sinks"] if c.sinks else None
    if isinstance(start, Paged):
        updated = {
            name: composites.paged_update(state[name], new, *start)
            for name, new in (("k", k), ("v", v))
        }
        out = composites.paged_attention(
            *(q, updated["k"], updated["v"], *start, sinks),
            scale=c.scale,
            window=c.window if kind == "window" else 0,
            softcap=c.attention_softcap,
        )
        return _merged(layer, out), updated
    # A ring never holds more than the window, so only a cache as long as the window can wrap.
    is_ring = kind == "window" and state["k"].shape[2] == c.window
    updated = {
        name: composites.cache_update(state[name], new, start, ring=is_ring)
        for name, new in (("k", k), ("v", v))
    }
    if is_ring and x.shape[1] > 1:
        # New rows may overwrite old ones that the first new tokens see: read the ring as it was.
        out = composites.window_attention(
            *(q, state["k"], state["v"], k, v, start, sinks),
            scale=c.scale,
            softcap=c.attention_softcap,
        )
    else:
        out = composites.cached_attention(
            *(q, updated["k"], updated["v"], start, sinks),
            scale=c.scale,
            softcap=c.attention_softcap,
        )
    return _merged(layer, out), updated


def _merged(layer: Layer, out: Any) -> Any:
    """Heads [B,H,Q,D] side by side, through the output projection."""
    batch, heads, length, width = out.shape
    merged = out.transpose((0, 2, 1, 3)).reshape((batch, length, heads * width))
    return layer.linear("attn.o", merged)


def _heads(layer: Layer, name: str, x: Any, heads: int) -> Any:
    """One projection of x[B,Q,hidden] as [B,heads,Q,head_dim]."""
    y = layer.linear(f"attn.{name}", x)
    return y.reshape((*x.shape[:2], heads, layer.config.head_dim)).transpose((0, 2, 1, 3))
