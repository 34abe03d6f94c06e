"""Values known while loading: numpy arrays, and integer vectors with symbolic sizes among them.

ONNX computes shapes with ordinary nodes (Shape, Gather, Concat, Reshape). Those chains are
evaluated here with numpy; a symbolic dimension stays an expression such as `2*batch`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anychip.core.errors import InputError, UnsupportedError

LIMIT = 1 << 16
"""Known values above this many elements are computed by the program instead."""


MOST = 1 << 22
"""No table or grid that a rule computes while loading has more elements."""


class TooLarge(Exception):
    """A known value would be too large to keep; compute it in the program instead."""


_INT64 = np.dtype(np.int64)


@dataclass(frozen=True)
class Sizes:
    """An integer array of which some elements are symbolic dimension expressions."""

    values: np.ndarray  # of object
    dtype: np.dtype = _INT64

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape


def settle(value: Any, like: np.dtype = _INT64) -> Any:
    """An object array of numbers as a plain array when nothing in it is symbolic, else as Sizes."""
    if not isinstance(value, np.ndarray) or value.dtype != object:
        return value
    flat = value.reshape(-1)
    if any(isinstance(v, str) for v in flat):
        return value
    if all(isinstance(v, int | np.integer | bool | np.bool_) for v in flat):
        plain = [v if isinstance(v, bool | np.bool_) else int(v) for v in flat]
        kind = bool if plain and all(isinstance(v, bool | np.bool_) for v in flat) else like
        return np.array(plain, kind).reshape(value.shape)
    return Sizes(value, like)


def from_shape(shape: Sequence[Any]) -> Any:
    """A shape as a known int64 vector."""
    values = np.empty(len(shape), object)
    values[:] = [d if not isinstance(d, int | np.integer) else int(d) for d in shape]
    return settle(values) if len(shape) else np.zeros(0, np.int64)


def bounded(count: int, what: str) -> int:
    """`count`, if a table of that size may be made while loading. Raises InputError otherwise."""
    if not 0 <= count <= MOST:
        raise InputError(f"{what} of {count} elements is out of range (0 to {MOST})")
    return count


def check_extent(shape: Sequence[Any], what: str) -> None:
    """Refuse tensors no machine holds; their sizes overflow the arithmetic on shapes."""
    sizes = [int(d) for d in shape if isinstance(d, int | np.integer)]
    if math.prod(sizes) >= 1 << 45 or any(s >= 1 << 31 for s in sizes):
        raise InputError(f"{what} of shape {list(shape)} has {math.prod(sizes)} elements")


def is_symbolic(value: Any) -> bool:
    """Whether any dimension or element is an expression."""
    return any(not isinstance(d, int | np.integer) for d in value)


def is_sizes(*arrays: Any) -> bool:
    """Whether any of these folding operands holds expressions."""
    return any(isinstance(a, np.ndarray) and a.dtype == object for a in arrays)


def each(function: Any, *arrays: Any) -> np.ndarray:
    """Apply a function of scalars elementwise with broadcasting; the result holds objects."""
    return np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays), object)


def same(a: Any, b: Any) -> bool:
    """Whether two dimensions are equal, for all values of the symbols.

    Raises UnsupportedError when it depends on them: JAX's own `==` would say False.
    """
    difference = a - b
    if isinstance(difference, int | np.integer):
        return int(difference) == 0
    if apart(difference):
        return False
    raise UnsupportedError(
        f"compares {a} with {b}, which depends on the symbolic size; "
        f"fix it with dims={{{first_symbol(difference)!r}: …}}"
    )


def apart(difference: Any) -> bool:
    """Whether an expression is positive for all symbols, or negative for all."""
    from jax.errors import InconclusiveDimensionOperation

    for side in (difference, -difference):
        try:
            if side >= 1:
                return True
        except InconclusiveDimensionOperation:
            continue
    return False


def first_symbol(expression: Any) -> str:
    """The name of a symbol in a dimension expression."""
    return next(iter(symbols_of(expression)), str(expression))


def symbols_of(expression: Any) -> list[str]:
    """The names of the symbols in a dimension expression (function names left out)."""
    return re.findall(r"[A-Za-z_]\w*\b(?!\()", str(expression))


def at_most(a: Any, b: Any) -> Any:
    """min(a, b) of two dimensions."""
    from jax import core

    if isinstance(a, int | np.integer) and isinstance(b, int | np.integer):
        return min(int(a), int(b))
    return core.min_dim(a, b)


def at_least(a: Any, b: Any) -> Any:
    """max(a, b) of two dimensions."""
    from jax import core

    if isinstance(a, int | np.integer) and isinstance(b, int | np.integer):
        return max(int(a), int(b))
    return core.max_dim(a, b)
