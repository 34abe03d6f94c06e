"""Sizes as numbers, and the checks export leaves on them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import torch

from anychip.frontends.torch.plain import max_size, min_size
from anychip.frontends.torch.promote import is_array
from anychip.frontends.torch.table import Rules

RULES = Rules()

RULES("sym_size.int")(lambda x, dim: x.shape[dim])
RULES("sym_numel")(lambda x: math.prod(x.shape))
RULES("sym_is_contiguous")(lambda x, memory_format=None: True)


@RULES("sym_stride.int")
def sym_stride(x: Any, dim: int, *, memory: Sequence[int], start: int) -> Any:
    """The distance of two neighbours along `dim` in torch's memory, whose order `memory` is."""
    del start
    place = tuple(memory).index(dim % x.ndim)
    return math.prod(x.shape[axis] for axis in memory[place + 1 :])


@RULES("sym_storage_offset")
def sym_storage_offset(x: Any, *, memory: Sequence[int], start: int) -> int:
    del x, memory
    return start


# Checks of sizes hold by the signature's guards; those of data are the user's assertions, which a
# compiled program cannot raise. `_assert_scalar` is looked at by Evaluation, which may report it.
for _name in (
    "_assert_async",
    "_assert_async.msg",
    "_assert_scalar",
    "_assert_tensor_metadata",
    "_functional_assert_async.msg",
    "_functional_assert_scalar",
    "_functional_sym_constrain_range",
    "_functional_sym_constrain_range_for_size",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
):
    RULES(_name)(lambda *_values, **_named: None)


def _to_float(value: Any) -> Any:
    return float(value) if isinstance(value, int | float) else jnp.asarray(value, jnp.float64)


PYTHON: dict[Any, Callable[..., Any]] = {
    torch.sym_float: _to_float,
    torch.sym_int: lambda v: int(v) if isinstance(v, int | float) else v,
    torch.sym_max: lambda a, b: max_size(a, b),
    torch.sym_min: lambda a, b: min_size(a, b),
    torch.sym_not: lambda v: jnp.logical_not(v) if is_array(v) else not v,
    torch.sym_ite: lambda c, a, b: jnp.where(c, a, b) if is_array(c) else a if c else b,
    torch.sym_sum: lambda values: sum(values[1:], values[0]),
    math.ceil: math.ceil,
    math.floor: math.floor,
    math.trunc: math.trunc,
    operator.getitem: operator.getitem,
    round: round,
}
"""Functions of numbers that graphs call besides overloads; those of `operator` need no entry."""
