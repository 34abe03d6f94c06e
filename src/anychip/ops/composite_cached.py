"""Attention of new tokens over a KV cache, over a window's ring, over MLA's latents.

Conventions: ops/attend.py.
"""

# JAX's own annotations are partly unknown to pyright; strictness about them finds nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.ops.attend import PLAIN, Products, attend, np_attend, pair_work, seen
from anychip.ops.composite import attributes_of, composite, example
from anychip.ops.view import OpView
from anychip.ops.work import Work


def _places(start: Any, length: int, slots: int) -> tuple[Any, Any]:
    """Each new token's position and each slot's number, both i32[B,1,1,Q,S]."""
    shape = (start.shape[0], 1, 1, length, slots)
    position = start[:, None, None, None, None] + lax.broadcasted_iota(jnp.int32, shape, 3)
    return position, lax.broadcasted_iota(jnp.int32, shape, 4)


def _cached_work(op: OpView) -> Work:
    attributes, (q, k, v) = attributes_of(op), op.inputs[:3]
    (b, h, length, d), slots, width = q.sizes, k.sizes[2], v.sizes[-1]
    pairs = seen(length, slots - length, min(attributes["window"] or slots, slots))
    return pair_work(op, b * h * pairs, d + width, sum(s.nbytes for s in op.inputs))


def np_cached(
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
    return np_attend(q, k, v, allowed, scale, softcap, sinks)


@composite(
    "cached_attention",
    unit="matmul",
    work=_cached_work,
    examples=[
        example(
            *("f32[2,4,1,8]", "f32[2,2,9,8]", "f32[2,2,9,6]", "i32[2]"),
            expect=np_cached,
            given={3: [8, 3]},
            scale=0.35,
            reduced=9,
        ),
        example(
            *("f32[2,4,3,8]", "f32[2,2,9,8]", "f32[2,2,9,8]", "i32[2]", "f32[4]"),
            expect=np_cached,
            given={3: [0, 5]},
            scale=0.35,
            window=4,
            softcap=3.0,
            reduced=9,
        ),
        example(
            *("bf16[1,2,2,8]", "bf16[1,1,6,8]", "bf16[1,1,6,8]", "i32[1]"),
            expect=np_cached,
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
    position, slot = _places(start, q.shape[2], k_cache.shape[2])
    visible = slot <= position
    if window:
        visible = visible & (slot > position - window)
    return attend(
        q, k_cache, v_cache, visible, scale=scale, softcap=softcap, sinks=sinks, products=products
    )


def _window_work(op: OpView) -> Work:
    q, ring, _, k, v = op.inputs[:5]
    (b, h, length, d), slots, width = q.sizes, ring.sizes[2], v.sizes[-1]
    pairs = length * min(slots, slots + k.sizes[2])
    return pair_work(op, b * h * pairs, d + width, sum(s.nbytes for s in op.inputs))


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
        outs.append(np_attend(q[b : b + 1], *pair, allowed[None], scale, softcap, sinks))
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
    return attend(
        q, keys, values, visible, scale=scale, softcap=softcap, sinks=sinks, products=products
    )


def _latent_work(op: OpView) -> Work:
    (b, h, length, width), slots = op.inputs[0].sizes, op.inputs[1].sizes[1]
    pairs = seen(length, slots - length, slots)
    rank = attributes_of(op)["rank"]
    return pair_work(op, b * h * pairs, width + rank, sum(s.nbytes for s in op.inputs))


def _np_latent(q: Any, latent: Any, start: Any, *, rank: int, scale: float) -> Any:
    cache = latent[:, None]
    return np_cached(q, cache, cache[..., :rank], start, scale=scale)


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
    position, slot = _places(start, q.shape[2], latent.shape[1])
    visible = slot <= position
    return attend(q, cache, values, visible, scale=scale, softcap=0.0, products=products)
