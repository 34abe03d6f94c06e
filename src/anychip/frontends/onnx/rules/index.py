"""Reading and writing by index: Gather, Scatter, TopK, NonZero, Compress, Unique."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anychip.core.errors import InputError
from anychip.frontends.onnx.fold import is_symbolic
from anychip.frontends.onnx.table import ALL, Call, ints, op


def _from_end(index: Any, length: Any) -> Any:
    """Negative indices count from the end.

    Not jnp.where, which is a function of its own in the module: shape refinement refuses one that
    is called with different known scalars.
    """
    return jax.lax.select(index < 0, index + length, index)


@op("Gather", folds=True)
def gather(call: Call, data: Any, indices: Any) -> Any:
    axis = call.attr("axis", 0)
    if call.xp is np:
        return np.take(data, indices.astype(np.int64), axis=axis)
    axis %= data.ndim
    index = _from_end(indices, data.shape[axis])
    if index.ndim == 0:
        return jax.lax.dynamic_index_in_dim(data, index, axis, keepdims=False)
    return jnp.take(data, index, axis=axis, mode="clip")


@op("GatherElements", eager=True)
def gather_elements(call: Call, data: Any, indices: Any) -> Any:
    axis = call.attr("axis", 0) % data.ndim
    index = _from_end(indices, data.shape[axis])
    for other in range(data.ndim):
        if other != axis and indices.shape[other] != data.shape[other]:
            data = jax.lax.slice_in_dim(data, 0, indices.shape[other], axis=other)
    return jnp.take_along_axis(data, index, axis=axis, mode="clip")


@op("GatherND", eager=True)
def gather_nd(call: Call, data: Any, indices: Any) -> Any:
    def pick(source: Any, index: Any) -> Any:
        depth = index.shape[-1]
        if depth > source.ndim:
            raise InputError(f"indices of depth {depth} into a tensor of rank {source.ndim}")
        return source[tuple(_from_end(index[..., i], source.shape[i]) for i in range(depth))]

    for _ in range(call.attr("batch_dims", 0)):
        pick = jax.vmap(pick)
    return pick(data, indices)


def _combine(mode: str) -> str:
    names = {"none": "set", "add": "add", "mul": "multiply", "max": "max", "min": "min"}
    if mode not in names:
        raise InputError(f"reduction {mode!r} is none of {sorted(names)}")
    return names[mode]


@op("ScatterElements", "Scatter", eager=True)
def scatter_elements(call: Call, data: Any, indices: Any, updates: Any) -> Any:
    axis = call.attr("axis", 0) % data.ndim
    grid: list[Any] = [
        jnp.arange(n).reshape((-1,) + (1,) * (data.ndim - 1 - i))
        for i, n in enumerate(indices.shape)
    ]
    grid[axis] = _from_end(indices, data.shape[axis])
    return getattr(data.at[tuple(grid)], _combine(call.attr("reduction", "none")))(updates)


@op("ScatterND", eager=True)
def scatter_nd(call: Call, data: Any, indices: Any, updates: Any) -> Any:
    depth = indices.shape[-1]
    at = tuple(_from_end(indices[..., i], data.shape[i]) for i in range(depth))
    return getattr(data.at[at], _combine(call.attr("reduction", "none")))(updates)


@op("TensorScatter")
def tensor_scatter(call: Call, cache: Any, update: Any, start: Any = None) -> Any:
    """Write `update` into `cache` along an axis, each batch row from its own start."""
    axis = call.attr("axis", -2) % cache.ndim
    moved, new = jnp.moveaxis(cache, axis, 1), jnp.moveaxis(update, axis, 1)
    batch, length = new.shape[:2]
    first = jnp.zeros(batch, np.int64) if start is None else start
    position = first[:, None] + jnp.arange(length)[None]
    if call.attr("mode", "linear") == "circular":
        position = position % moved.shape[1]
    written = moved.at[jnp.arange(batch)[:, None], position].set(new)
    return jnp.moveaxis(written, 1, axis)


@op("TopK", known=(1,), eager=True)
def top_k(call: Call, x: Any, k: Any = None) -> Any:
    count = call.required("k") if k is None else ints(k)[0]
    axis = call.attr("axis", -1)
    moved = jnp.moveaxis(x, axis, -1)
    if not is_symbolic(moved.shape[-1:]) and not 0 <= count <= moved.shape[-1]:
        raise InputError(f"asks for the top {count} of {moved.shape[-1]}")
    order = jnp.argsort(moved, axis=-1, stable=True, descending=bool(call.attr("largest", 1)))
    index = order[..., :count]
    values = jnp.take_along_axis(moved, index, axis=-1)
    return jnp.moveaxis(values, -1, axis), jnp.moveaxis(index, -1, axis).astype(np.int64)


@op("NonZero", known=ALL, eager=True)
def non_zero(call: Call, x: Any) -> Any:
    return (
        np.stack(np.nonzero(x)).astype(np.int64) if x.ndim else np.zeros((0, int(x != 0)), np.int64)
    )


@op("Compress", known=(1,), eager=True)
def compress(call: Call, x: Any, condition: Any) -> Any:
    kept = np.flatnonzero(condition)
    axis = call.attr("axis")
    return jnp.take(x.reshape(-1), kept) if axis is None else jnp.take(x, kept, axis=axis)


@op("Unique", known=ALL, eager=True)
def unique(call: Call, x: Any) -> Any:
    """Distinct values, in order of value or of first appearance."""
    axis = call.attr("axis")
    values, first, inverse, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.reshape(-1)
    if not call.attr("sorted", 1):
        order = np.argsort(first)
        values = np.take(values, order, axis=axis or 0)
        first, counts = first[order], counts[order]
        inverse = np.argsort(order)[inverse]
    return values, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)


@op("ArrayFeatureExtractor", domain="ai.onnx.ml")
def array_feature_extractor(call: Call, x: Any, indices: Any) -> Any:
    return jnp.take(x, indices.reshape(-1), axis=-1).reshape((-1, indices.size))
