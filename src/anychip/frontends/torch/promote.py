"""torch's rules for the result type of an element-wise op, applied before JAX sees the operands.

Three groups count in this order: tensors with dimensions, 0-d tensors, Python numbers. A lower
group changes the type only when it is of a higher category (bool < int < float < complex).
See "Type promotion" in torch.tensor_attributes.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch
from jax import lax

from anychip.frontends.torch.tensors import numpy_dtype, torch_dtype


def is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "ndim")


def _category(element: torch.dtype) -> int:
    if element.is_complex:
        return 3
    if element.is_floating_point:
        return 2
    return 0 if element is torch.bool else 1


def _scalar_type(value: Any) -> torch.dtype:
    match value:
        case bool():
            return torch.bool
        case float():
            return torch.get_default_dtype()
        case complex():
            return torch.complex64
        case _:  # int, or a symbolic size
            return torch.int64


def result_type(*values: Any) -> torch.dtype:
    """The torch type of the result of an element-wise op on arrays and Python numbers."""
    groups: list[torch.dtype | None] = [None, None, None]
    for value in values:
        index = (0 if value.ndim else 1) if is_array(value) else 2
        own = torch_dtype(value.dtype) if is_array(value) else _scalar_type(value)
        held = groups[index]
        groups[index] = own if held is None else torch.promote_types(held, own)
    result: torch.dtype | None = None
    for lower in groups:
        if lower is None:
            continue
        if result is None:
            result = lower
        elif _category(lower) > _category(result):
            # c64 for a complex number met by f64 is c128, as promote_types has it
            result = torch.promote_types(result, lower) if _category(lower) == 3 else lower
    assert result is not None
    return result


def cast(value: Any, element: torch.dtype) -> Any:
    """`value` as a JAX array of exactly this type (never weakly typed)."""
    target = numpy_dtype(element)
    if is_array(value):
        if value.dtype.kind == "c" and target.kind != "c":
            value = jnp.real(value)
        return lax.convert_element_type(value, target)
    return jnp.asarray(value, target)  # a number, or a symbolic size


def same(*values: Any) -> list[Any]:
    """The operands in their common type."""
    common = result_type(*values)
    return [cast(v, common) for v in values]


def floating(*values: Any) -> list[Any]:
    """The operands in their common type, or in the default float type when that is integral."""
    common = result_type(*values)
    if _category(common) < 2:
        common = torch.get_default_dtype()
    return [cast(v, common) for v in values]


def is_floating(x: Any) -> bool:
    return _category(torch_dtype(x.dtype)) >= 2


def accumulator(element: Any) -> Any:
    """The type to add up in: f32 for 16-bit floats, the type itself otherwise."""
    return jnp.float32 if jnp.dtype(element) in (jnp.float16, jnp.bfloat16) else element


def axis_of(dim: int, ndim: int) -> int:
    """A dimension counted from the front (0-d tensors accept 0 and -1)."""
    return dim % max(ndim, 1)


def axes_of(dims: Any, ndim: int) -> tuple[int, ...]:
    """Dimensions counted from the front; None and () mean all of them, and a 0-d tensor has none,
    whichever are named."""
    if dims is None or not ndim:
        return tuple(range(ndim))
    listed = [dims] if isinstance(dims, int) else list(dims)
    return tuple(sorted(axis_of(d, ndim) for d in listed)) or tuple(range(ndim))
