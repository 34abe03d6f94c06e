"""Resize and Upsample in all modes, one axis at a time: each output mixes a few input taps.

Formulas: ONNX operator docs, Resize-19; antialiasing widens the filter by 1/scale when shrinking.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np

from anychip.core.errors import InputError, UnsupportedError
from anychip.frontends.onnx.fold import bounded, is_symbolic
from anychip.frontends.onnx.table import Call, ints, op, sizes


@op("Resize", "Upsample", known=(1, 2, 3))
def resize(call: Call, x: Any, *rest: Any) -> Any:
    roi, scales, lengths = _inputs(call, rest)
    axes = call.attr("axes")
    axes = [a % x.ndim for a in axes] if axes else list(range(x.ndim))
    factors, targets = _extent(call, [x.shape[a] for a in axes], scales, lengths)
    if len(factors) != len(axes):
        raise InputError(f"{len(factors)} scales for {len(axes)} axes")
    for i, (axis, factor, target) in enumerate(zip(axes, factors, targets, strict=True)):
        ends = None if roi is None or not roi.size else (roi[i], roi[len(axes) + i])
        x = _axis(call, x, axis, factor, target, ends)
    return x


def _inputs(call: Call, rest: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    if call.node.op == "Upsample" and call.version < 9:
        return None, np.asarray(call.required("scales"), np.float32), None
    if call.node.op == "Upsample" or call.version < 11:
        return None, rest[0], None
    roi, scales, lengths = (*rest, None, None, None)[:3]
    scales = None if scales is None or not np.size(scales) else scales
    if scales is None and lengths is None:
        raise InputError("Resize has neither scales nor sizes")
    return roi, scales, lengths


def _extent(call: Call, have: list[Any], scales: Any, lengths: Any) -> tuple[list[Any], list[Any]]:
    """(scale, output size) of each resized axis."""
    if scales is not None:
        factors = [float(s) for s in scales]
        return factors, [_scaled(n, f) for n, f in zip(have, factors, strict=True)]
    targets = list(sizes(lengths))
    policy = call.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return [_ratio(t, n) for t, n in zip(targets, have, strict=True)], targets
    choose = min if policy == "not_larger" else max
    factor = choose(t / n for t, n in zip(ints(targets), ints(have), strict=True))
    return [factor] * len(have), [math.floor(factor * n + 0.5) for n in ints(have)]


def _scaled(size: Any, factor: float) -> Any:
    if isinstance(size, int):
        return math.floor(np.float32(size) * np.float32(factor))
    exact = Fraction(factor).limit_denominator(1024)
    return size * exact.numerator // exact.denominator


def _ratio(target: Any, size: Any) -> Any:
    if isinstance(target, int) and isinstance(size, int):
        return target / size
    quotient, rest = divmod(target, size)
    if isinstance(quotient, int) and isinstance(rest, int) and rest == 0:
        return float(quotient)
    raise UnsupportedError(
        f"resizes a symbolic size {size} to {target}; fix the sizes with dims={{…}}"
    )


def _axis(call: Call, x: Any, axis: int, factor: float, target: Any, ends: Any) -> Any:
    size = x.shape[axis]
    mode = call.attr("mode", "nearest")
    crop = call.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
    if factor == 1 and not crop and (is_symbolic((size, target)) or size == target):
        return x
    if mode == "nearest" and factor.is_integer() and _repeats(call):
        return _repeat(x, axis, int(factor))
    if is_symbolic((size, target)):
        raise UnsupportedError(
            f"resizes the symbolic size {size} in mode {mode}; fix it with dims={{…}}"
        )
    bounded(target, "an axis")
    places = _coordinates(call, size, target, factor, ends)
    index, weight = _taps(call, mode, places, size, factor)
    out = _mix(x, axis, np.clip(index, 0, size - 1), weight)
    if crop:
        outside = (places < 0) | (places > size - 1)
        shape = [1] * x.ndim
        shape[axis] = -1
        fill = jnp.asarray(call.attr("extrapolation_value", 0.0), x.dtype)
        out = jnp.where(outside.reshape(shape), fill, out)
    return out


def _repeats(call: Call) -> bool:
    """Whether enlarging by a whole factor only repeats each element."""
    how = _transformation(call)
    rounding = call.attr("nearest_mode", "round_prefer_floor")
    if how == "asymmetric":
        return rounding == "floor" or call.node.op == "Upsample" or call.version < 11
    return how in ("half_pixel", "half_pixel_symmetric") and rounding.startswith("round")


def _repeat(x: Any, axis: int, times: int) -> Any:
    shape = list(x.shape)
    wide = jnp.broadcast_to(
        jnp.expand_dims(x, axis + 1), (*shape[: axis + 1], times, *shape[axis + 1 :])
    )
    shape[axis] = shape[axis] * times
    return wide.reshape(shape)


def _transformation(call: Call) -> str:
    if call.node.op == "Upsample" or call.version < 11:
        return "asymmetric"
    return call.attr("coordinate_transformation_mode", "half_pixel")


def _coordinates(call: Call, size: int, target: int, factor: float, ends: Any) -> np.ndarray:
    """Where in the input each output element lies."""
    at = np.arange(target, dtype=np.float64)
    how = _transformation(call)
    wanted = factor * size
    if how == "half_pixel":
        return (at + 0.5) / factor - 0.5
    if how == "half_pixel_symmetric":
        return (size - target / factor) / 2 + (at + 0.5) / factor - 0.5  # exact for halves
    if how == "pytorch_half_pixel":
        return (at + 0.5) / factor - 0.5 if wanted > 1 else np.zeros(target)
    if how == "align_corners":
        return at * (size - 1) / (wanted - 1) if wanted > 1 else np.zeros(target)
    if how == "asymmetric":
        return at / factor
    if how == "tf_half_pixel_for_nn":
        return (at + 0.5) / factor
    if how == "tf_crop_and_resize":
        if ends is None:
            raise InputError("tf_crop_and_resize needs the input roi")
        start, end = float(ends[0]), float(ends[1])
        if wanted > 1:
            return start * (size - 1) + at * (end - start) * (size - 1) / (wanted - 1)
        return np.full(target, 0.5 * (start + end) * (size - 1))
    raise InputError(f"coordinate_transformation_mode {how!r} is unknown")


def _taps(
    call: Call, mode: str, places: np.ndarray, size: int, factor: float
) -> tuple[np.ndarray, np.ndarray]:
    """(index, weight), each [taps, outputs]."""
    if mode == "nearest":
        return _nearest(call, places, factor)[None], np.ones((1, len(places)))
    if mode not in ("linear", "bilinear", "cubic"):
        raise InputError(f"mode {mode!r} is unknown")
    reach = 2 if mode == "cubic" else 1
    shrink = min(factor, 1.0) if call.attr("antialias", 0) else 1.0
    first = math.floor(-reach / shrink) + 1
    base = np.floor(places)
    offsets = np.arange(first, 2 - first)
    distance = np.abs((offsets[:, None] - (places - base)[None]) * shrink)
    if mode == "cubic":
        weight = _cubic(distance, call.attr("cubic_coeff_a", -0.75))
    else:
        weight = np.clip(1 - distance, 0, 1)
    index = (base[None] + offsets[:, None]).astype(np.int64)
    if call.attr("exclude_outside", 0):
        weight = np.where((index >= 0) & (index < size), weight, 0)
    if call.attr("exclude_outside", 0) or call.attr("antialias", 0):
        weight = weight / weight.sum(axis=0, keepdims=True)
    return index, weight


def _nearest(call: Call, places: np.ndarray, factor: float) -> np.ndarray:
    if call.node.op == "Upsample" or call.version < 11:
        rounded = np.floor(places)
    else:
        how = call.attr("nearest_mode", "round_prefer_floor")
        rounding = {
            "round_prefer_floor": lambda v: np.ceil(v - 0.5),
            "round_prefer_ceil": lambda v: np.floor(v + 0.5),
            "floor": np.floor,
            "ceil": np.ceil,
        }
        if how not in rounding:
            raise InputError(f"nearest_mode {how!r} is unknown")
        rounded = rounding[how](places)
    return rounded.astype(np.int64)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (IEEE TASSP 29, 1981)."""
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _mix(x: Any, axis: int, index: np.ndarray, weight: np.ndarray) -> Any:
    if len(index) == 1:
        return jnp.take(x, index[0], axis=axis)
    shape = [1] * x.ndim
    shape[axis] = -1
    wide = x if x.dtype.kind == "f" and x.dtype.itemsize >= 4 else x.astype(np.float32)
    out = 0
    for at, share in zip(index, weight, strict=True):
        if np.any(share):
            out = out + jnp.take(wide, at, axis=axis) * share.reshape(shape).astype(wide.dtype)
    if x.dtype.kind in "iu":
        out = jnp.trunc(out)
    return jnp.asarray(out).astype(x.dtype)
