"""Convolution and pooling, with every padding rule of the standard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.core.errors import InputError
from anychip.frontends.onnx.fold import at_least, bounded, is_symbolic
from anychip.frontends.onnx.rules.cast import clamp
from anychip.frontends.onnx.rules.layout import pad_widths
from anychip.frontends.onnx.table import Call, ints, op


def window(call: Call, spatial: Sequence[Any], kernel: Sequence[int]) -> tuple[Any, Any, Any]:
    """(strides, dilations, pads as pairs) of a convolution or pooling node."""
    rank = len(spatial)
    strides = call.attr("strides") or [1] * rank
    dilations = call.attr("dilations") or [1] * rank
    given = call.attr("pads") or [0] * (2 * rank)
    if not len(strides) == len(dilations) == len(kernel) == rank or len(given) != 2 * rank:
        raise InputError(f"{call.node.op} attributes do not have {rank} spatial axes")
    if min(strides) < 1 or min(dilations) < 1:
        raise InputError(f"strides {strides} and dilations {dilations} must be positive")
    mode = call.attr("auto_pad", "NOTSET")
    if mode == "VALID":
        return strides, dilations, [(0, 0)] * rank
    if mode in ("NOTSET", ""):
        return strides, dilations, list(zip(given[:rank], given[rank:], strict=True))
    pads = []
    for size, k, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        out = -(-size // stride)
        total = at_least((out - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return strides, dilations, pads


def convolve(call: Call, x: Any, w: Any, accumulate: Any = None) -> Any:
    """The Conv of a node without its bias, in NC… layout."""
    if x.ndim < 3 or w.ndim != x.ndim:
        raise InputError(f"convolves rank {x.ndim} with a kernel of rank {w.ndim}")
    strides, dilations, pads = window(call, x.shape[2:], w.shape[2:])
    letters = _SPATIAL[: x.ndim - 2]
    return lax.conv_general_dilated(
        x,
        w,
        strides,
        pads,
        rhs_dilation=dilations,
        dimension_numbers=(f"NC{letters}", f"OI{letters}", f"NC{letters}"),
        feature_group_count=call.attr("group", 1),
        preferred_element_type=accumulate,
    )


_SPATIAL = "abcdefghijk"
"""Names for lax of the spatial axes."""


def per_channel(value: Any, rank: int) -> Any:
    """A vector over channels, shaped to broadcast with NC… of this rank."""
    return value.reshape((1, -1) + (1,) * (rank - 2))


@op("Conv")
def conv(call: Call, x: Any, w: Any, b: Any = None) -> Any:
    out = convolve(call, x, w)
    return out if b is None else out + per_channel(b, out.ndim)


@op("ConvTranspose")
def conv_transpose(call: Call, x: Any, w: Any, b: Any = None) -> Any:
    rank = x.ndim - 2
    kernel = w.shape[2:]
    strides = call.attr("strides") or [1] * rank
    dilations = call.attr("dilations") or [1] * rank
    extra = call.attr("output_padding") or [0] * rank
    if not len(strides) == len(dilations) == len(extra) == len(kernel) == rank:
        raise InputError(f"ConvTranspose attributes do not have {rank} spatial axes")
    pads = _transposed_pads(call, x.shape[2:], kernel, strides, dilations, extra)
    group = call.attr("group", 1)
    channels, per_group = w.shape[:2]
    flipped = jnp.flip(w, axis=tuple(range(2, w.ndim)))
    flipped = flipped.reshape((group, channels // group, per_group, *kernel)).swapaxes(1, 2)
    letters = _SPATIAL[:rank]
    out = lax.conv_general_dilated(
        x,
        flipped.reshape((group * per_group, channels // group, *kernel)),
        [1] * rank,
        [
            ((k - 1) * d - low, (k - 1) * d - high + e)
            for k, d, (low, high), e in zip(kernel, dilations, pads, extra, strict=True)
        ],
        lhs_dilation=strides,
        rhs_dilation=dilations,
        dimension_numbers=(f"NC{letters}", f"OI{letters}", f"NC{letters}"),
        feature_group_count=group,
    )
    return out if b is None else out + per_channel(b, out.ndim)


def _transposed_pads(
    call: Call,
    spatial: Sequence[Any],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    extra: Sequence[int],
) -> list[tuple[Any, Any]]:
    """Pads of a ConvTranspose, from an output shape when one is asked for (operator docs)."""
    rank = len(spatial)
    mode = call.attr("auto_pad", "NOTSET")
    wanted = call.attr("output_shape")
    if not wanted and mode in ("NOTSET", "VALID", ""):
        given = call.attr("pads") if mode != "VALID" else None
        given = given or [0] * (2 * rank)
        return list(zip(given[:rank], given[rank:], strict=True))
    if not wanted:
        wanted = [n * s for n, s in zip(spatial, strides, strict=True)]
    pads = []
    for i, target in enumerate(wanted[-rank:]):
        full = strides[i] * (spatial[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1
        total = full - target  # negative: zeros are added at the end
        if isinstance(total, int) and total < 0:
            pads.append((0, total))
            continue
        small, large = total // 2, total - total // 2
        pads.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return pads


def _pool_pads(call: Call, x: Any, kernel: Sequence[int]) -> tuple[Any, Any, Any, Any]:
    """(strides, dilations, pads, further padding at the end that ceil_mode needs)."""
    strides, dilations, pads = window(call, x.shape[2:], kernel)
    beyond = [0] * len(kernel)
    if not call.attr("ceil_mode", 0):
        return strides, dilations, pads, beyond
    for i, (low, high) in enumerate(pads):
        size, reach = x.shape[2 + i], (kernel[i] - 1) * dilations[i] + 1
        out = -(-(size + low + high - reach) // strides[i]) + 1
        if not is_symbolic((size,)) and (out - 1) * strides[i] >= size + low:
            out -= 1  # the last window would start in the padding
        beyond[i] = at_least((out - 1) * strides[i] + reach - size - low - high, 0)
    return strides, dilations, pads, beyond


def _windows(
    x: Any, init: Any, reducer: Any, kernel: Any, strides: Any, dilations: Any, pads: Any
) -> Any:
    return lax.reduce_window(
        x,
        init,
        reducer,
        (1, 1, *kernel),
        (1, 1, *strides),
        ((0, 0), (0, 0), *pads),
        window_dilation=(1, 1, *dilations),
    )


def lowest(kind: Any) -> Any:
    """The smallest value of an element type, -inf for floats."""
    return np.array(-np.inf if jnp.issubdtype(kind, jnp.floating) else jnp.iinfo(kind).min, kind)


@op("MaxPool")
def max_pool(call: Call, x: Any) -> Any:
    kernel = call.required("kernel_shape")
    strides, dilations, pads, beyond = _pool_pads(call, x, kernel)
    pads = [(low, high + more) for (low, high), more in zip(pads, beyond, strict=True)]
    shape = (kernel, strides, dilations, pads)
    if not call.wants(1):
        return _windows(x, lowest(x.dtype), lax.max, *shape)
    order = range(x.ndim) if call.attr("storage_order", 0) == 0 else [0, 1, *range(x.ndim)[:1:-1]]
    index = jnp.arange(math.prod(x.shape)).reshape([x.shape[i] for i in order])
    index = index.transpose(np.argsort(np.array(order)))

    def larger(a: Any, b: Any) -> Any:
        take = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
        return jnp.where(take, b[0], a[0]), jnp.where(take, b[1], a[1])

    start = (lowest(x.dtype), np.array(np.iinfo(np.int64).max))
    return tuple(_windows((x, index.astype(np.int64)), start, larger, *shape))


@op("AveragePool")
def average_pool(call: Call, x: Any) -> Any:
    kernel = call.required("kernel_shape")
    strides, dilations, pads, beyond = _pool_pads(call, x, kernel)
    zero = np.zeros((), x.dtype)
    widths = [(0, 0), (0, 0), *pads]
    ones = jnp.ones((1, 1, *x.shape[2:]), x.dtype)
    if call.attr("count_include_pad", 0):
        ones = jnp.pad(ones, widths, constant_values=1)
        x = pad_widths(x, widths, "constant")
        pads = [(0, 0)] * len(pads)
    pads = [(low, high + more) for (low, high), more in zip(pads, beyond, strict=True)]
    shape = (kernel, strides, dilations, pads)
    return _windows(x, zero, lax.add, *shape) / _windows(ones, zero, lax.add, *shape)


@op("LpPool")
def lp_pool(call: Call, x: Any) -> Any:
    kernel = call.required("kernel_shape")
    p = call.attr("p", 2)
    strides, dilations, pads, beyond = _pool_pads(call, x, kernel)
    pads = [(low, high + more) for (low, high), more in zip(pads, beyond, strict=True)]
    powers = jnp.abs(x) ** p
    total = _windows(powers, np.zeros((), x.dtype), lax.add, kernel, strides, dilations, pads)
    return total ** (1.0 / p)


@op("GlobalAveragePool")
def global_average_pool(call: Call, x: Any) -> Any:
    return jnp.mean(x, axis=tuple(range(2, x.ndim)), keepdims=True)


@op("GlobalMaxPool")
def global_max_pool(call: Call, x: Any) -> Any:
    return jnp.max(x, axis=tuple(range(2, x.ndim)), keepdims=True)


@op("GlobalLpPool")
def global_lp_pool(call: Call, x: Any) -> Any:
    p = call.attr("p", 2)
    total = jnp.sum(jnp.abs(x) ** p, axis=tuple(range(2, x.ndim)), keepdims=True)
    return total ** (1.0 / p)


@op("MaxUnpool", known=(2,))
def max_unpool(call: Call, x: Any, index: Any, output_shape: Any = None) -> Any:
    """Values back to the flat places MaxPool took them from."""
    kernel = call.required("kernel_shape")
    strides = call.attr("strides") or [1] * len(kernel)
    pads = call.attr("pads") or [0] * (2 * len(kernel))
    small = list(x.shape[:2]) + [
        (n - 1) * s - low - high + k
        for n, s, low, high, k in zip(
            x.shape[2:], strides, pads[: len(kernel)], pads[len(kernel) :], kernel, strict=True
        )
    ]
    flat = jnp.zeros(math.prod(small), x.dtype).at[index.reshape(-1)].set(x.reshape(-1))
    out = flat.reshape(small)
    if output_shape is None:
        return out
    return jnp.pad(out, [(0, b - a) for a, b in zip(small, ints(output_shape), strict=True)])


@op("Col2Im", known=(1, 2))
def col2im(call: Call, x: Any, image: Any, block: Any) -> Any:
    """Columns back to an image; overlapping blocks add up."""
    size, kernel = ints(image), ints(block)
    rank = len(size)
    strides = call.attr("strides") or [1] * rank
    dilations = call.attr("dilations") or [1] * rank
    pads = call.attr("pads") or [0] * (2 * rank)
    low, high = pads[:rank], pads[rank:]
    n = x.shape[0]
    channels = x.shape[1] // math.prod(kernel)
    padded = [s + a + b for s, a, b in zip(size, low, high, strict=True)]
    counts = [
        (p - d * (k - 1) - 1) // s + 1
        for p, d, k, s in zip(padded, dilations, kernel, strides, strict=True)
    ]
    columns = x.reshape((n, channels, *kernel, *counts))
    at = []
    bounded(math.prod(kernel) * math.prod(counts), "a set of blocks")
    for i in range(rank):
        place = np.arange(kernel[i])[:, None] * dilations[i] + np.arange(counts[i]) * strides[i]
        shape = [1] * (2 * rank)
        shape[i], shape[rank + i] = kernel[i], counts[i]
        at.append(place.reshape(shape))
    out = (
        jnp.zeros((n, channels, *padded), x.dtype).at[(slice(None), slice(None), *at)].add(columns)
    )
    inner = tuple(slice(a, a + s) for a, s in zip(low, size, strict=True))
    return out[(slice(None), slice(None), *inner)]


@op("DeformConv")
def deform_conv(call: Call, x: Any, w: Any, offset: Any, b: Any = None, mask: Any = None) -> Any:
    """Deformable convolution, two spatial axes (arXiv:1811.11168): sample bilinearly, then Conv."""
    if x.ndim != 4:
        raise call.unsupported("deforms a convolution that has not two spatial axes")
    kernel = call.attr("kernel_shape") or list(w.shape[2:])
    strides, dilations, pads = window(call, x.shape[2:], kernel)
    groups = call.attr("offset_group", 1)
    n, c = x.shape[:2]
    kh, kw = kernel
    oh, ow = offset.shape[2:]
    bounded(kh * kw * (oh + ow), "a sampling grid")
    shift = offset.reshape(n, groups, kh, kw, 2, oh, ow)
    grid = [
        np.arange(o)[None, :] * s - low + np.arange(k)[:, None] * d
        for o, s, (low, _), k, d in zip((oh, ow), strides, pads, kernel, dilations, strict=True)
    ]
    rows = shift[:, :, :, :, 0] + grid[0].reshape(kh, 1, oh, 1)
    columns = shift[:, :, :, :, 1] + grid[1].reshape(1, kw, 1, ow)
    image = x.reshape(n, groups, c // groups, *x.shape[2:])
    sampled = jax.vmap(jax.vmap(_bilinear))(image, rows, columns)
    if mask is not None:
        sampled = sampled * mask.reshape(n, groups, 1, kh, kw, oh, ow)
    group = call.attr("group", 1)
    sampled = sampled.reshape(n, group, c // group, kh, kw, oh, ow)
    weight = w.reshape(group, w.shape[0] // group, c // group, kh, kw)
    out = jnp.einsum("ngcijhw,gocij->ngohw", sampled, weight).reshape(n, w.shape[0], oh, ow)
    return out if b is None else out + per_channel(b, 4)


def _bilinear(image: Any, rows: Any, columns: Any) -> Any:
    """Sample image[c, h, w] at fractional places; outside is zero."""
    height, width = image.shape[1:]
    top, left = jnp.floor(rows), jnp.floor(columns)
    out = 0
    for dy in (0, 1):
        for dx in (0, 1):
            y, z = top + dy, left + dx
            weight = (1 - jnp.abs(rows - y)) * (1 - jnp.abs(columns - z))
            inside = (y >= 0) & (y < height) & (z >= 0) & (z < width)
            iy = clamp(y, 0, height - 1).astype(np.int32)
            iz = clamp(z, 0, width - 1).astype(np.int32)
            out = out + jnp.where(inside, image[:, iy, iz] * weight, 0)
    return out
