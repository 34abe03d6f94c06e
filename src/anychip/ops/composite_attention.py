"""Composites around attention: dense, over a KV cache, over a window's ring, over MLA's latents.

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

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.ops.composite import attributes_of, composite, example
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


def _attend(
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


def _np_attend(q: Any, k: Any, v: Any, allowed: Any, scale: float, cap: float, sinks: Any) -> Any:
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


def _attention_work(op: OpView) -> Work:
    attributes, (q, k, v) = attributes_of(op), op.inputs[:3]
    (b, h, length, d), slots, width = q.sizes, k.sizes[2], v.sizes[-1]
    most = min(attributes["window"] or slots, slots)
    pairs = seen(length, 0, most) if attributes["causal"] else length * slots
    return _pair_work(op, b * h * pairs, d + width, sum(s.nbytes for s in op.inputs))


def _pair_work(op: OpView, pairs: int, width: int, read: int) -> Work:
    """Two products of a pair's vectors, and scale, maximum, subtract, sum, divide and exp."""
    written = op.outputs[0].nbytes
    return Work((2 * width + 5) * pairs, read, written, pairs)


def _np_attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    *,
    scale: float,
    causal: bool = False,
    window: int = 0,
    softcap: float = 0.0,
) -> Any:
    i, j = np.ogrid[: q.shape[2], : k.shape[2]]
    allowed = np.ones((q.shape[0], q.shape[2], k.shape[2]), bool)
    allowed &= (j <= i) if causal else True
    allowed &= (j > i - window) if window else True
    if mask is not None:
        allowed = allowed[:, None] & np.broadcast_to(mask, (*q.shape[:3], k.shape[2]))
    return _np_attend(q, k, v, allowed, scale, softcap, None)


@composite(
    "attention",
    unit="matmul",
    work=_attention_work,
    examples=[
        example(
            *("f32[2,4,5,8]", "f32[2,2,7,8]", "f32[2,2,7,6]"),
            expect=_np_attention,
            scale=0.35,
            reduced=8,
        ),
        example(
            *("f32[1,2,6,8]", "f32[1,2,6,8]", "f32[1,2,6,8]"),
            expect=_np_attention,
            scale=0.35,
            causal=True,
            window=3,
            softcap=2.0,
            reduced=8,
        ),
        example(
            *("bf16[2,2,3,8]", "bf16[2,2,4,8]", "bf16[2,2,4,8]", "i1[2,1,3,4]"),
            expect=_np_attention,
            scale=0.35,
            given={3: [[1, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1] * 3]},
            reduced=8,
        ),
    ],
)
def attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    *,
    scale: float,
    causal: bool = False,
    window: int = 0,
    softcap: float = 0.0,
    products: Products = PLAIN,
) -> Any:
    """softmax(q kᵀ scale) v for q[B,H,Q,D], k[B,K,S,D], v[B,K,S,V] → [B,H,Q,V] in q's type.

    `mask`, which broadcasts to [B,H,Q,S], is boolean (True: may see) or added to the logits.
    `causal`: query i sees keys up to i, both counted from the start. `window` w: only keys after
    i - w. `softcap` c: logits become c tanh(logits / c) first.

    Work counts the pairs that `causal` and `window` leave; a mask is taken to leave all.
    """
    length, slots, keys = q.shape[2], k.shape[2], k.shape[1]
    visible = None
    if causal or window:
        i = lax.broadcasted_iota(jnp.int32, (length, slots), 0)
        j = lax.broadcasted_iota(jnp.int32, (length, slots), 1)
        visible = j <= i if causal else None
        if window:
            near = j > i - window
            visible = near if visible is None else visible & near
    if mask is not None:
        shape = (1,) * (4 - mask.ndim) + mask.shape
        heads = (keys, q.shape[1] // keys) if shape[1] > 1 else (1, 1)
        given = mask.reshape((shape[0], *heads, *shape[2:]))
        if visible is None:
            visible = given
        elif given.dtype == jnp.bool_:
            visible = visible & given
        else:
            visible = given + jnp.where(visible, 0.0, -jnp.inf).astype(given.dtype)
    return _attend(q, k, v, visible, scale=scale, softcap=softcap, products=products)


def _cached_work(op: OpView) -> Work:
    attributes, (q, k, v) = attributes_of(op), op.inputs[:3]
    (b, h, length, d), slots, width = q.sizes, k.sizes[2], v.sizes[-1]
    pairs = seen(length, slots - length, min(attributes["window"] or slots, slots))
    return _pair_work(op, b * h * pairs, d + width, sum(s.nbytes for s in op.inputs))


def _np_cached(
    q: Any,
    k: Any,
    v: Any,
    start: Any,
    sinks: Any = None,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Any:
    i, j = np.ogrid[: q.shape[2], : k.shape[2]]
    position = start[:, None, None] + i[None]
    allowed = (j[None] <= position) & ((j[None] > position - window) if window else True)
    return _np_attend(q, k, v, allowed, scale, softcap, sinks)


@composite(
    "cached_attention",
    unit="matmul",
    work=_cached_work,
    examples=[
        example(
            *("f32[2,4,1,8]", "f32[2,2,9,8]", "f32[2,2,9,6]", "i32[2]"),
            expect=_np_cached,
            given={3: [8, 3]},
            scale=0.35,
            reduced=9,
        ),
        example(
            *("f32[2,4,3,8]", "f32[2,2,9,8]", "f32[2,2,9,8]", "i32[2]", "f32[4]"),
            expect=_np_cached,
            given={3: [0, 5]},
            scale=0.35,
            window=4,
            softcap=3.0,
            reduced=9,
        ),
        example(
            *("bf16[1,2,2,8]", "bf16[1,1,6,8]", "bf16[1,1,6,8]", "i32[1]"),
            expect=_np_cached,
            given={3: [2]},
            scale=0.35,
            reduced=8,
        ),
    ],
)
def cached_attention(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    start: Any,
    sinks: Any = None,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    products: Products = PLAIN,
) -> Any:
    """Attention of the newest tokens over a cache that already holds their keys and values.

    q[B,H,Q,D], k_cache[B,K,S,D], v_cache[B,K,S,V], start i32[B]; query i of sequence b stands at
    position start[b] + i and sees slots up to it, and with `window` w only those after it - w.
    A full ring buffer needs no window: every slot is seen, in whatever order. `sinks` [H] are
    logits that join the softmax's sum and no value. Caches in narrower types are widened to q's.

    Work reads the whole cache and counts pairs as if its last slot were the newest token
    (start = S - Q), which is what a cache made for this context holds in the end.
    """
    length, slots = q.shape[2], k_cache.shape[2]
    shape = (q.shape[0], 1, 1, length, slots)
    position = start[:, None, None, None, None] + lax.broadcasted_iota(jnp.int32, shape, 3)
    slot = lax.broadcasted_iota(jnp.int32, shape, 4)
    visible = slot <= position
    if window:
        visible = visible & (slot > position - window)
    return _attend(
        q, k_cache, v_cache, visible, scale=scale, softcap=softcap, sinks=sinks, products=products
    )


def _window_work(op: OpView) -> Work:
    q, ring, _, k, v = op.inputs[:5]
    (b, h, length, d), slots, width = q.sizes, ring.sizes[2], v.sizes[-1]
    pairs = length * min(slots, slots + k.sizes[2])
    return _pair_work(op, b * h * pairs, d + width, sum(s.nbytes for s in op.inputs))


def _np_window(
    q: Any,
    k_ring: Any,
    v_ring: Any,
    k: Any,
    v: Any,
    start: Any,
    sinks: Any = None,
    *,
    scale: float,
    softcap: float = 0.0,
) -> Any:
    """Unrolls each ring into position order first, then asks the linear cache's definition."""
    window, length = k_ring.shape[2], k.shape[2]
    outs = []
    for b, first in enumerate(start):
        old = np.arange(max(first - window, 0), first)
        line = [
            np.concatenate([r[b][:, old % window], n[b]], 1) for r, n in ((k_ring, k), (v_ring, v))
        ]
        i, j = np.ogrid[:length, : len(old) + length]
        allowed = (j <= len(old) + i) & (j > len(old) + i - window)
        pair = (line[0][None], line[1][None])
        outs.append(_np_attend(q[b : b + 1], *pair, allowed[None], scale, softcap, sinks))
    return np.concatenate(outs)


@composite(
    "window_attention",
    unit="matmul",
    work=_window_work,
    examples=[
        example(
            *("f32[3,4,5,8]", *["f32[3,2,4,8]"] * 2, *["f32[3,2,5,8]"] * 2, "i32[3]", "f32[4]"),
            expect=_np_window,
            given={5: [0, 3, 11]},
            scale=0.35,
            reduced=9,
        ),
        example(
            *("bf16[1,2,2,8]", *["bf16[1,2,4,8]"] * 2, *["bf16[1,2,2,8]"] * 2, "i32[1]"),
            expect=_np_window,
            given={5: [6]},
            scale=0.35,
            reduced=8,
        ),
    ],
)
def window_attention(
    q: Any,
    k_ring: Any,
    v_ring: Any,
    k: Any,
    v: Any,
    start: Any,
    sinks: Any = None,
    *,
    scale: float,
    softcap: float = 0.0,
    products: Products = PLAIN,
) -> Any:
    """Sliding-window attention of new tokens over themselves and a ring of the W before them.

    q[B,H,Q,D]; the rings [B,K,W,·] hold position p in slot p mod W, as they were before these
    tokens; k, v [B,K,Q,·] are the new tokens' own, at positions start[b] + i. A token sees itself
    and the W - 1 positions before it. `sinks` as in cached_attention.

    Work counts W keys for each query, as for a sequence that began long ago.
    """
    window, length = k_ring.shape[2], q.shape[2]
    first = start[:, None]
    slot = lax.broadcasted_iota(jnp.int32, (q.shape[0], window), 1)
    old = first - 1 - jnp.mod(first - 1 - slot, window)  # the newest position in each slot
    new = first + lax.broadcasted_iota(jnp.int32, (q.shape[0], length), 1)
    at = lax.concatenate([old, new], 1)[:, None, None, None, :]
    query = new[:, None, None, :, None]
    visible = (at >= 0) & (at <= query) & (at > query - window)
    keys = lax.concatenate([k_ring.astype(k.dtype), k], 2)
    values = lax.concatenate([v_ring.astype(v.dtype), v], 2)
    return _attend(
        q, keys, values, visible, scale=scale, softcap=softcap, sinks=sinks, products=products
    )


def _latent_work(op: OpView) -> Work:
    (b, h, length, width), slots = op.inputs[0].sizes, op.inputs[1].sizes[1]
    pairs = seen(length, slots - length, slots)
    rank = attributes_of(op)["rank"]
    return _pair_work(op, b * h * pairs, width + rank, sum(s.nbytes for s in op.inputs))


def _np_latent(q: Any, latent: Any, start: Any, *, rank: int, scale: float) -> Any:
    cache = latent[:, None]
    return _np_cached(q, cache, cache[..., :rank], start, scale=scale)


@composite(
    "latent_attention",
    unit="matmul",
    work=_latent_work,
    examples=[
        example(
            *("f32[2,4,2,12]", "f32[2,7,12]", "i32[2]"),
            expect=_np_latent,
            given={2: [5, 1]},
            rank=8,
            scale=0.3,
            reduced=12,
        ),
        example(
            *("bf16[1,4,1,12]", "bf16[1,6,12]", "i32[1]"),
            expect=_np_latent,
            given={2: [3]},
            rank=8,
            scale=0.3,
            reduced=12,
        ),
    ],
)
def latent_attention(
    q: Any,
    latent: Any,
    start: Any,
    *,
    rank: int,
    scale: float,
    products: Products = PLAIN,
) -> Any:
    """MLA in its absorbed form: all heads attend to one cache of latents, which is read once.

    q[B,H,Q,R+P] (query folded through the key up-projection, then the rotated part),
    latent[B,S,R+P] with the newest tokens in it, start i32[B] → [B,H,Q,R]: the values are the
    first `rank` = R numbers of each latent. arXiv:2405.04434, section 2.1.2. Visibility and the
    convention of Work are those of cached_attention.
    """
    cache = latent[:, None].astype(q.dtype)
    values = lax.slice_in_dim(cache, 0, rank, axis=3)
    length, slots = q.shape[2], latent.shape[1]
    shape = (q.shape[0], 1, 1, length, slots)
    position = start[:, None, None, None, None] + lax.broadcasted_iota(jnp.int32, shape, 3)
    visible = lax.broadcasted_iota(jnp.int32, shape, 4) <= position
    return _attend(q, cache, values, visible, scale=scale, softcap=0.0, products=products)


def _update_work(op: OpView) -> Work:
    """Only the new rows are read and written: the cache is updated in place."""
    return Work(0, op.inputs[1].nbytes + op.inputs[2].nbytes, op.inputs[1].nbytes)


def _np_update(cache: Any, new: Any, start: Any, *, ring: bool = False) -> Any:
    out = np.array(cache)
    for b, i in np.ndindex(cache.shape[0], new.shape[-2]):
        slot = (start[b] + i) % cache.shape[-2] if ring else start[b] + i
        out[b, ..., slot, :] = new[b, ..., i, :]
    return out


@composite(
    "cache_update",
    unit="move",
    work=_update_work,
    examples=[
        example(
            *("f32[2,3,7,4]", "f32[2,3,2,4]", "i32[2]"),
            expect=_np_update,
            given={2: [5, 0]},
        ),
        example("bf16[1,7,4]", "bf16[1,3,4]", "i32[1]", expect=_np_update, given={2: [2]}),
        *(
            example(
                *("f32[3,2,4,3]", f"f32[3,2,{new},3]", "i32[3]"),
                expect=_np_update,
                given={2: [0, 3, 10]},
                ring=True,
            )
            for new in (1, 3, 6)
        ),
    ],
)
def cache_update(cache: Any, new: Any, start: Any, *, ring: bool = False) -> Any:
    """`cache` [B,…,S,D] with `new` [B,…,Q,D] written from position start[b] i32[B] on.

    `ring`: position p goes to slot p mod S, and of more than S new rows the last S stay;
    otherwise start + Q may not pass S. `new` is rounded to the cache's type.
    """
    new = new.astype(cache.dtype)
    slots, length = cache.shape[-2], new.shape[-2]
    if ring and length > 1:
        return _ring_update(cache, new, start)
    first = jnp.mod(start, slots) if ring else start
    middle = (0,) * (cache.ndim - 3)
    if cache.shape[0] == 1:
        return _place(cache, new, (0, *middle, first[0], 0))
    return _update_each(cache, new, first, middle)


def _update_each(cache: Any, new: Any, first: Any, middle: tuple[int, ...]) -> Any:
    def one(c: Any, n: Any, s: Any) -> Any:
        return _place(c, n, (*middle, s, 0))

    return jax.vmap(one)(cache, new, first)


def _place(cache: Any, new: Any, at: tuple[Any, ...]) -> Any:
    return lax.dynamic_update_slice(cache, new, at, allow_negative_indices=False)


def _ring_update(cache: Any, new: Any, start: Any) -> Any:
    """Each slot takes the newest position that belongs to it, if that is among the new ones."""
    slots, length = cache.shape[-2], new.shape[-2]
    last = (start + length - 1)[:, None]
    slot = lax.broadcasted_iota(jnp.int32, (cache.shape[0], slots), 1)
    index = length - 1 - jnp.mod(last - slot, slots)  # into `new`; negative: keep what is there
    shape = (cache.shape[0], *(1,) * (cache.ndim - 3), slots, 1)
    index = index.reshape(shape)
    wide_index = jnp.broadcast_to(jnp.maximum(index, 0), (*cache.shape[:-1], 1))
    taken = jnp.take_along_axis(new, wide_index, axis=-2, mode="promise_in_bounds")
    return lax.select(jnp.broadcast_to(index >= 0, cache.shape), taken, cache)
