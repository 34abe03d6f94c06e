"""Reading elements at computed places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from anychip.core.errors import UnsupportedError
from anychip.frontends.torch.plain import get, iota, take, wrapped
from anychip.frontends.torch.promote import axis_of
from anychip.frontends.torch.table import Rules

RULES = Rules()


@RULES("index.Tensor", "_unsafe_index.Tensor")
def index(x: Any, indices: Sequence[Any]) -> Any:
    if any(i is not None and i.dtype in (jnp.bool_, jnp.uint8) for i in indices):
        raise UnsupportedError(
            "x[mask] has as many elements as the mask has true ones, which is known only when it "
            "runs; use torch.where(mask, x, other), multiply by the mask before a reduction, or "
            "load with follow_example=True where it is always as many as in the example"
        )
    return get(x, full_index(x, indices))


def full_index(x: Any, indices: Sequence[Any]) -> tuple[Any, ...]:
    """numpy's index for torch's list of tensors and Nones, negative entries wrapped."""
    return tuple(
        slice(None) if i is None else wrapped(i, x.shape[axis]) for axis, i in enumerate(indices)
    )


@RULES("_unsafe_masked_index")
def masked_index(x: Any, mask: Any, indices: Sequence[Any], fill: Any) -> Any:
    """`x` at the indices where the mask holds, else `fill`; masked indices may be out of bounds."""
    sizes = [d for d, i in zip(x.shape, indices, strict=False) if i is not None]
    given = [i for i in indices if i is not None]
    inside = iter([jnp.clip(i, 0, d - 1) for i, d in zip(given, sizes, strict=True)])
    picked = get(x, tuple(slice(None) if i is None else next(inside) for i in indices))
    return jnp.where(mask, picked, jnp.asarray(fill, x.dtype))


@RULES("nonzero_static")
def nonzero_static(x: Any, *, size: int, fill_value: int = -1) -> Any:
    if not x.ndim:
        return jnp.zeros((size, 0), jnp.int64)
    places = jnp.nonzero(x, size=size, fill_value=fill_value)
    return jnp.stack(places, 1).astype(jnp.int64)


@RULES("index_select")
def index_select(x: Any, dim: int, index: Any) -> Any:
    if not x.ndim:
        return x
    return take(x, index.reshape(-1), axis_of(dim, x.ndim))


@RULES("embedding")
def embedding(
    weight: Any,
    indices: Any,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    return take(weight, indices, 0)


@RULES("gather")
def gather(x: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    if not x.ndim:
        return x.reshape(-1)[index.reshape(-1)].reshape(index.shape)
    if not index.ndim:
        index = index.reshape(1)
        return gather(x, dim, index).reshape(())
    return get(x, along(x, dim, index))


def along(x: Any, dim: int, index: Any) -> tuple[Any, ...]:
    """The index of what gather and scatter name: every axis at its own place but one."""
    axis = axis_of(dim, x.ndim)
    return tuple(
        index
        if d == axis
        else jnp.broadcast_to(iota(index.shape[d], x.ndim, d, index.dtype), index.shape)
        for d in range(x.ndim)
    )


@RULES("take_along_dim")
def take_along_dim(x: Any, indices: Any, dim: int | None = None) -> Any:
    if dim is None:
        return take(x.reshape(-1), wrapped(indices.reshape(-1), x.size), 0)
    axis = axis_of(dim, x.ndim)
    shape = jnp.broadcast_shapes(
        (*x.shape[:axis], 1, *x.shape[axis + 1 :]),
        (*indices.shape[:axis], 1, *indices.shape[axis + 1 :]),
    )
    spread = lambda a: jnp.broadcast_to(a, (*shape[:axis], a.shape[axis], *shape[axis + 1 :]))  # noqa: E731
    return gather(spread(x), axis, wrapped(spread(indices), x.shape[axis]))


@RULES("take")
def take_flat(x: Any, index: Any) -> Any:
    return take(x.reshape(-1), wrapped(index, x.size), 0)


@RULES("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(
    weight: Any,
    indices: Any,
    offsets: Any,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = -1,
) -> tuple[Any, Any, Any, Any]:
    """Sums (0), means (1) or maxima (2) of rows by bag; the other results serve gradients only."""
    bags = offsets.shape[0] - (1 if include_last_offset else 0)
    rows = take(weight, indices, 0)
    bag = (
        jnp.searchsorted(offsets[:bags], lax.iota(offsets.dtype, indices.shape[0]), side="right")
        - 1
    )
    kept = jnp.ones(indices.shape, weight.dtype)
    if padding_idx is not None and padding_idx >= 0:
        kept = (indices != padding_idx).astype(weight.dtype)
    if mode == 2:
        rows = jnp.where(kept[:, None] > 0, rows, -jnp.inf)
        out = jnp.full((bags, weight.shape[1]), -jnp.inf, weight.dtype).at[bag].max(rows)
        out = jnp.where(jnp.isinf(out), jnp.zeros((), out.dtype), out)
    else:
        scale = kept if per_sample_weights is None else kept * per_sample_weights
        zeros = jnp.zeros((bags, weight.shape[1]), weight.dtype)
        out = zeros.at[bag].add(rows * scale[:, None])
        if mode == 1:
            counts = jnp.zeros((bags,), weight.dtype).at[bag].add(kept)
            out = out / jnp.maximum(counts, 1)[:, None]
    sizes = jnp.zeros((bags,), offsets.dtype).at[bag].add(1)
    largest_at = jnp.zeros(out.shape if mode == 2 else (bags,), offsets.dtype)
    return out, bag.astype(offsets.dtype), sizes, largest_at
