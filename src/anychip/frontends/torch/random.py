"""Random numbers, drawn from a fixed seed: the same at every call, never torch's own sequence.

Rules take a JAX `key` beside torch's arguments. Without a seed these ops are unsupported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import torch

from anychip.frontends.torch.plain import filled, where
from anychip.frontends.torch.table import Rules
from anychip.frontends.torch.tensors import numpy_dtype, torch_dtype

RULES = Rules()


def _float(dtype: torch.dtype | None) -> Any:
    return numpy_dtype(dtype or torch.get_default_dtype())


RULES("rand")(lambda size, *, dtype=None, key: jax.random.uniform(key, size, _float(dtype)))
RULES("randn")(lambda size, *, dtype=None, key: jax.random.normal(key, size, _float(dtype)))
RULES("rand_like")(
    lambda x, *, dtype=None, key: jax.random.uniform(
        key, x.shape, _float(dtype or torch_dtype(x.dtype))
    )
)
RULES("randn_like")(
    lambda x, *, dtype=None, key: jax.random.normal(
        key, x.shape, _float(dtype or torch_dtype(x.dtype))
    )
)


@RULES("randint")
def randint(high: int, size: Sequence[int], *, dtype: Any = None, key: Any) -> Any:
    return randint_low(0, high, size, dtype=dtype, key=key)


@RULES("randint.low")
def randint_low(low: int, high: int, size: Sequence[int], *, dtype: Any = None, key: Any) -> Any:
    drawn = jax.random.randint(key, tuple(size), low, high, jnp.int64)
    return drawn.astype(numpy_dtype(dtype or torch.int64))


@RULES("randint_like")
def randint_like(x: Any, high: int, *, dtype: Any = None, key: Any, **layout: Any) -> Any:
    return randint_like_low(x, 0, high, dtype=dtype, key=key)


@RULES("randint_like.low_dtype")
def randint_like_low(
    x: Any, low: int, high: int, *, dtype: Any = None, key: Any, **layout: Any
) -> Any:
    return randint_low(low, high, x.shape, dtype=dtype or torch_dtype(x.dtype), key=key)


@RULES("randperm")
def randperm(n: int, *, dtype: Any = None, key: Any) -> Any:
    return jax.random.permutation(key, n).astype(numpy_dtype(dtype or torch.int64))


RULES("uniform")(
    lambda x, from_=0.0, to=1.0, *, key, **named: jax.random.uniform(
        key, x.shape, x.dtype, named.get("from", from_), to
    )
)
RULES("normal_functional")(
    lambda x, mean=0.0, std=1.0, *, key: mean + std * jax.random.normal(key, x.shape, x.dtype)
)
RULES("exponential")(
    lambda x, lambd=1.0, *, key: jax.random.exponential(key, x.shape, x.dtype) / lambd
)


@RULES("normal.Tensor_Tensor", "normal.Tensor_float", "normal.float_Tensor")
def normal(mean: Any, std: Any = 1.0, *, key: Any) -> Any:
    shape = jnp.broadcast_shapes(jnp.shape(mean), jnp.shape(std))
    element = next(v.dtype for v in (mean, std) if hasattr(v, "dtype"))
    return mean + std * jax.random.normal(key, shape, element)


@RULES("bernoulli")
def bernoulli(x: Any, *, key: Any) -> Any:
    return jax.random.bernoulli(key, x, x.shape).astype(x.dtype)


RULES("bernoulli.p")(lambda x, p=0.5, *, key: jax.random.bernoulli(key, p, x.shape).astype(x.dtype))


@RULES("multinomial")
def multinomial(x: Any, num_samples: int, replacement: bool = False, *, key: Any) -> Any:
    """Rows of weights → indices. Without replacement: the largest of log-weight + Gumbel noise."""
    logits = jnp.log(x)
    if replacement:
        shape = (*x.shape[:-1], num_samples)
        drawn = jax.random.categorical(key, logits[..., None, :], -1, shape)
        return drawn.astype(jnp.int64)
    noise = jax.random.gumbel(key, x.shape, x.dtype)
    return jax.lax.top_k(logits + noise, num_samples)[1].astype(jnp.int64)


@RULES("native_dropout")
def native_dropout(x: Any, p: float, train: bool | None, *, key: Any) -> tuple[Any, Any]:
    if not train:
        return x, jnp.ones(x.shape, bool)
    kept = jax.random.bernoulli(key, 1 - p, x.shape)
    return where(kept, x / (1 - p), filled(x, 0)), kept
