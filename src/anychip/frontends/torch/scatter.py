"""Writing elements at computed places; always a new array, as export leaves no mutation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from anychip.core.errors import UnsupportedError
from anychip.frontends.torch.index import along, full_index
from anychip.frontends.torch.plain import highest, lowest, take, where
from anychip.frontends.torch.promote import axis_of, cast, is_array
from anychip.frontends.torch.shape import bounds, in_memory_order, strided_places
from anychip.frontends.torch.table import Rules
from anychip.frontends.torch.tensors import torch_dtype

RULES = Rules()


def _like(x: Any, value: Any) -> Any:
    return cast(value, torch_dtype(x.dtype))


@RULES("copy")
def copy(x: Any, src: Any, non_blocking: bool = False) -> Any:
    return jnp.broadcast_to(_like(x, src), x.shape)


RULES("fill.Scalar", "fill.Tensor")(lambda x, value: jnp.broadcast_to(_like(x, value), x.shape))
RULES("zero")(lambda x: jnp.zeros(x.shape, x.dtype))


@RULES("index_put", "_unsafe_index_put")
def index_put(x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    values = _like(x, values)
    masks = [i for i in indices if i is not None and i.dtype in (jnp.bool_, jnp.uint8)]
    if masks:
        return _mask_put(x, indices, masks, values, accumulate)
    at = x.at[full_index(x, indices)]
    options = {"mode": "promise_in_bounds", "wrap_negative_indices": False}
    return at.add(values, **options) if accumulate else at.set(values, **options)


def _mask_put(
    x: Any, indices: Sequence[Any], masks: list[Any], values: Any, accumulate: bool
) -> Any:
    lead = next(n for n, i in enumerate(indices) if i is not None)
    if len(masks) > 1 or any(i is not None for i in indices[lead + 1 :]):
        raise UnsupportedError(
            "x[mask, …] = v with a mask among other indices; write it as torch.where, or give "
            "one mask over the leading axes"
        )
    mask = masks[0].astype(bool)
    after = x.ndim - lead - mask.ndim
    spread = mask.reshape((1,) * lead + mask.shape + (1,) * after)
    rows = values.shape[lead] if values.ndim > after + lead else 1
    if not isinstance(rows, int) or rows != 1:
        # values lists one entry for each true element of the mask, in order
        order = jnp.cumsum(mask.reshape(-1).astype(jnp.int32)) - 1
        picked = take(values, jnp.clip(order, 0, values.shape[lead] - 1), lead)
        values = picked.reshape(*picked.shape[:lead], *mask.shape, *picked.shape[lead + 1 :])
    elif values.ndim > after + lead:
        values = values.reshape(*values.shape[:lead], *(1,) * mask.ndim, *values.shape[lead + 1 :])
    return where(spread, x + values if accumulate else values, x)


@RULES("masked_scatter")
def masked_scatter(x: Any, mask: Any, source: Any) -> Any:
    shape = jnp.broadcast_shapes(x.shape, mask.shape)
    x, mask = jnp.broadcast_to(x, shape), jnp.broadcast_to(mask, shape)
    order = jnp.cumsum(mask.reshape(-1).astype(jnp.int32)) - 1
    flat = source.reshape(-1)
    picked = take(flat, jnp.clip(order, 0, flat.shape[0] - 1), 0).reshape(shape)
    return where(mask, picked, x)


def _scatter(x: Any, dim: int, index: Any, src: Any, combine: str) -> Any:
    if not x.ndim:
        return _scatter(x.reshape(1), 0, index.reshape(-1), src.reshape(-1), combine).reshape(())
    if is_array(src) and src.ndim:
        # torch takes as much of src as the index covers
        src = lax.slice(src, (0,) * src.ndim, index.shape)
    values = jnp.broadcast_to(_like(x, src), index.shape)
    at = x.at[along(x, dim, index)]
    return getattr(at, combine)(values, mode="promise_in_bounds", wrap_negative_indices=False)


@RULES("scatter.src", "scatter.value")
def scatter(x: Any, dim: int, index: Any, src: Any = None, *, value: Any = None) -> Any:
    return _scatter(x, dim, index, value if src is None else src, "set")


@RULES("scatter_add")
def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    return _scatter(x, dim, index, src, "add")


@RULES("scatter.reduce", "scatter.value_reduce")
def scatter_reduced(
    x: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: str
) -> Any:
    return _scatter(x, dim, index, value if src is None else src, reduce)


_COMBINE = {"sum": "add", "prod": "multiply", "amax": "max", "amin": "min", "mean": "add"}


@RULES("scatter_reduce.two")
def scatter_reduce(
    x: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True
) -> Any:
    start = x
    if not include_self:
        neutral = {
            "prod": jnp.ones((), x.dtype),
            "amax": lowest(x.dtype),
            "amin": highest(x.dtype),
        }.get(reduce, jnp.zeros((), x.dtype))
        start = _scatter(x, dim, index, neutral, "set")
    out = _scatter(start, dim, index, src, _COMBINE[reduce])
    if reduce != "mean":
        return out
    ones = jnp.ones(x.shape, x.dtype)
    base = ones if include_self else _scatter(ones, dim, index, 0, "set")
    counts = _scatter(base, dim, index, jnp.ones(index.shape, x.dtype), "add")
    if jnp.issubdtype(x.dtype, jnp.integer):
        return jnp.floor_divide(out, jnp.maximum(counts, 1))
    return out / jnp.maximum(counts, 1)


def _rows(x: Any, dim: int, index: Any) -> Any:
    return x.at[(*(slice(None),) * axis_of(dim, x.ndim), index)]


@RULES("index_add")
def index_add(x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    if not x.ndim:
        return index_add(x[None], 0, index.reshape(-1), source.reshape(-1), alpha=alpha)[0]
    added = source if alpha == 1 else source * _like(x, alpha)
    return _rows(x, dim, index).add(_like(x, added))


@RULES("index_copy")
def index_copy(x: Any, dim: int, index: Any, source: Any) -> Any:
    if not x.ndim:
        return index_copy(x[None], 0, index.reshape(-1), source.reshape(-1))[0]
    return _rows(x, dim, index).set(_like(x, source))


@RULES("index_fill.int_Scalar", "index_fill.int_Tensor")
def index_fill(x: Any, dim: int, index: Any, value: Any) -> Any:
    if not x.ndim:
        return index_fill(x[None], 0, index.reshape(-1), value)[0]
    return _rows(x, dim, index).set(_like(x, value))


@RULES("index_reduce")
def index_reduce(
    x: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True
) -> Any:
    if not x.ndim:
        one = index_reduce(
            x[None], 0, index.reshape(-1), source.reshape(-1), reduce, include_self=include_self
        )
        return one[0]
    index = index.reshape(-1)
    axis = axis_of(dim, x.ndim)
    shape = [1] * x.ndim
    shape[axis] = index.shape[0]
    spread = jnp.broadcast_to(index.reshape(shape), source.shape)
    return scatter_reduce(x, dim, spread, source, reduce, include_self=include_self)


@RULES("select_scatter")
def select_scatter(x: Any, src: Any, dim: int, index: Any) -> Any:
    axis = axis_of(dim, x.ndim)
    row = jnp.expand_dims(jnp.broadcast_to(_like(x, src), _without(x.shape, axis)), axis)
    if not is_array(index) and isinstance(index, int) and index < 0:
        index = x.shape[axis] + index
    return lax.dynamic_update_slice_in_dim(x, row, jnp.asarray(index), axis)


def _without(shape: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


@RULES("slice_scatter")
def slice_scatter(
    x: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    axis = axis_of(dim, x.ndim)
    begin, stop = bounds(x.shape[axis], start, end)
    index = (*(slice(None),) * axis, slice(begin, stop, step))
    if step == 1 and isinstance(begin, int) and src.ndim == x.ndim:
        at = [0] * x.ndim
        at[axis] = begin
        return lax.dynamic_update_slice(x, _like(x, src), at)
    return x.at[index].set(_like(x, src))


@RULES("diagonal_scatter")
def diagonal_scatter(x: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    a, b = axis_of(dim1, x.ndim), axis_of(dim2, x.ndim)
    moved = jnp.moveaxis(x, (a, b), (-2, -1))
    count = src.shape[-1]
    rows = lax.iota(jnp.int32, count) + max(-offset, 0)
    cols = lax.iota(jnp.int32, count) + max(offset, 0)
    return jnp.moveaxis(moved.at[..., rows, cols].set(_like(x, src)), (-2, -1), (a, b))


@RULES("as_strided_scatter")
def as_strided_scatter(
    x: Any,
    src: Any,
    size: Sequence[Any],
    stride: Sequence[Any],
    storage_offset: Any = None,
    *,
    memory: Sequence[int] = (),
    start: int = 0,
) -> Any:
    laid_out = in_memory_order(x, memory)
    first = 0 if storage_offset is None else storage_offset - start
    at = strided_places(x, size, stride, first)
    changed = laid_out.reshape(-1).at[at].set(_like(x, src)).reshape(laid_out.shape)
    back = [list(memory).index(axis) for axis in range(x.ndim)] if memory else range(x.ndim)
    return lax.transpose(changed, tuple(back))


@RULES("put")
def put(x: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    at = x.reshape(-1).at[index.reshape(-1)]
    out = at.add(source.reshape(-1)) if accumulate else at.set(source.reshape(-1))
    return out.reshape(x.shape)
