"""Pooling: largest and average over windows, fixed or adapted to an output size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.core.errors import UnsupportedError
from anychip.frontends.torch.convolution import per_axis
from anychip.frontends.torch.plain import is_static, lowest
from anychip.frontends.torch.table import Rules

RULES = Rules()


def _right_pads(
    sizes: Sequence[Any],
    window: list[int],
    stride: list[int],
    pad: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> list[Any]:
    """Padding after each axis: `pad`, and more where ceil_mode keeps a last partial window."""
    if not ceil_mode:
        return list(pad)
    out = []
    for size, k, s, p, d in zip(sizes, window, stride, pad, dilation, strict=True):
        reach = d * (k - 1) + 1
        count = -(-(size + 2 * p - reach) // s) + 1
        if (count - 1) * s >= size + p:  # the last window must start inside
            count -= 1
        out.append(max((count - 1) * s + reach - size - p, p))
    return out


def _plan(x: Any, rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool):
    window, pad = per_axis(kernel, rank), per_axis(padding, rank)
    strides = per_axis(stride, rank) if isinstance(stride, int) or stride else window
    dilations = per_axis(dilation, rank)
    sizes = x.shape[x.ndim - rank :]
    lead = x.ndim - rank
    after = _right_pads(sizes, window, strides, pad, dilations, ceil)
    return (
        (1,) * lead + tuple(window),
        (1,) * lead + tuple(strides),
        ((0, 0),) * lead + tuple(zip(pad, after, strict=True)),
        (1,) * lead + tuple(dilations),
    )


def _max_pool(rank: int) -> Any:
    def rule(
        x: Any,
        kernel_size: Any,
        stride: Any = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Any:
        window, strides, pads, dilations = _plan(
            x, rank, kernel_size, stride, padding, dilation, ceil_mode
        )
        return lax.reduce_window(
            x, lowest(x.dtype), lax.max, window, strides, pads, window_dilation=dilations
        )

    return rule


def _max_pool_with_places(rank: int) -> Any:
    def rule(
        x: Any,
        kernel_size: Any,
        stride: Any = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> tuple[Any, Any]:
        """The place is the flat index in the unpadded plane of the first largest element."""
        window, strides, pads, dilations = _plan(
            x, rank, kernel_size, stride, padding, dilation, ceil_mode
        )
        plane = x.shape[x.ndim - rank :]
        flat = lax.iota(jnp.int64, math.prod(plane)).reshape(plane)
        places = jnp.broadcast_to(flat, x.shape)

        def larger(a: Any, b: Any) -> tuple[Any, Any]:
            keep = (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] <= b[1]))
            return lax.select(keep, a[0], b[0]), lax.select(keep, a[1], b[1])

        first = (lowest(x.dtype), jnp.asarray(jnp.iinfo(jnp.int64).max, jnp.int64))
        values, at = lax.reduce_window(
            (x, places), first, larger, window, strides, pads, window_dilation=dilations
        )
        return values, at

    return rule


def _avg_pool(rank: int) -> Any:
    def rule(
        x: Any,
        kernel_size: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        window, strides, pads, _ = _plan(x, rank, kernel_size, stride, padding, 1, ceil_mode)
        total = lax.reduce_window(x, jnp.zeros((), x.dtype), lax.add, window, strides, pads)
        size = math.prod(window)
        padded = any(p != (0, 0) for p in pads)
        if divisor_override or not padded or (count_include_pad and not ceil_mode):
            return total / jnp.asarray(divisor_override or size, x.dtype)
        counts = jnp.ones((), x.dtype)
        for axis in range(x.ndim - rank, x.ndim):
            each = _counts(
                x.shape[axis],
                window[axis],
                strides[axis],
                pads[axis],
                per_axis(padding, rank)[axis - x.ndim + rank] if count_include_pad else 0,
            )
            shape = [1] * x.ndim
            shape[axis] = len(each)
            counts = counts * jnp.asarray(each, x.dtype).reshape(shape)
        return total / counts

    return rule


def _counts(size: Any, window: int, stride: int, pads: tuple[int, int], counted: int) -> np.ndarray:
    """How many places each window covers, padding up to `counted` on either side included."""
    if not isinstance(size, int):
        raise UnsupportedError(
            "average pooling over a symbolic axis with padding that is not counted; give the axis "
            "a fixed size, or set count_include_pad=True and ceil_mode=False"
        )
    starts = np.arange((size + sum(pads) - window) // stride + 1) * stride - pads[0]
    return np.minimum(starts + window, size + counted) - np.maximum(starts, -counted)


def _adaptive(reduce: Any) -> Any:
    def over_axis(x: Any, axis: int, count: Any) -> Any:
        size = x.shape[axis]
        if isinstance(count, int) and count == 1:
            return reduce(x, axis)
        if not is_static((size, count)):
            raise UnsupportedError(
                "adaptive pooling of a symbolic axis to more than one place; fix that axis"
            )
        if size % count == 0:
            shape = (*x.shape[:axis], count, size // count, *x.shape[axis + 1 :])
            return jnp.squeeze(reduce(x.reshape(shape), axis + 1), axis + 1)
        edges = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        return jnp.concatenate(
            [reduce(lax.slice_in_dim(x, a, b, axis=axis), axis) for a, b in edges], axis
        )

    return over_axis


_mean_over = _adaptive(lambda x, axis: jnp.mean(x, axis, keepdims=True, dtype=x.dtype))
_max_over = _adaptive(lambda x, axis: jnp.max(x, axis, keepdims=True))


def _adaptive_avg(rank: int) -> Any:
    def rule(x: Any, output_size: Any) -> Any:
        wanted = per_axis(output_size, rank)
        for i, count in enumerate(wanted):
            x = _mean_over(x, x.ndim - rank + i, count)
        return x

    return rule


def _adaptive_max(rank: int) -> Any:
    def rule(x: Any, output_size: Any) -> tuple[Any, Any]:
        """The largest, and the flat index in the plane where it stands."""
        plane = x.shape[x.ndim - rank :]
        wanted = per_axis(output_size, rank)
        out = x
        for i, count in enumerate(wanted):
            out = _max_over(out, x.ndim - rank + i, count)
        return out, _places_of(x, out, plane, wanted)

    return rule


def _places_of(x: Any, out: Any, plane: tuple[int, ...], wanted: list[int]) -> Any:
    """For each output place, the first element of its window that equals the largest."""
    if not is_static(plane):
        raise UnsupportedError("adaptive max pooling with indices over symbolic axes")
    member = np.ones((*wanted, *plane), bool)
    for axis, (size, count) in enumerate(zip(plane, wanted, strict=True)):
        at, places = np.arange(count)[:, None], np.arange(size)[None]
        inside = (places >= at * size // count) & (places < -(-(at + 1) * size // count))
        shape = [1] * member.ndim
        shape[axis], shape[len(wanted) + axis] = count, size
        member &= inside.reshape(shape)
    lead = x.shape[: x.ndim - len(plane)]
    member = member.reshape(math.prod(wanted), math.prod(plane))
    hit = x.reshape(*lead, 1, -1) == out.reshape(*lead, -1, 1)
    first = lax.argmax(hit & jnp.asarray(member), hit.ndim - 1, jnp.int64)
    return first.reshape(out.shape)


for _rank in (1, 2, 3):
    RULES(f"max_pool{_rank}d")(_max_pool(_rank))
    RULES(f"max_pool{_rank}d_with_indices")(_max_pool_with_places(_rank))
    RULES(f"avg_pool{_rank}d")(_avg_pool(_rank))
    RULES(f"adaptive_avg_pool{_rank}d")(_adaptive_avg(_rank))
    RULES(f"adaptive_max_pool{_rank}d")(_adaptive_max(_rank))


RULES("_adaptive_avg_pool2d")(_adaptive_avg(2))
RULES("_adaptive_avg_pool3d")(_adaptive_avg(3))


def _max_unpool(rank: int) -> Any:
    def rule(x: Any, indices: Any, output_size: Sequence[int], *_stride_padding: Any) -> Any:
        lead = x.shape[: x.ndim - rank]
        flat = jnp.zeros((math.prod(lead), math.prod(output_size)), x.dtype)
        rows = lax.iota(jnp.int64, flat.shape[0])[:, None]
        values = x.reshape(flat.shape[0], -1)
        out = flat.at[rows, indices.reshape(values.shape)].set(values)
        return out.reshape(*lead, *output_size)

    return rule


RULES("max_unpool2d")(_max_unpool(2))
RULES("max_unpool3d")(_max_unpool(3))
