"""Padding, cropping, and elements moved between axes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from anychip.core.errors import InputError
from anychip.frontends.onnx.rules.tensor import cut
from anychip.frontends.onnx.table import Call, ints, op, sizes

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@op("Pad", known=(1, 3))
def pad(call: Call, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    if call.version < 11:
        pads = call.attr("pads", call.attr("paddings"))
        value = np.asarray(call.attr("value", 0.0), x.dtype)
    amounts = sizes(pads)
    chosen = list(range(x.ndim)) if axes is None else [a % x.ndim for a in ints(axes)]
    half = len(amounts) // 2
    if half != len(chosen) or len(amounts) % 2:
        raise InputError(f"{len(amounts)} pads for {len(chosen)} axes")
    widths: list[tuple[Any, Any]] = [(0, 0)] * x.ndim
    for axis, low, high in zip(chosen, amounts[:half], amounts[half:], strict=True):
        widths[axis] = (low, high)
    return pad_widths(x, widths, call.attr("mode", "constant"), value)


def pad_widths(x: Any, widths: Any, mode: str, value: Any = None) -> Any:
    """Pad; negative widths crop (crop first, then pad, as onnxruntime does)."""
    if mode not in _PAD_MODES:
        raise InputError(f"Pad has mode {mode!r}")
    for axis, (low, high) in enumerate(widths):
        crop = [-w if isinstance(w, int) and w < 0 else 0 for w in (low, high)]
        if any(crop):
            x = cut(x, axis, crop[0], x.shape[axis] - crop[1])
    positive = [tuple(w if not isinstance(w, int) or w > 0 else 0 for w in pair) for pair in widths]
    if mode != "constant":
        return jnp.pad(x, positive, mode=_PAD_MODES[mode])
    fill = (
        jnp.zeros((), x.dtype) if value is None else jnp.asarray(value).reshape(()).astype(x.dtype)
    )
    return jnp.pad(x, positive, mode="constant", constant_values=fill)


@op("CenterCropPad", known=(1,))
def center_crop_pad(call: Call, x: Any, shape: Any) -> Any:
    wanted = ints(shape)
    axes = call.attr("axes") or list(range(x.ndim))
    for axis, target in zip(axes, wanted, strict=True):
        axis %= x.ndim
        extra = target - x.shape[axis]
        if extra < 0:
            start = -extra // 2
            x = cut(x, axis, start, start + target)
        elif extra > 0:
            widths = [(0, 0)] * x.ndim
            widths[axis] = (extra // 2, extra - extra // 2)
            x = jnp.pad(x, widths)
    return x


@op("DepthToSpace")
def depth_to_space(call: Call, x: Any) -> Any:
    b = call.required("blocksize")
    n, c, h, w = x.shape
    if call.attr("mode", "DCR") == "DCR":
        split = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        split = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return split.reshape(n, c // (b * b), h * b, w * b)


@op("SpaceToDepth")
def space_to_depth(call: Call, x: Any) -> Any:
    b = call.required("blocksize")
    n, c, h, w = x.shape
    split = x.reshape(n, c, h // b, b, w // b, b)
    if call.attr("mode", "DCR") == "CRD":
        split = split.transpose(0, 1, 3, 5, 2, 4)
    else:
        split = split.transpose(0, 3, 5, 1, 2, 4)
    return split.reshape(n, c * b * b, h // b, w // b)


@op("ReverseSequence")
def reverse_sequence(call: Call, x: Any, lengths: Any) -> Any:
    time, batch = call.attr("time_axis", 0), call.attr("batch_axis", 1)
    moved = jnp.moveaxis(x, (batch, time), (0, 1))
    step = jnp.arange(moved.shape[1])[None]
    length = lengths[:, None]
    index = jnp.where(step < length, length - 1 - step, step)
    index = index.reshape(index.shape + (1,) * (moved.ndim - 2))
    return jnp.moveaxis(jnp.take_along_axis(moved, index, axis=1), (0, 1), (batch, time))
