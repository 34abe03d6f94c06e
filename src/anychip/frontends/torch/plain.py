"""Everyday jnp functions in forms that become plain StableHLO ops, not calls of functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax._src import core  # min_dim and max_dim have no public name


def where(condition: Any, x: Any, y: Any) -> Any:
    """`x` where the condition holds, else `y`; both are arrays of one type."""
    shape = jnp.broadcast_shapes(condition.shape, x.shape, y.shape)
    spread = [jnp.broadcast_to(a, shape) for a in (condition, x, y)]
    return lax.select(*spread)


def filled(like: Any, value: Any) -> Any:
    """An array of the shape and type of `like` holding one value."""
    return jnp.broadcast_to(jnp.asarray(value, like.dtype), like.shape)


def has_elements(x: Any) -> bool:
    """False only where a size is known to be 0."""
    return not any(isinstance(size, int) and size == 0 for size in x.shape)


def get(x: Any, index: tuple[Any, ...]) -> Any:
    """`x[index]` for indices known to be within bounds and not negative."""
    return x.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def take(x: Any, indices: Any, axis: int) -> Any:
    """`x` at `indices` along one axis; they are within bounds and not negative."""
    return get(x, (*(slice(None),) * axis, indices))


def wrapped(indices: Any, size: Any) -> Any:
    """Negative indices counted from the end, as Python does."""
    return where(indices < 0, indices + jnp.asarray(size, indices.dtype), indices)


def iota(size: Any, ndim: int, axis: int, element: Any = jnp.int32) -> Any:
    """0…size-1 along one axis of an array of rank `ndim`, the other sizes being 1."""
    shape = [1] * ndim
    shape[axis] = size
    return lax.reshape(lax.iota(element, size), shape)


def is_static(sizes: Sequence[Any]) -> bool:
    """Whether no size is symbolic."""
    return all(isinstance(d, int) for d in sizes)


def lowest(element: Any) -> Any:
    """The smallest value of a type: -inf for floats."""
    kind = jnp.dtype(element)
    if jnp.issubdtype(kind, jnp.floating):
        return jnp.asarray(-jnp.inf, kind)
    return jnp.asarray(False if kind == jnp.bool_ else jnp.iinfo(kind).min, kind)


def highest(element: Any) -> Any:
    """The largest value of a type: inf for floats."""
    kind = jnp.dtype(element)
    if jnp.issubdtype(kind, jnp.floating):
        return jnp.asarray(jnp.inf, kind)
    return jnp.asarray(True if kind == jnp.bool_ else jnp.iinfo(kind).max, kind)


def min_size(a: Any, b: Any) -> Any:
    """The smaller of two sizes, either of which may be symbolic."""
    return min(a, b) if is_static((a, b)) else core.min_dim(a, b)


def max_size(a: Any, b: Any) -> Any:
    """The larger of two sizes, either of which may be symbolic."""
    return max(a, b) if is_static((a, b)) else core.max_dim(a, b)
