"""Sums, means, extremes and norms over axes."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import torch
from jax import lax
from jax.scipy.special import logsumexp as jax_logsumexp

from anychip.frontends.torch.compare import truth
from anychip.frontends.torch.plain import where
from anychip.frontends.torch.promote import accumulator, axes_of, axis_of, cast, floating
from anychip.frontends.torch.table import Rules
from anychip.frontends.torch.tensors import numpy_dtype

RULES = Rules()


def _widened(x: Any, dtype: torch.dtype | None) -> Any:
    """torch adds integers and bools up in i64."""
    if dtype is not None:
        return cast(x, dtype)
    return x.astype(jnp.int64) if x.dtype.kind in "iub" else x


@RULES("sum", "sum.dim_IntList")
def sum_(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    x = _widened(x, dtype)
    return jnp.sum(x, axes_of(dim, x.ndim), dtype=x.dtype, keepdims=keepdim)


@RULES("nansum")
def nansum(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return sum_(where(jnp.isnan(x), jnp.zeros((), x.dtype), x), dim, keepdim, dtype=dtype)


@RULES("mean", "mean.dim")
def mean(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    x = x if dtype is None else cast(x, dtype)
    return jnp.mean(x, axes_of(dim, x.ndim), dtype=x.dtype, keepdims=keepdim)


@RULES("prod", "prod.dim_int")
def prod(x: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    x = _widened(x, dtype)
    return jnp.prod(x, axes_of(dim, x.ndim), dtype=x.dtype, keepdims=keepdim)


@RULES("amax", "max")
def amax(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return jnp.max(x, axes_of(dim, x.ndim), keepdims=keepdim)


@RULES("amin", "min")
def amin(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return jnp.min(x, axes_of(dim, x.ndim), keepdims=keepdim)


RULES("aminmax")(
    lambda x, *, dim=None, keepdim=False: (amin(x, dim, keepdim), amax(x, dim, keepdim))
)


@RULES("max.dim")
def max_dim(x: Any, dim: int, keepdim: bool = False) -> tuple[Any, Any]:
    return amax(x, dim, keepdim), argmax(x, dim, keepdim)


@RULES("min.dim")
def min_dim(x: Any, dim: int, keepdim: bool = False) -> tuple[Any, Any]:
    return amin(x, dim, keepdim), argmin(x, dim, keepdim)


@RULES("argmax")
def argmax(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    return _arg(lax.argmax, x, dim, keepdim)


@RULES("argmin")
def argmin(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    return _arg(lax.argmin, x, dim, keepdim)


def _arg(fn: Any, x: Any, dim: int | None, keepdim: bool) -> Any:
    if not x.ndim:
        return jnp.zeros((), jnp.int64)
    if dim is None:
        flat = fn(x.reshape(-1), 0, jnp.int64)
        return flat.reshape((1,) * x.ndim) if keepdim else flat
    axis = axis_of(dim, x.ndim)
    out = fn(x, axis, jnp.int64)
    return jnp.expand_dims(out, axis) if keepdim else out


@RULES("any", "any.dim", "any.dims")
def any_(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    out = jnp.any(truth(x), axes_of(dim, x.ndim), keepdims=keepdim)
    return out.astype(jnp.uint8) if x.dtype == jnp.uint8 else out


@RULES("all", "all.dim", "all.dims")
def all_(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    out = jnp.all(truth(x), axes_of(dim, x.ndim), keepdims=keepdim)
    return out.astype(jnp.uint8) if x.dtype == jnp.uint8 else out


RULES("_is_all_true")(lambda x: jnp.all(truth(x)))
RULES("_is_any_true")(lambda x: jnp.any(truth(x)))


@RULES("count_nonzero", "count_nonzero.dim_IntList")
def count_nonzero(x: Any, dim: Any = None) -> Any:
    return jnp.sum(truth(x), axes_of(dim, x.ndim), dtype=jnp.int64)


def _moments(x: Any, dim: Any, correction: Any, keepdim: bool) -> tuple[Any, Any]:
    axes = axes_of(dim, x.ndim)
    wide = x.astype(accumulator(x.dtype))
    mean = jnp.mean(wide, axes, keepdims=True)
    spread = wide - mean
    squares = (spread * jnp.conj(spread)).real if x.dtype.kind == "c" else spread * spread
    count = math.prod(x.shape[a] for a in axes) - (1 if correction is None else correction)
    divisor = max(count, 0) if isinstance(count, int | float) else count
    var = jnp.sum(squares, axes, keepdims=keepdim) / jnp.asarray(divisor, squares.dtype)
    return var, mean if keepdim else jnp.squeeze(mean, axes)


@RULES("var.correction")
def var(x: Any, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    return _moments(x, dim, correction, keepdim)[0].astype(_real(x))


@RULES("std.correction")
def std(x: Any, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    return jnp.sqrt(_moments(x, dim, correction, keepdim)[0]).astype(_real(x))


def _real(x: Any) -> Any:
    return jnp.real(x).dtype


RULES("var")(lambda x, unbiased=True: var(x, correction=int(unbiased)))
RULES("std")(lambda x, unbiased=True: std(x, correction=int(unbiased)))
RULES("var.dim")(
    lambda x, dim, unbiased=True, keepdim=False: var(
        x, dim, correction=int(unbiased), keepdim=keepdim
    )
)
RULES("std.dim")(
    lambda x, dim, unbiased=True, keepdim=False: std(
        x, dim, correction=int(unbiased), keepdim=keepdim
    )
)


@RULES("var_mean.correction")
def var_mean(
    x: Any, dim: Any = None, *, correction: Any = None, keepdim: bool = False
) -> tuple[Any, Any]:
    variance, mean = _moments(x, dim, correction, keepdim)
    return variance.astype(_real(x)), mean.astype(x.dtype)


@RULES("std_mean.correction")
def std_mean(
    x: Any, dim: Any = None, *, correction: Any = None, keepdim: bool = False
) -> tuple[Any, Any]:
    variance, mean = _moments(x, dim, correction, keepdim)
    return jnp.sqrt(variance).astype(_real(x)), mean.astype(x.dtype)


@RULES("logsumexp")
def logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    (x,) = floating(x)
    return jax_logsumexp(x, axes_of(dim, x.ndim), keepdims=keepdim)


@RULES("linalg_vector_norm", "norm.ScalarOpt_dim", "norm.Scalar", "norm.ScalarOpt_dim_dtype")
def vector_norm(
    x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    out_type = _real(x) if dtype is None else numpy_dtype(dtype)
    wide = x.astype(accumulator(x.dtype)) if dtype is None else cast(x, dtype)
    size = jnp.abs(wide)
    axes = axes_of(dim, x.ndim)
    order = 2 if ord is None else ord
    if order == math.inf:
        out = jnp.max(size, axes, keepdims=keepdim)
    elif order == -math.inf:
        out = jnp.min(size, axes, keepdims=keepdim)
    elif order == 0:
        out = jnp.sum((size != 0).astype(size.dtype), axes, keepdims=keepdim)
    elif order == 1:
        out = jnp.sum(size, axes, keepdims=keepdim)
    elif order == 2:
        out = jnp.sqrt(jnp.sum(size * size, axes, keepdims=keepdim))
    else:
        out = jnp.sum(size**order, axes, keepdims=keepdim) ** (1 / order)
    return out.astype(out_type)


@RULES("dist")
def dist(x: Any, other: Any, p: Any = 2) -> Any:
    return vector_norm(x - other, p)


@RULES("cdist", "_cdist_forward")
def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: int | None = None) -> Any:
    gap = x1[..., :, None, :] - x2[..., None, :, :]
    return vector_norm(gap, p, -1)


@RULES("_pdist_forward", "pdist")
def pdist(x: Any, p: float = 2.0) -> Any:
    rows, cols = jnp.triu_indices(x.shape[0], 1)
    return vector_norm(x[rows] - x[cols], p, -1)


@RULES("renorm")
def renorm(x: Any, p: Any, dim: int, maxnorm: Any) -> Any:
    axes = [a for a in range(x.ndim) if a != axis_of(dim, x.ndim)]
    norm = vector_norm(x, p, axes, True)
    return x * where(norm > maxnorm, maxnorm / (norm + 1e-7), jnp.ones((), x.dtype))
