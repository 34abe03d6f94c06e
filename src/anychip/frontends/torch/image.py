"""Resizing: each spatial axis by itself, as a weighted sum of gathered rows."""

# Annotations of torch and transformers are partly missing or wrong:
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.core.errors import UnsupportedError
from anychip.frontends.torch.plain import is_static, take
from anychip.frontends.torch.promote import accumulator
from anychip.frontends.torch.table import Rules

RULES = Rules()

_CUBIC = -0.75  # torch's sharpness for bicubic; with antialias it uses -0.5, as Pillow does


def _ratio(size: int, out: int, align_corners: bool, scale: float | None) -> float:
    if align_corners:
        return (size - 1) / (out - 1) if out > 1 else 0.0
    return 1 / scale if scale is not None and scale > 0 else size / out


def _places(size: int, out: int, align_corners: bool, scale: float | None) -> np.ndarray:
    """Where each output element lies on the input axis, in f32 as torch computes it."""
    ratio = np.float32(_ratio(size, out, align_corners, scale))
    steps = np.arange(out, dtype=np.float32)
    return ratio * steps if align_corners else ratio * (steps + np.float32(0.5)) - np.float32(0.5)


def _linear(x: Any, axis: int, out: int, align_corners: bool, scale: float | None) -> Any:
    size = x.shape[axis]
    at = np.maximum(_places(size, out, align_corners, scale), 0)
    low = np.minimum(np.floor(at).astype(np.int32), size - 1)
    high = np.minimum(low + 1, size - 1)
    share = np.clip(at - low, 0, 1)
    return _weighted(x, axis, [low, high], [1 - share, share])


def _cubic(x: Any, axis: int, out: int, align_corners: bool, scale: float | None) -> Any:
    size = x.shape[axis]
    at = _places(size, out, align_corners, scale)
    base = np.floor(at)
    share = (at - base).astype(np.float64)
    rows = [np.clip(base.astype(np.int32) + i, 0, size - 1) for i in (-1, 0, 1, 2)]
    weights = [_cubic_weight(np.abs(share - i), _CUBIC) for i in (-1, 0, 1, 2)]
    return _weighted(x, axis, rows, weights)


def _cubic_weight(d: np.ndarray, a: float) -> np.ndarray:
    """Keys, Cubic convolution interpolation, 1981."""
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _weighted(x: Any, axis: int, rows: list[np.ndarray], weights: list[np.ndarray]) -> Any:
    shape = [1] * x.ndim
    shape[axis] = len(rows[0])
    wide = x.astype(accumulator(x.dtype))
    total = None
    for row, weight in zip(rows, weights, strict=True):
        term = take(wide, jnp.asarray(row), axis) * jnp.asarray(weight, wide.dtype).reshape(shape)
        total = term if total is None else total + term
    assert total is not None
    return total.astype(x.dtype)


def _antialiased(kernel: Callable[[np.ndarray], np.ndarray], support: float) -> Any:
    def resize(x: Any, axis: int, out: int, align_corners: bool, scale: float | None) -> Any:
        """Each output is a kernel-weighted mean over all inputs it covers: one dense product."""
        size = x.shape[axis]
        ratio = _ratio(size, out, align_corners, scale)
        width = max(ratio, 1.0)
        centre = ratio * (np.arange(out) + 0.5)
        weights = np.zeros((out, size))
        for i, c in enumerate(centre):
            first = max(int(c - support * width + 0.5), 0)
            last = min(int(c + support * width + 0.5), size)
            taps = kernel(np.abs((np.arange(first, last) - c + 0.5) / width))
            weights[i, first:last] = taps / taps.sum()
        wide = x.astype(accumulator(x.dtype))
        moved = jnp.moveaxis(wide, axis, -1) @ jnp.asarray(weights.T, wide.dtype)
        return jnp.moveaxis(moved, -1, axis).astype(x.dtype)

    return resize


_linear_antialiased = _antialiased(lambda d: np.maximum(1 - d, 0), 1.0)
_cubic_antialiased = _antialiased(lambda d: _cubic_weight(d, -0.5), 2.0)


def _nearest(offset: float) -> Any:
    def resize(x: Any, axis: int, out: int, align_corners: bool, scale: float | None) -> Any:
        size = x.shape[axis]
        if size == out:
            return x
        if out % size == 0 and scale is None:
            wide = jnp.broadcast_to(
                jnp.expand_dims(x, axis + 1),
                (*x.shape[: axis + 1], out // size, *x.shape[axis + 1 :]),
            )
            return wide.reshape(*x.shape[:axis], out, *x.shape[axis + 1 :])
        ratio = np.float32(_ratio(size, out, False, scale))
        at = np.floor((np.arange(out, dtype=np.float32) + np.float32(offset)) * ratio)
        return take(x, jnp.asarray(np.clip(at, 0, size - 1).astype(np.int32)), axis)

    return resize


def _resized(
    x: Any,
    size: Sequence[Any],
    align_corners: bool,
    scales: Sequence[float | None],
    along: Callable[..., Any],
) -> Any:
    rank = len(size)
    if not is_static((*x.shape[x.ndim - rank :], *size)):
        raise UnsupportedError(
            "resizing a symbolic axis; fix the spatial sizes and keep only the batch symbolic"
        )
    for i, (out, scale) in enumerate(zip(size, scales, strict=True)):
        x = along(x, x.ndim - rank + i, out, align_corners, scale)
    return x


def _register(name: str, rank: int, along: Callable[..., Any], *, has_align: bool) -> None:
    def vec(x: Any, output_size: Any, *rest: Any) -> Any:
        align = rest[0] if has_align else False
        factors = rest[-1] if len(rest) > has_align else None
        spatial = x.shape[x.ndim - rank :]
        if output_size is not None:
            return _resized(x, output_size, align, [None] * rank, along)
        out = [math.floor(d * f) for d, f in zip(spatial, factors, strict=True)]
        return _resized(x, out, align, factors, along)

    def default(x: Any, output_size: Sequence[int], *rest: Any) -> Any:
        align = rest[0] if has_align else False
        scales = [*rest[has_align:], *[None] * rank][:rank]
        return _resized(x, output_size, align, scales, along)

    RULES(f"{name}.vec")(vec)
    RULES(name)(default)


for _rank, _axes in ((1, "1d"), (2, "2d"), (3, "3d")):
    _register(f"upsample_nearest{_axes}", _rank, _nearest(0.0), has_align=False)
    _register(f"_upsample_nearest_exact{_axes}", _rank, _nearest(0.5), has_align=False)
_register("upsample_linear1d", 1, _linear, has_align=True)
_register("upsample_bilinear2d", 2, _linear, has_align=True)
_register("upsample_trilinear3d", 3, _linear, has_align=True)
_register("upsample_bicubic2d", 2, _cubic, has_align=True)
_register("_upsample_bilinear2d_aa", 2, _linear_antialiased, has_align=True)
_register("_upsample_bicubic2d_aa", 2, _cubic_antialiased, has_align=True)


@RULES("grid_sampler_3d")
def grid_sampler_3d(
    x: Any, grid: Any, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Any:
    """Trilinear (0) or nearest (1) sampling of x[N,C,D,H,W] at grid[N,d,h,w,(x,y,z)] in [-1, 1]."""
    if padding_mode == 2:
        raise UnsupportedError("3-d grid_sample with reflection padding; use zeros or border")
    sizes = x.shape[2:]
    at = []
    for axis, size in enumerate(sizes):
        g = grid[..., 2 - axis]
        place = (g + 1) / 2 * (size - 1) if align_corners else ((g + 1) * size - 1) / 2
        at.append(jnp.clip(place, 0, size - 1) if padding_mode == 1 else place)
    if interpolation_mode == 1:
        whole = [lax.round(p, lax.RoundingMethod.TO_NEAREST_EVEN) for p in at]
        return _sampled(x, whole, jnp.ones_like(at[0]))
    total = None
    for corner in range(8):
        bits = [(corner >> i) & 1 for i in range(3)]
        base = [jnp.floor(p) + b for p, b in zip(at, bits, strict=True)]
        share = math.prod(1 - jnp.abs(p - b) for p, b in zip(at, base, strict=True))
        term = _sampled(x, base, share)
        total = term if total is None else total + term
    return total


def _sampled(x: Any, places: list[Any], weight: Any) -> Any:
    inside = jnp.ones(weight.shape, bool)
    index = []
    for place, size in zip(places, x.shape[2:], strict=True):
        inside &= (place >= 0) & (place <= size - 1)
        index.append(jnp.clip(place, 0, size - 1).astype(jnp.int32))
    batch = lax.iota(jnp.int32, x.shape[0]).reshape(-1, *(1,) * (weight.ndim - 1))
    picked = jnp.moveaxis(x[batch, :, index[0], index[1], index[2]], -1, 1)
    return picked * (weight * inside)[:, None]
