"""Writing new rows into a KV cache, linear or a ring."""

# JAX's own annotations are partly unknown to pyright; strictness about them finds nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.ops.composite import composite, example
from anychip.ops.view import OpView
from anychip.ops.work import Work


def _update_work(op: OpView) -> Work:
    """Only the new rows are read and written: the cache is updated in place."""
    return Work(0, op.inputs[1].nbytes + op.inputs[2].nbytes, op.inputs[1].nbytes)


def np_update(cache: Any, new: Any, start: Any, *, ring: bool = False) -> Any:
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
            expect=np_update,
            given={2: [5, 0]},
        ),
        example("bf16[1,7,4]", "bf16[1,3,4]", "i32[1]", expect=np_update, given={2: [2]}),
        *(
            example(
                *("f32[3,2,4,3]", f"f32[3,2,{new},3]", "i32[3]"),
                expect=np_update,
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
