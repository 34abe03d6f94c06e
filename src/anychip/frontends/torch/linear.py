"""Matrix products: dense, batched, grouped by expert, and general contractions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from anychip.core.errors import UnsupportedError
from anychip.frontends.torch.promote import cast
from anychip.frontends.torch.table import Rules
from anychip.frontends.torch.tensors import numpy_dtype, torch_dtype
from anychip.ops import composites

RULES = Rules()


@RULES("linear")
def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x[..., K], weight[N, K] → [..., N], without a transpose of the weight."""
    out = lax.dot_general(x, weight, (((x.ndim - 1,), (weight.ndim - 1,)), ((), ())))
    return out if bias is None else out + bias


RULES("mm", "matmul", "linalg_matmul", "mv", "dot")(lambda x, other: jnp.matmul(x, other))


@RULES("bmm")
def bmm(x: Any, mat2: Any) -> Any:
    return lax.dot_general(x, mat2, (((2,), (1,)), ((0,), (0,))))


RULES("inner")(lambda x, other: jnp.inner(x, other))
RULES("vdot")(lambda x, other: jnp.vdot(x, other))
RULES("outer", "ger")(lambda x, vec2: x[:, None] * vec2[None, :])


def _scaled_sum(x: Any, product: Any, beta: Any, alpha: Any) -> Any:
    number = lambda v: cast(v, torch_dtype(product.dtype))  # noqa: E731
    if alpha != 1:
        product = product * number(alpha)
    if beta == 0:
        return product
    return product + (x if beta == 1 else x * number(beta))


@RULES("addmm")
def addmm(x: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _scaled_sum(x, jnp.matmul(mat1, mat2), beta, alpha)


RULES("addmv", "baddbmm")(addmm)


@RULES("addbmm")
def addbmm(x: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    products = jnp.matmul(batch1, batch2)
    return _scaled_sum(x, jnp.sum(products, 0, dtype=products.dtype), beta, alpha)


@RULES("addr")
def addr(x: Any, vec1: Any, vec2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _scaled_sum(x, vec1[:, None] * vec2[None, :], beta, alpha)


@RULES("einsum")
def einsum(equation: str, tensors: Sequence[Any], *, path: Any = None) -> Any:
    return jnp.einsum(equation.replace(" ", ""), *tensors)


@RULES("tensordot")
def tensordot(x: Any, other: Any, dims_self: Sequence[int], dims_other: Sequence[int]) -> Any:
    return jnp.tensordot(x, other, (tuple(dims_self), tuple(dims_other)))


@RULES("bilinear")
def bilinear(x1: Any, x2: Any, weight: Any, bias: Any = None) -> Any:
    out = jnp.einsum("...i,oij,...j->...o", x1, weight, x2)
    return out if bias is None else out + bias


RULES("kron")(lambda x, other: jnp.kron(x, other))
RULES("_int_mm")(lambda x, mat2: jnp.matmul(x, mat2, preferred_element_type=jnp.int32))


@RULES("_grouped_mm")
def grouped_mm(x: Any, mat2: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
    """Rows of x[T, K] up to each offset times that group's matrix of mat2[E, K, N].

    The graph does not say how many experts a token takes; each row counts as one token's choice.
    """
    if offs is None:
        out = jnp.matmul(x, mat2)
    elif x.ndim == 2 and mat2.ndim == 3:
        sizes = jnp.diff(offs, prepend=jnp.zeros((1,), offs.dtype)).astype(jnp.int32)
        out = composites.grouped_matmul(x, jnp.swapaxes(mat2, 1, 2), sizes, active=1)
    else:
        raise UnsupportedError(
            f"_grouped_mm of {x.ndim}-d by {mat2.ndim}-d tensors; rows [tokens, in] by experts "
            "[experts, in, out] is supported"
        )
    if bias is not None:
        out = out + bias
    return out if out_dtype is None else out.astype(numpy_dtype(out_dtype))


@RULES("grouped_mm_fallback", space="transformers")
def grouped_mm_fallback(x: Any, weight: Any, offs: Any) -> Any:
    return grouped_mm(x, weight, offs)


@RULES("_scaled_mm")
def scaled_mm(
    x: Any,
    mat2: Any,
    scale_a: Any,
    scale_b: Any,
    bias: Any = None,
    scale_result: Any = None,
    out_dtype: Any = None,
    use_fast_accum: bool = False,
) -> Any:
    """f8 operands with one scale for a tensor, or one for a row of x and a column of mat2."""
    out = jnp.matmul(x, mat2, preferred_element_type=jnp.float32) * scale_a * scale_b
    out = out if bias is None else out + bias
    return out.astype(numpy_dtype(out_dtype) if out_dtype is not None else x.dtype)


@RULES("linalg_cross", "cross")
def cross(x: Any, other: Any, dim: int | None = -1) -> Any:
    axis = -1 if dim is None else dim
    x, other = jnp.broadcast_arrays(x, other)
    return jnp.cross(x, other, axis=axis)


@RULES("chain_matmul", "linalg_multi_dot")
def multi_dot(tensors: Sequence[Any]) -> Any:
    return jnp.linalg.multi_dot(tensors)


@RULES("matrix_power", "linalg_matrix_power")
def matrix_power(x: Any, n: int) -> Any:
    return jnp.linalg.matrix_power(x, n)
