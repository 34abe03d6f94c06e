"""Shapes and making of tensors: Shape, Reshape, Transpose, Slice, Concat, Expand, Range…"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np

from anychip.core.errors import InputError, UnsupportedError
from anychip.frontends.onnx.fold import (
    LIMIT,
    Sizes,
    TooLarge,
    at_least,
    at_most,
    from_shape,
    is_sizes,
    is_symbolic,
)
from anychip.frontends.onnx.table import Call, ints, op, sizes
from anychip.frontends.onnx.tensors import element


@op("Shape", raw=True)
def shape(call: Call, x: Any) -> Any:
    dims = x.shape
    return from_shape(dims[call.attr("start", 0) : call.attr("end", len(dims))])


@op("Size", raw=True)
def size(call: Call, x: Any) -> Any:
    return from_shape([math.prod(x.shape)])[0] if not is_symbolic(x.shape) else _scalar(x.shape)


def _scalar(shape: Any) -> Any:
    value = np.empty((), object)
    value[()] = math.prod(shape)
    return Sizes(value)


@op("Identity", raw=True)
def identity(call: Call, x: Any) -> Any:
    return x


@op("Dropout", known=(1, 2))
def dropout(call: Call, x: Any, ratio: Any = None, training: Any = None) -> Any:
    if training is not None and bool(training) and (ratio is None or float(ratio) > 0):
        raise UnsupportedError("drops values at random in training mode; export for inference")
    return x, jnp.ones(x.shape, bool)


@op("Reshape", known=(1,), folds=True)
def reshape(call: Call, x: Any, shape: Any = None) -> Any:
    wanted = list(sizes(call.required("shape") if shape is None else shape))
    for axis, dim in enumerate(wanted):
        if isinstance(dim, int) and dim == 0 and not call.attr("allowzero", 0):
            wanted[axis] = x.shape[axis]
    return x.reshape(tuple(_infer(x.shape, wanted)))


def _infer(have: Any, wanted: list[Any]) -> list[Any]:
    """Put a size in the place of -1; numpy cannot when another size is 0."""
    if not any(isinstance(d, int) and d == -1 for d in wanted):
        return wanted
    axis = next(i for i, d in enumerate(wanted) if isinstance(d, int) and d == -1)
    rest = math.prod(d for i, d in enumerate(wanted) if i != axis)
    total = math.prod(have)
    if isinstance(rest, int) and rest == 0:
        wanted[axis] = 0
    elif isinstance(rest, int) and isinstance(total, int):
        wanted[axis] = total // rest
    return wanted


@op("Flatten", folds=True)
def flatten(call: Call, x: Any) -> Any:
    axis = call.attr("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape((math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@op("Transpose", folds=True)
def transpose(call: Call, x: Any) -> Any:
    return call.xp.transpose(x, call.attr("perm"))


def axes_of(call: Call, axes: Any, rank: int) -> list[int] | None:
    """Axes from an input or (older opsets) the attribute, non-negative; None when not given."""
    given = call.attr("axes") if axes is None else ints(axes)
    if given is None:
        return None
    if any(not -rank <= a < rank for a in given):
        raise InputError(f"axes {given} of a tensor of rank {rank}")
    return [a % rank if rank else a for a in given]


@op("Squeeze", known=(1,), folds=True)
def squeeze(call: Call, x: Any, axes: Any = None) -> Any:
    chosen = axes_of(call, axes, x.ndim)
    if chosen is None:
        chosen = [i for i, d in enumerate(x.shape) if isinstance(d, int) and d == 1]
    if any(isinstance(x.shape[a], int) and x.shape[a] != 1 for a in chosen):
        raise InputError(f"squeezes axes {chosen} of shape {list(x.shape)}")
    return x.reshape([d for i, d in enumerate(x.shape) if i not in chosen])


@op("Unsqueeze", known=(1,), folds=True)
def unsqueeze(call: Call, x: Any, axes: Any = None) -> Any:
    count = len(call.attr("axes", ())) if axes is None else np.size(axes)
    chosen = axes_of(call, axes, x.ndim + count) or []
    return call.xp.expand_dims(x, tuple(chosen))


@op("Concat", folds=True)
def concat(call: Call, *xs: Any) -> Any:
    return call.xp.concatenate(xs, axis=call.attr("axis", 1))


@op("Split", known=(1,), folds=True)
def split(call: Call, x: Any, lengths: Any = None) -> Any:
    axis = call.attr("axis", 0)
    given = call.attr("split") if lengths is None else sizes(lengths)
    parts = call.outputs
    if call.attr("num_outputs", parts) != parts:
        raise InputError(f"num_outputs is not the number of outputs, {parts}")
    if given is None:
        total = x.shape[axis]
        each = -(-total // parts)
        given = [each] * (parts - 1) + [total - each * (parts - 1)]
    starts = [0]
    for length in given:
        starts.append(starts[-1] + length)
    return tuple(cut(x, axis, a, b) for a, b in pairwise(starts))


def cut(x: Any, axis: int, start: Any, end: Any) -> Any:
    """x[start:end] along an axis; bounds may be symbolic."""
    if isinstance(x, np.ndarray) or not is_symbolic((start, end, x.shape[axis])):
        return x[(slice(None),) * (axis % x.ndim) + (slice(start, end),)]
    import jax

    return jax.lax.slice_in_dim(x, start, end, axis=axis % x.ndim)


@op("Slice", known=(1, 2, 3, 4), folds=True)
def slice_(
    call: Call, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None
) -> Any:
    if call.version < 10:
        starts, ends = call.required("starts"), call.required("ends")
        axes = call.attr("axes")
    starts, ends = sizes(starts), sizes(ends)
    chosen = range(len(starts)) if axes is None else [a % x.ndim for a in ints(axes)]
    strides = [1] * len(starts) if steps is None else ints(steps)
    for axis, start, end, stride in zip(chosen, starts, ends, strides, strict=True):
        x = _slice_axis(call, x, axis, start, end, stride)
    return x


def _slice_axis(call: Call, x: Any, axis: int, start: Any, end: Any, stride: int) -> Any:
    length = x.shape[axis]
    if isinstance(length, int) and length == 0:
        return x
    if stride < 0:  # the standard, unlike NumPy, starts at the first element at least
        low, high = _clamp(end, -1, length, -1), _clamp(start, 0, length, -1)
        x = call.xp.flip(cut(x, axis, low + 1, at_least(high + 1, low + 1)), axis)
        stride = -stride
    else:
        low, high = _clamp(start, 0, length, 0), _clamp(end, 0, length, 0)
        x = cut(x, axis, low, at_least(high, low))
    return x if stride == 1 else x[(slice(None),) * axis + (slice(None, None, stride),)]


def _clamp(value: Any, low: int, length: Any, offset: int) -> Any:
    """A slice bound: negative counts from the end, the rest is cut to [low, length + offset]."""
    if value <= -1:
        return at_least(value + length, low)
    if isinstance(value, int) and value >= 10**9:  # exporters' "to the end"; no size is so large
        return length + offset
    return at_most(value, length + offset)


@op("Expand", known=(1,), folds=True)
def expand(call: Call, x: Any, shape: Any) -> Any:
    wanted = sizes(shape)
    rank = max(len(wanted), x.ndim)
    have = (1,) * (rank - x.ndim) + tuple(x.shape)
    wanted = (1,) * (rank - len(wanted)) + wanted
    out = tuple(
        h if _is_one(w) else w if _is_one(h) else h for h, w in zip(have, wanted, strict=True)
    )
    if any(
        isinstance(h, int) and isinstance(w, int) and h != w and 1 not in (h, w)
        for h, w in zip(have, wanted, strict=True)
    ):
        raise InputError(f"expands {list(have)} to {list(wanted)}")
    if call.xp is np:
        check_size(out)
    return call.xp.broadcast_to(x, out)


def _is_one(dim: Any) -> bool:
    return isinstance(dim, int | np.integer) and dim == 1


def check_size(shape: Any) -> None:
    """While folding: refuse to make a large known array."""
    if is_symbolic(shape) or math.prod(shape) > LIMIT:
        raise TooLarge


@op("Tile", known=(1, 2), folds=True)
def tile(call: Call, x: Any, repeats: Any, axis: Any = None) -> Any:
    if axis is not None:  # opset 1: one axis and its count
        times: list[Any] = [1] * x.ndim
        times[int(axis)] = int(repeats)
        repeats = times
    reps = sizes(repeats)
    if call.xp is np:
        check_size([d * r for d, r in zip(x.shape, reps, strict=True)])
    if is_symbolic(reps):
        return _tile_symbolic(x, reps)
    return call.xp.tile(x, reps)


def _tile_symbolic(x: Any, reps: Any) -> Any:
    for axis, times in enumerate(reps):
        shape = list(x.shape)
        wide = jnp.broadcast_to(jnp.expand_dims(x, axis), [*shape[:axis], times, *shape[axis:]])
        shape[axis] = shape[axis] * times
        x = wide.reshape(shape)
    return x


@op("ConstantOfShape", known=(0,), folds=True)
def constant_of_shape(call: Call, shape: Any) -> Any:
    value = np.asarray(call.attr("value", np.zeros(1, np.float32))).reshape(())
    wanted = sizes(shape)
    if call.xp is np:
        check_size(wanted)
    return call.xp.full(wanted, value, value.dtype)


@op("Range", known=(0, 1, 2), folds=True)
def range_(call: Call, start: Any, limit: Any, delta: Any) -> Any:
    start, limit, delta = (np.asarray(v).reshape(()) for v in (start, limit, delta))
    kind = next((v.dtype for v in (start, limit, delta) if v.dtype != object), np.dtype(np.int64))
    if is_sizes(start, limit, delta):
        step = int(delta)
        span = limit.item() - start.item() if step > 0 else start.item() - limit.item()
        count = at_least((span + abs(step) - 1) // abs(step), 0)
        if call.xp is np:
            raise TooLarge
        steps = jnp.arange(count, dtype=kind) * step
        return steps + jnp.asarray(start.item()).astype(kind)
    if delta == 0:
        raise InputError("Range has a step of 0")
    count = max(0, math.ceil((float(limit) - float(start)) / float(delta)))
    if call.xp is np:
        check_size((count,))
    return (start + call.xp.arange(count, dtype=kind) * delta).astype(kind)


@op("EyeLike", eager=True)
def eye_like(call: Call, x: Any) -> Any:
    kind = (
        element(call.attr("dtype"), field=call.node.label).numpy if call.attr("dtype") else x.dtype
    )
    rows = jnp.arange(x.shape[0])[:, None]
    return (jnp.arange(x.shape[1])[None] - rows == call.attr("k", 0)).astype(kind)


@op("Trilu", known=(1,), eager=True)
def trilu(call: Call, x: Any, k: Any = None) -> Any:
    offset = 0 if k is None else int(np.asarray(k).reshape(()))
    rows = jnp.arange(x.shape[-2])[:, None]
    columns = jnp.arange(x.shape[-1])[None]
    keep = columns - rows >= offset if call.attr("upper", 1) else columns - rows <= offset
    return jnp.where(keep, x, jnp.zeros_like(x))


@op("OneHot", known=(1,), eager=True)
def one_hot(call: Call, indices: Any, depth: Any, values: Any) -> Any:
    count = ints(depth)[0]
    axis = call.attr("axis", -1)
    axis = axis + indices.ndim + 1 if axis < 0 else axis
    index = indices.astype(np.int64)
    index = jnp.where(index < 0, index + count, index)
    shape = [1] * (indices.ndim + 1)
    shape[axis] = count
    hot = jnp.expand_dims(index, axis) == jnp.arange(count).reshape(shape)
    return jnp.where(hot, values[1], values[0])
