"""Composites of attention over a KV cache in pages: tokens of many sequences, side by side.

A pool [pages, kv_heads, page, ·] holds every sequence's keys or values; `table` i32[S,P] lists
each sequence's pages in order, so position p of sequence s lies in slot p mod page of page
table[s, p / page]. `places` i32[2,T] says each token's sequence and, below it, its position. A pool
of ui8 holds blocks of q8_0 (core/blocks.py): 34 bytes for 32 numbers.
"""

# JAX's own annotations are partly unknown to pyright; strictness about them finds nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.core.blocks import block_format
from anychip.ops.composite import attributes_of, composite, example
from anychip.ops.composite_cached import cached_attention
from anychip.ops.view import OpView
from anychip.ops.work import Work

_BLOCKS = block_format("q8_0")

_TOGETHER = 16
"""Tokens whose pages the plain body gathers at once: its memory is theirs times the context."""


def _update_work(op: OpView) -> Work:
    """Only the new rows are read and written: the pool is updated in place."""
    _, new, _, places = op.inputs
    return Work(0, new.nbytes + places.nbytes, new.nbytes)


def _np_update(pool: Any, new: Any, table: Any, places: Any) -> Any:
    out, size = np.array(pool), pool.shape[2]
    if pool.dtype == np.uint8:
        new = _BLOCKS.quantize(new.astype(np.float32))
    for token, (sequence, position) in enumerate(places.T):
        out[table[sequence, position // size], :, position % size] = new[0, :, token]
    return out


@composite(
    "paged_update",
    unit="move",
    work=_update_work,
    examples=[
        example(
            *("f32[5,2,4,3]", "f32[1,2,3,3]", "i32[2,2]", "i32[2,3]"),
            expect=_np_update,
            given={2: [3, 1, 0, 4], 3: [0, 1, 0, 5, 2, 6]},
        ),
        example(
            *("bf16[3,1,2,4]", "bf16[1,1,2,4]", "i32[1,3]", "i32[2,2]"),
            expect=_np_update,
            given={2: [2, 0, 1], 3: [0, 0, 3, 4]},
        ),
        example(
            *("ui8[3,2,2,68]", "f32[1,2,2,64]", "i32[1,3]", "i32[2,2]"),
            expect=_np_update,
            given={2: [2, 0, 1], 3: [0, 0, 3, 4]},
        ),
    ],
)
def paged_update(pool: Any, new: Any, table: Any, places: Any) -> Any:
    """`pool` with token t's row of `new` [1,K,T,D] written where it belongs, in the pool's type.

    No two tokens may stand in one place, except where nobody reads.
    """
    size = pool.shape[2]
    sequence, position = places[0], places[1]
    page = table[sequence, position // size]
    held = _BLOCKS.quantize(new[0], jnp) if pool.dtype == np.uint8 else new[0].astype(pool.dtype)
    rows = held.transpose((1, 0, 2))
    return pool.at[page, :, position % size].set(rows, mode="promise_in_bounds")


def _paged_work(op: OpView) -> Work:
    (_, h, length, d), pool, (_, per) = op.inputs[0].sizes, op.inputs[2], op.inputs[3].sizes
    attributes, keys = attributes_of(op), per * pool.sizes[2]
    seen = min(attributes["window"] or keys, keys)
    sequences, width = op.inputs[3].sizes[0], pool.sizes[-1]
    if pool.dtype == "ui8":
        width = width // _BLOCKS.nbytes * _BLOCKS.elements
    row = (op.inputs[1].nbytes + pool.nbytes) // (pool.sizes[0] * pool.sizes[2])
    read = sequences * seen * row + op.inputs[0].nbytes + op.inputs[3].nbytes + op.inputs[4].nbytes
    pairs = h * length * seen
    return Work((2 * (d + width) + 5) * pairs, read, op.outputs[0].nbytes, pairs)


def _np_paged(
    q: Any,
    k_pool: Any,
    v_pool: Any,
    table: Any,
    places: Any,
    sinks: Any = None,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Any:
    """Straight from the definition: one token, one head, one key at a time."""
    size, group = k_pool.shape[2], q.shape[1] // k_pool.shape[1]
    if k_pool.dtype == np.uint8:
        k_pool, v_pool = (_BLOCKS.dequantize(pool).astype(float) for pool in (k_pool, v_pool))
    out = np.zeros((*q.shape[:3], v_pool.shape[-1]))
    for h, t in np.ndindex(q.shape[1:3]):
        sequence, position = places[:, t]
        first = max(position - window + 1, 0) if window else 0
        where = [(table[sequence, p // size], p % size) for p in range(first, position + 1)]
        logits = np.array([q[0, h, t] @ k_pool[page, h // group, i] for page, i in where]) * scale
        logits = softcap * np.tanh(logits / softcap) if softcap else logits
        extra = [] if sinks is None else [sinks[h]]
        e = np.exp(np.concatenate([logits, extra]) - max([*logits, *extra]))
        values = np.array([v_pool[page, h // group, i] for page, i in where])
        out[0, h, t] = e[: len(where)] @ values / e.sum()
    return out


@composite(
    "paged_attention",
    unit="matmul",
    work=_paged_work,
    examples=[
        example(
            *("f32[1,4,3,8]", "f32[5,2,4,8]", "f32[5,2,4,6]", "i32[2,2]", "i32[2,3]"),
            expect=_np_paged,
            given={3: [3, 1, 0, 4], 4: [0, 1, 0, 5, 2, 6]},
            scale=0.35,
            reduced=8,
        ),
        example(
            *("f32[1,4,17,8]", "f32[4,1,2,8]", "f32[4,1,2,8]", "i32[1,4]", "i32[2,17]", "f32[4]"),
            expect=_np_paged,
            given={3: [3, 1, 0, 2], 4: [0] * 17 + [0, 1, 2, 3, 4, 5, 6, 7] * 2 + [7]},
            scale=0.35,
            window=3,
            softcap=2.0,
            reduced=8,
        ),
        example(
            *("bf16[1,2,2,8]", "bf16[3,1,2,8]", "bf16[3,1,2,8]", "i32[1,3]", "i32[2,2]"),
            expect=_np_paged,
            given={3: [2, 0, 1], 4: [0, 0, 3, 4]},
            scale=0.35,
            reduced=8,
        ),
        example(
            *("f32[1,2,2,32]", "ui8[3,1,2,34]", "ui8[3,1,2,68]", "i32[1,3]", "i32[2,2]"),
            expect=_np_paged,
            given={
                1: lambda: _BLOCKS.quantize(np.sin(np.arange(6 * 32)).reshape(6, 32)),
                2: lambda: _BLOCKS.quantize(np.cos(np.arange(6 * 64)).reshape(6, 64)),
                3: [2, 0, 1],
                4: [0, 0, 3, 4],
            },
            scale=0.35,
            reduced=32,
        ),
    ],
)
def paged_attention(
    q: Any,
    k_pool: Any,
    v_pool: Any,
    table: Any,
    places: Any,
    sinks: Any = None,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Any:
    """Attention of tokens q[1,H,T,D] over their own sequences' pages → [1,H,T,V] in q's type.

    The pools already hold the tokens' own keys and values. A token sees its sequence's positions
    up to its own, with `window` w only those after its own - w. `sinks` and `softcap` as in
    cached_attention, which this is for each token alone.

    Work counts full tables: each sequence's pages are read once, each token sees all of them.
    """
    sequence, position = places[0], places[1]

    def attend(some: tuple[Any, Any, Any]) -> Any:
        """q[t,H,D] of some tokens, the pages of each gathered: [t,H,V]."""
        own, rows, at = some
        pages = table[rows]
        k, v = (_line(pool, pages) for pool in (k_pool, v_pool))
        out = cached_attention.body(
            *(own[:, :, None], k, v, at, sinks), scale=scale, window=window, softcap=softcap
        )
        return out[:, :, 0]

    each = q[0].transpose((1, 0, 2))
    count = each.shape[0]
    if count <= _TOGETHER:
        out = attend((each, sequence, position))
    else:
        padding = -count % _TOGETHER
        parts = tuple(
            jnp.concatenate([a, jnp.zeros((padding, *a.shape[1:]), a.dtype)]).reshape(
                (-1, _TOGETHER, *a.shape[1:])
            )
            for a in (each, sequence, position)
        )
        out = lax.map(attend, parts)
        out = out.reshape((-1, *out.shape[2:]))[:count]
    return out.transpose((1, 0, 2))[None]


def _line(pool: Any, pages: Any) -> Any:
    """pool[N,K,page,D], pages[t,P] → [t,K,P*page,D]; blocks as f32."""
    found = pool.at[pages].get(mode="promise_in_bounds")
    if pool.dtype == np.uint8:
        found = _BLOCKS.dequantize(found, jnp)
    t, many, heads, size, width = found.shape
    return found.transpose((0, 2, 1, 3, 4)).reshape((t, heads, many * size, width))
