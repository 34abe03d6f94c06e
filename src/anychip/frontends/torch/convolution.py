"""Convolutions and their transposes, in torch's channels-first layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from anychip.frontends.torch.plain import has_elements
from anychip.frontends.torch.table import Rules

RULES = Rules()


def per_axis(value: Any, rank: int) -> list[Any]:
    """One number an axis from a number or a list of one or `rank`."""
    listed = [value] if isinstance(value, int) else list(value)
    return listed * rank if len(listed) == 1 and rank > 1 else listed


@RULES("convolution", "_convolution")
def convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    *_flags: Any,
) -> Any:
    rank = weight.ndim - 2
    strides, dilations = per_axis(stride, rank), per_axis(dilation, rank)
    pads, extra = per_axis(padding, rank), per_axis(output_padding, rank)
    if transposed:
        window = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        pairs = [(w - p, w - p + e) for w, p, e in zip(window, pads, extra, strict=True)]
        weight = _flipped(weight, groups)
        return _conv(x, weight, bias, [1] * rank, pairs, dilations, groups, strides)
    return _conv(x, weight, bias, strides, [(p, p) for p in pads], dilations, groups, None)


def _flipped(weight: Any, groups: int) -> Any:
    """The transposed convolution's weight [in, out/groups, …] as that of a plain one."""
    inputs, outputs, *window = weight.shape
    grouped = weight.reshape(groups, inputs // groups, outputs, *window)
    swapped = jnp.swapaxes(grouped, 1, 2).reshape(groups * outputs, inputs // groups, *window)
    return lax.rev(swapped, tuple(range(2, weight.ndim)))


def _conv(
    x: Any,
    weight: Any,
    bias: Any,
    strides: Sequence[int],
    pads: Any,
    dilations: Sequence[int],
    groups: int,
    lhs_dilation: Sequence[int] | None,
) -> Any:
    unbatched = x.ndim == weight.ndim - 1
    if unbatched:
        x = x[None]
    spatial = "DHW"[3 - (x.ndim - 2) :]
    layout = (f"NC{spatial}", f"OI{spatial}", f"NC{spatial}")
    out = lax.conv_general_dilated(
        x,
        weight,
        strides,
        pads,
        lhs_dilation=lhs_dilation,
        rhs_dilation=dilations,
        dimension_numbers=layout,
        feature_group_count=groups,
    )
    if bias is not None:
        out = out + bias.reshape(1, -1, *(1,) * len(spatial))
    return out[0] if unbatched else out


@RULES("conv1d", "conv2d", "conv3d")
def conv(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    return convolution(x, weight, bias, stride, padding, dilation, False, 0, groups)


@RULES("conv1d.padding", "conv2d.padding", "conv3d.padding")
def conv_padding(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: str = "valid",
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    rank = weight.ndim - 2
    dilations = per_axis(dilation, rank)
    pads = [(0, 0)] * rank
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        pads = [(t // 2, t - t // 2) for t in totals]
    return _conv(x, weight, bias, per_axis(stride, rank), pads, dilations, groups, None)


@RULES("conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input")
def conv_transpose(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    return convolution(x, weight, bias, stride, padding, dilation, True, output_padding, groups)


@RULES("im2col")
def im2col(x: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    """x[N, C, H, W] → [N, C·kh·kw, places]."""
    unbatched = x.ndim == 3
    x = x[None] if unbatched else x
    if not has_elements(x):
        one = jnp.zeros((1, *x.shape[1:]), x.dtype)
        return im2col(one, kernel_size, dilation, padding, stride)[:0]
    patches = lax.conv_general_dilated_patches(
        x,
        per_axis(kernel_size, 2),
        per_axis(stride, 2),
        [(p, p) for p in per_axis(padding, 2)],
        rhs_dilation=per_axis(dilation, 2),
    )
    out = patches.reshape(*patches.shape[:2], -1)
    return out[0] if unbatched else out


@RULES("col2im")
def col2im(
    x: Any, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> Any:
    """x[N, C·kh·kw, places] → [N, C, H, W], overlapping windows added up."""
    unbatched = x.ndim == 2
    x = x[None] if unbatched else x
    (kh, kw), (ph, pw) = per_axis(kernel_size, 2), per_axis(padding, 2)
    (sh, sw), (dh, dw) = per_axis(stride, 2), per_axis(dilation, 2)
    height, width = output_size[0] + 2 * ph, output_size[1] + 2 * pw
    rows = (height - dh * (kh - 1) - 1) // sh + 1
    cols = (width - dw * (kw - 1) - 1) // sw + 1
    parts = x.reshape(x.shape[0], -1, kh, kw, rows, cols)
    out = jnp.zeros((x.shape[0], parts.shape[1], height, width), x.dtype)
    for i in range(kh):
        for j in range(kw):
            window = (slice(None), slice(None), slice(i * dh, i * dh + sh * (rows - 1) + 1, sh))
            at = (*window, slice(j * dw, j * dw + sw * (cols - 1) + 1, sw))
            out = out.at[at].add(parts[:, :, i, j])
    out = out[:, :, ph : ph + output_size[0], pw : pw + output_size[1]]
    return out[0] if unbatched else out
