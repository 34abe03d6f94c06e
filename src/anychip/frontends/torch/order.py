"""Sorting, ranks, running totals and counting into bins."""

# Annotations of torch and transformers are partly missing or wrong:
# pyright: reportReturnType=false

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from anychip.frontends.torch.plain import iota, where
from anychip.frontends.torch.promote import axis_of, cast, result_type
from anychip.frontends.torch.reduce import amax, amin
from anychip.frontends.torch.table import Rules
from anychip.frontends.torch.tensors import torch_dtype

RULES = Rules()


def _reversed_order(x: Any) -> Any:
    """A key whose ascending order is the descending order of `x`; no value overflows."""
    if x.dtype == jnp.bool_:
        return jnp.logical_not(x)
    return jnp.bitwise_not(x) if x.dtype.kind in "iu" else -x


def sort_with_places(x: Any, dim: int, descending: bool) -> tuple[Any, Any]:
    """Sorted values and the i64 places they came from, stable."""
    if not x.ndim:
        return x, jnp.zeros((), jnp.int64)
    axis = axis_of(dim, x.ndim)
    places = jnp.broadcast_to(iota(x.shape[axis], x.ndim, axis, jnp.int64), x.shape)
    if not descending:
        return lax.sort((x, places), dimension=axis, is_stable=True, num_keys=1)
    key = _reversed_order(x)
    _, values, places = lax.sort((key, x, places), dimension=axis, is_stable=True, num_keys=1)
    return values, places


RULES("msort")(lambda x: sort_with_places(x, 0, False)[0])


@RULES("sort")
def sort(x: Any, dim: int = -1, descending: bool = False) -> tuple[Any, Any]:
    return sort_with_places(x, dim, descending)


@RULES("sort.stable")
def sort_stable(
    x: Any, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Any, Any]:
    return sort_with_places(x, dim, descending)


RULES("argsort")(lambda x, dim=-1, descending=False: sort_with_places(x, dim, descending)[1])
RULES("argsort.stable")(
    lambda x, *, stable, dim=-1, descending=False: sort_with_places(x, dim, descending)[1]
)


@RULES("topk")
def topk(
    x: Any, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Any, Any]:
    if not x.ndim:
        return x, jnp.zeros((), jnp.int64)
    axis = axis_of(dim, x.ndim)
    moved = jnp.moveaxis(x, axis, -1)
    if isinstance(k, int) and moved.dtype != jnp.bool_:
        key = moved if largest else _reversed_order(moved)
        values, places = lax.top_k(key, k)
        values = values if largest else _reversed_order(values)
    else:
        values, places = sort_with_places(moved, -1, largest)
        values, places = values[..., :k], places[..., :k]
    return jnp.moveaxis(values, -1, axis), jnp.moveaxis(places.astype(jnp.int64), -1, axis)


@RULES("kthvalue")
def kthvalue(x: Any, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
    values, places = sort_with_places(x, dim, False)
    if not x.ndim:
        return values, places
    axis = axis_of(dim, x.ndim)
    at = slice(k - 1, k)
    index = (*(slice(None),) * axis, at)
    picked = values[index], places[index]
    return picked if keepdim else (picked[0].squeeze(axis), picked[1].squeeze(axis))


@RULES("median.dim")
def median_dim(x: Any, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
    return kthvalue(x, (x.shape[axis_of(dim, x.ndim)] + 1) // 2 if x.ndim else 1, dim, keepdim)


@RULES("nanmedian.dim")
def nanmedian_dim(x: Any, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
    values, places = sort_with_places(x, dim, False)  # NaNs last
    if not x.ndim:
        return values, places
    axis = axis_of(dim, x.ndim)
    count = jnp.sum(values == values, axis, keepdims=True)
    at = jnp.maximum(count - 1, 0) // 2
    picked = [jnp.take_along_axis(one, at, axis) for one in (values, places)]
    return picked if keepdim else [one.squeeze(axis) for one in picked]


RULES("median")(lambda x: median_dim(x.reshape(-1), 0)[0])
RULES("nanmedian")(lambda x: nanmedian_dim(x.reshape(-1), 0)[0])


@RULES("mode")
def mode(x: Any, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
    """The most frequent value (the smallest of equals) and a place where it stands."""
    if not x.ndim:
        return x, jnp.zeros((), jnp.int64)
    axis = axis_of(dim, x.ndim)
    values, places = sort_with_places(jnp.moveaxis(x, axis, -1), -1, False)
    counts = jnp.sum(values[..., :, None] == values[..., None, :], -1)
    best = lax.argmax(counts, counts.ndim - 1, jnp.int64)[..., None]
    last = best + jnp.take_along_axis(counts, best, -1) - 1
    picked = jnp.take_along_axis(values, best, -1), jnp.take_along_axis(places, last, -1)
    out = [jnp.moveaxis(p, -1, axis) for p in picked]
    return (out[0], out[1]) if keepdim else (out[0].squeeze(axis), out[1].squeeze(axis))


def _summed(x: Any, dtype: Any) -> Any:
    if dtype is not None:
        return cast(x, dtype)
    return x.astype(jnp.int64) if x.dtype.kind in "iub" else x


@RULES("cumsum")
def cumsum(x: Any, dim: int, *, dtype: Any = None) -> Any:
    x = _summed(x, dtype)
    return lax.cumsum(x, axis_of(dim, x.ndim)) if x.ndim else x


@RULES("cumprod")
def cumprod(x: Any, dim: int, *, dtype: Any = None) -> Any:
    x = _summed(x, dtype)
    return lax.cumprod(x, axis_of(dim, x.ndim)) if x.ndim else x


@RULES("logcumsumexp")
def logcumsumexp(x: Any, dim: int) -> Any:
    return lax.cumlogsumexp(x, axis_of(dim, x.ndim)) if x.ndim else x


def _running(x: Any, dim: int, better: Any) -> tuple[Any, Any]:
    if not x.ndim:
        return x, jnp.zeros((), jnp.int64)
    axis = axis_of(dim, x.ndim)
    places = jnp.broadcast_to(iota(x.shape[axis], x.ndim, axis, jnp.int64), x.shape)

    def combine(left: Any, right: Any) -> tuple[Any, Any]:
        later = better(right[0], left[0])
        return where(later, right[0], left[0]), where(later, right[1], left[1])

    values, at = lax.associative_scan(combine, (x, places), axis=axis)
    return values, at


RULES("cummax")(lambda x, dim: _running(x, dim, jnp.greater_equal))
RULES("cummin")(lambda x, dim: _running(x, dim, jnp.less_equal))


@RULES("diff")
def diff(x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    axis = axis_of(dim, x.ndim)
    parts = [p for p in (prepend, x, append) if p is not None]
    x = jnp.concatenate(parts, axis) if len(parts) > 1 else x
    return jnp.diff(x, n, axis)


@RULES("searchsorted.Tensor", "searchsorted.Scalar")
def searchsorted(
    sorted_sequence: Any,
    values: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    if sorter is not None:
        sorted_sequence = jnp.take_along_axis(sorted_sequence, sorter, -1)
    common = result_type(sorted_sequence, values)
    edges, sought = cast(sorted_sequence, common), cast(values, common)
    after = right if side is None else side == "right"
    if edges.ndim == 1:
        before = edges <= sought[..., None] if after else edges < sought[..., None]
    else:
        pair = edges[..., None, :], sought[..., :, None]
        before = pair[0] <= pair[1] if after else pair[0] < pair[1]
    return jnp.sum(before, -1, dtype=jnp.int32 if out_int32 else jnp.int64)


@RULES("bucketize.Tensor", "bucketize.Scalar")
def bucketize(x: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    return searchsorted(boundaries, x, out_int32=out_int32, right=right)


@RULES("histc")
def histc(x: Any, bins: int = 100, min: Any = 0, max: Any = 0) -> Any:
    if min == max:
        low, high = amin(x), amax(x)
    else:
        low, high = (cast(v, torch_dtype(x.dtype)) for v in (min, max))
    flat = x.reshape(-1)
    at = jnp.floor((flat - low) / (high - low) * bins).astype(jnp.int32)
    at = where(flat == high, jnp.asarray(bins - 1, jnp.int32), at)
    inside = (flat >= low) & (flat <= high)
    counts = jnp.zeros((bins,), x.dtype)
    return counts.at[jnp.clip(at, 0, bins - 1)].add(inside.astype(x.dtype))


@RULES("one_hot")
def one_hot(x: Any, num_classes: int = -1) -> Any:
    return (x[..., None] == lax.iota(x.dtype, num_classes)).astype(jnp.int64)


RULES("trace")(lambda x: jnp.trace(x, dtype=None if x.dtype.kind in "fc" else jnp.int64))
