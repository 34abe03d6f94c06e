"""Comparisons, boolean logic and selection."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from anychip.frontends.torch.plain import filled, where
from anychip.frontends.torch.promote import cast, is_floating, result_type, same
from anychip.frontends.torch.table import Rule, Rules
from anychip.frontends.torch.tensors import torch_dtype

RULES = Rules()


def _of_common(fn: Rule) -> Rule:
    return lambda x, other: fn(*same(x, other))


for _name, _fn in {
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
}.items():
    RULES(f"{_name}.Tensor", f"{_name}.Scalar")(_of_common(_fn))


def truth(x: Any) -> Any:
    """Whether each element is not zero."""
    return x if x.dtype == jnp.bool_ else x != jnp.zeros((), x.dtype)


RULES("logical_not")(lambda x: jnp.logical_not(truth(x)))
RULES("logical_and")(lambda x, other: jnp.logical_and(truth(x), truth(other)))
RULES("logical_or")(lambda x, other: jnp.logical_or(truth(x), truth(other)))
RULES("logical_xor")(lambda x, other: jnp.logical_xor(truth(x), truth(other)))
RULES("isnan")(lambda x: jnp.isnan(x) if is_floating(x) else filled(x == x, False))
RULES("isfinite")(lambda x: jnp.isfinite(x) if is_floating(x) else filled(x == x, True))


@RULES("isinf")
def isinf(x: Any) -> Any:
    return jnp.abs(x) == jnp.inf if is_floating(x) else filled(x == x, False)


RULES("isposinf")(lambda x: x == jnp.inf if is_floating(x) else filled(x == x, False))
RULES("isneginf")(lambda x: x == -jnp.inf if is_floating(x) else filled(x == x, False))


@RULES("isclose")
def isclose(
    x: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Any:
    return jnp.isclose(x, other, rtol, atol, equal_nan)


@RULES("allclose")
def allclose(
    x: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Any:
    return jnp.all(isclose(x, other, rtol, atol, equal_nan))


RULES("equal")(lambda x, other: jnp.all(x == other))


@RULES("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def select(condition: Any, x: Any, other: Any) -> Any:
    lhs, rhs = same(x, other)
    return where(truth(condition), lhs, rhs)


@RULES("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    return where(truth(mask), cast(value, torch_dtype(x.dtype)), x)


@RULES("isin.Tensor_Tensor", "isin.Tensor_Scalar", "isin.Scalar_Tensor")
def isin(
    elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False
) -> Any:
    common = result_type(elements, test_elements)
    sought, among = cast(elements, common), cast(test_elements, common).reshape(-1)
    found = jnp.any(sought[..., None] == among, axis=-1)
    return jnp.logical_not(found) if invert else found


@RULES("is_nonzero")
def is_nonzero(x: Any) -> Any:
    return truth(x).reshape(())


@RULES("threshold")
def threshold(x: Any, threshold: Any, value: Any) -> Any:
    element = torch_dtype(x.dtype)
    return where(x > cast(threshold, element), x, cast(value, element))


RULES("item", "_local_scalar_dense")(lambda x: x.reshape(()))
