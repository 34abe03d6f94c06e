"""Attention over the whole of its keys and values. Conventions: ops/attend.py."""

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


def _attention_work(op: OpView) -> Work:
    attributes, (q, k, v) = attributes_of(op), op.inputs[:3]
    (b, h, length, d), slots, width = q.sizes, k.sizes[2], v.sizes[-1]
    most = min(attributes["window"] or slots, slots)
    pairs = seen(length, 0, most) if attributes["causal"] else length * slots
    return pair_work(op, b * h * pairs, d + width, sum(s.nbytes for s in op.inputs))


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
    return np_attend(q, k, v, allowed, scale, softcap, None)


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
    return attend(q, k, v, visible, scale=scale, softcap=softcap, products=products)
