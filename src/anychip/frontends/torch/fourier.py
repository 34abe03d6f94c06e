"""Fourier transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from anychip.frontends.torch.promote import axes_of
from anychip.frontends.torch.table import Rules

RULES = Rules()


def _scale(x: Any, sizes: Sequence[Any], normalization: int) -> Any:
    """0: none, 1: by 1/√n, 2: by 1/n (torch's fft_norm_mode)."""
    if normalization == 0:
        return x
    count = float(np.prod(sizes))
    return x * jnp.asarray(count**-0.5 if normalization == 1 else 1 / count, x.real.dtype)


@RULES("_fft_r2c")
def fft_r2c(x: Any, dim: Sequence[int], normalization: int, onesided: bool) -> Any:
    axes = [d % x.ndim for d in dim]
    sizes = [x.shape[a] for a in axes]
    out = jnp.fft.rfftn(x, axes=axes) if onesided else jnp.fft.fftn(x, axes=axes)
    return _scale(out, sizes, normalization)


@RULES("_fft_c2r")
def fft_c2r(x: Any, dim: Sequence[int], normalization: int, last_dim_size: int) -> Any:
    axes = [d % x.ndim for d in dim]
    sizes = [*(x.shape[a] for a in axes[:-1]), last_dim_size]
    out = jnp.fft.irfftn(x, s=sizes, axes=axes, norm="forward")
    return _scale(out, sizes, normalization)


@RULES("_fft_c2c")
def fft_c2c(x: Any, dim: Sequence[int], normalization: int, forward: bool) -> Any:
    axes = [d % x.ndim for d in dim]
    sizes = [x.shape[a] for a in axes]
    out = jnp.fft.fftn(x, axes=axes) if forward else jnp.fft.ifftn(x, axes=axes, norm="forward")
    return _scale(out, sizes, normalization)


RULES("fft_fftshift")(lambda x, dim=None: jnp.fft.fftshift(x, axes_of(dim, x.ndim)))
RULES("fft_ifftshift")(lambda x, dim=None: jnp.fft.ifftshift(x, axes_of(dim, x.ndim)))
