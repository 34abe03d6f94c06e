"""Tensors made from nothing: constants, ranges and patterns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import torch
from jax import lax

from anychip.frontends.torch.plain import iota
from anychip.frontends.torch.promote import cast, is_array, result_type
from anychip.frontends.torch.table import Rules
from anychip.frontends.torch.tensors import numpy_dtype, torch_dtype

RULES = Rules()


def _type_for(value: Any, dtype: torch.dtype | None) -> torch.dtype:
    return result_type(value) if dtype is None else dtype


def _filled(size: Sequence[Any], value: Any, dtype: torch.dtype) -> Any:
    return jnp.broadcast_to(cast(value, dtype), tuple(size))


@RULES("full")
def full(size: Sequence[Any], fill_value: Any, *, dtype: torch.dtype | None = None) -> Any:
    return _filled(size, fill_value, _type_for(fill_value, dtype))


@RULES("full_like")
def full_like(x: Any, fill_value: Any, *, dtype: torch.dtype | None = None) -> Any:
    return _filled(x.shape, fill_value, dtype or torch_dtype(x.dtype))


@RULES("new_full")
def new_full(
    x: Any, size: Sequence[Any], fill_value: Any, *, dtype: torch.dtype | None = None
) -> Any:
    return _filled(size, fill_value, dtype or torch_dtype(x.dtype))


def _constants(value: int) -> tuple[Any, Any, Any]:
    def plain(size: Sequence[Any], *, dtype: torch.dtype | None = None) -> Any:
        return _filled(size, value, dtype or torch.get_default_dtype())

    def like(x: Any, *, dtype: torch.dtype | None = None) -> Any:
        return _filled(x.shape, value, dtype or torch_dtype(x.dtype))

    def new(x: Any, size: Sequence[Any], *, dtype: torch.dtype | None = None) -> Any:
        return _filled(size, value, dtype or torch_dtype(x.dtype))

    return plain, like, new


for _name, _value in (("zeros", 0), ("ones", 1), ("empty", 0)):
    _plain, _like, _new = _constants(_value)
    RULES("empty.memory_format" if _name == "empty" else _name)(_plain)
    RULES(f"{_name}_like")(_like)
    RULES(f"new_{_name}")(_new)
_empty, _, _new_empty = _constants(0)
RULES("empty_strided", "empty_permuted")(
    lambda size, order, *, dtype=None: _empty(size, dtype=dtype)
)
RULES("new_empty_strided")(lambda x, size, stride, *, dtype=None: _new_empty(x, size, dtype=dtype))


@RULES("arange")
def arange(end: Any, *, dtype: torch.dtype | None = None) -> Any:
    return arange_step(0, end, dtype=dtype)


@RULES("arange.start")
def arange_start(start: Any, end: Any, *, dtype: torch.dtype | None = None) -> Any:
    return arange_step(start, end, dtype=dtype)


@RULES("arange.start_step")
def arange_step(start: Any, end: Any, step: Any = 1, *, dtype: torch.dtype | None = None) -> Any:
    kind = _type_for(0.0 if any(isinstance(v, float) for v in (start, end, step)) else 0, dtype)
    if any(isinstance(v, float) for v in (start, end, step)):
        count: Any = max(int(-((start - end) // step)), 0)
    else:
        count = -((start - end) // step)
    element = numpy_dtype(kind)
    if start == 0 and step == 1:
        return lax.iota(element, count)
    # torch computes in f64 (i64 for integers) and rounds once
    wide = jnp.float64 if element.kind == "f" or kind is torch.bfloat16 else jnp.int64
    out = cast(start, torch_dtype(wide)) + cast(step, torch_dtype(wide)) * lax.iota(wide, count)
    return lax.convert_element_type(out, element)


@RULES("linspace")
def linspace(start: Any, end: Any, steps: int, *, dtype: torch.dtype | None = None) -> Any:
    kind = dtype or torch.get_default_dtype()
    return jnp.linspace(start, end, steps, dtype=numpy_dtype(kind))


RULES("linspace.Tensor_Tensor", "linspace.Tensor_Scalar", "linspace.Scalar_Tensor")(
    lambda start, end, steps, *, dtype=None: jnp.linspace(
        start, end, steps, dtype=numpy_dtype(dtype or torch.get_default_dtype())
    )
)


@RULES("logspace")
def logspace(
    start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: torch.dtype | None = None
) -> Any:
    kind = dtype or torch.get_default_dtype()
    return jnp.logspace(start, end, steps, base=base, dtype=numpy_dtype(kind))


@RULES("eye", "eye.m")
def eye(n: Any, m: Any = None, *, dtype: torch.dtype | None = None) -> Any:
    same = iota(n, 2, 0) == iota(n if m is None else m, 2, 1)
    return same.astype(numpy_dtype(dtype or torch.get_default_dtype()))


@RULES("tril_indices")
def tril_indices(row: int, col: int, offset: int = 0, *, dtype: torch.dtype | None = None) -> Any:
    at = jnp.stack(jnp.tril_indices(row, offset, col))
    return at.astype(numpy_dtype(dtype or torch.int64))


@RULES("triu_indices")
def triu_indices(row: int, col: int, offset: int = 0, *, dtype: torch.dtype | None = None) -> Any:
    at = jnp.stack(jnp.triu_indices(row, offset, col))
    return at.astype(numpy_dtype(dtype or torch.int64))


@RULES("scalar_tensor")
def scalar_tensor(value: Any, *, dtype: torch.dtype | None = None) -> Any:
    return cast(value, _type_for(value, dtype) if is_array(value) else dtype or torch.float32)
