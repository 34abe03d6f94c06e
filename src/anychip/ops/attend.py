"""What the attention composites share: softmax(q kᵀ) v, its definition in numpy, and its work.

Logits, softmax and sums are in f32; products take the queries' type. H query heads share K key
heads in groups of H/K. Queries that may see nothing give zeros.
"""

# JAX's own annotations are partly unknown to pyright; strictness about them finds nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.ops.composite_pointwise import wide
from anychip.ops.view import OpView
from anychip.ops.work import Work


def seen(queries: int, before: int, most: int) -> int:
    """Σ min(before + i + 1, most) over i < queries: keys that causal queries see in all."""
    rising = min(max(most - before, 0), queries)
    return rising * before + rising * (rising + 1) // 2 + (queries - rising) * most


@dataclass(frozen=True)
class Products:
    """How attention's two products are done, each (lhs, rhs, accumulator's type) → sums:
    `scores` q[B,K,G,Q,D] · k[B,K,S,D], `mixture` weights[B,K,G,Q,S] · v[B,K,S,V]."""

    scores: Callable[[Any, Any, Any], Any]
    mixture: Callable[[Any, Any, Any], Any]


def attend(
    q: Any,
    k: Any,
    v: Any,
    visible: Any,
    *,
    scale: float,
    softcap: float,
    sinks: Any = None,
    products: Products,
) -> Any:
    """q[B,H,Q,D], k[B,K,S,D], v[B,K,S,V] → [B,H,Q,V]; `visible` broadcasts to [B,K,H/K,Q,S].

    `visible` is boolean, a number added to the logits, or None.
    """
    (b, h, length, d), keys = q.shape, k.shape[1]
    grouped = q.reshape((b, keys, h // keys, length, d))
    accumulator = jnp.float64 if q.dtype == jnp.float64 else jnp.float32
    logits = products.scores(grouped, k.astype(q.dtype), accumulator) * scale
    if softcap:
        logits = softcap * jnp.tanh(logits / softcap)
    if visible is not None and visible.dtype == jnp.bool_:
        shape = logits.shape
        hidden = jnp.full(shape, -jnp.inf, accumulator)
        logits = lax.select(jnp.broadcast_to(visible, shape), logits, hidden)
    elif visible is not None:
        logits = logits + visible.astype(accumulator)
    top = jnp.max(logits, axis=-1, keepdims=True)
    sink = None if sinks is None else wide(sinks).reshape((1, keys, h // keys, 1, 1))
    if sink is not None:
        top = jnp.maximum(top, sink)
    top = jnp.maximum(top, jnp.finfo(accumulator).min)  # -inf - -inf would be NaN
    weights = jnp.exp(logits - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    if sink is not None:
        total = total + jnp.exp(sink - top)
    total = jnp.maximum(total, jnp.finfo(accumulator).tiny)
    weights = (weights / total).astype(q.dtype)
    out = products.mixture(weights, v.astype(q.dtype), accumulator)
    return out.reshape((b, h, length, v.shape[-1])).astype(q.dtype)


def _scores(q: Any, k: Any, accumulator: Any) -> Any:
    """q[B,K,G,Q,D] · k[B,K,S,D] → [B,K,G,Q,S].

    A single query is a matrix-vector product, bound by reading k. Written as multiply and sum, XLA
    fuses it with the cache's update; written as a dot, it copies the cache into the dot's layout
    at every step.
    """
    if q.shape[3] != 1:
        return jnp.einsum("bkgqd,bksd->bkgqs", q, k, preferred_element_type=accumulator)
    products = q.astype(accumulator) * k[:, :, None].astype(accumulator)
    return jnp.sum(products, axis=-1)[:, :, :, None, :]


def _mixture(weights: Any, v: Any, accumulator: Any) -> Any:
    """weights[B,K,G,Q,S] · v[B,K,S,V] → [B,K,G,Q,V]; a single query as in `_scores`."""
    if weights.shape[3] != 1:
        return jnp.einsum("bkgqs,bksv->bkgqv", weights, v, preferred_element_type=accumulator)
    spread = weights[:, :, :, 0, :, None].astype(accumulator)
    return jnp.sum(spread * v[:, :, None].astype(accumulator), axis=3)[:, :, :, None, :]


PLAIN = Products(_scores, _mixture)


def np_attend(q: Any, k: Any, v: Any, allowed: Any, scale: float, cap: float, sinks: Any) -> Any:
    """Straight from the definition, one query head at a time; allowed[b, i, j] or [b, h, i, j]."""
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    group = q.shape[1] // k.shape[1]
    for b, h in np.ndindex(q.shape[:2]):
        logits = q[b, h] @ k[b, h // group].T * scale
        logits = cap * np.tanh(logits / cap) if cap else logits
        may = allowed[b] if allowed.ndim == 3 else allowed[b, h]
        for i in range(q.shape[2]):
            js = np.flatnonzero(may[i])
            extra = [] if sinks is None else [sinks[h]]
            e = np.exp(np.concatenate([logits[i, js], extra]) - max([0, *logits[i, js], *extra]))
            if len(js):
                out[b, h, i] = e[: len(js)] @ v[b, h // group][js] / e.sum()
    return out


def pair_work(op: OpView, pairs: int, width: int, read: int) -> Work:
    """Two products of a pair's vectors, and scale, maximum, subtract, sum, divide and exp."""
    written = op.outputs[0].nbytes
    return Work((2 * width + 5) * pairs, read, written, pairs)
