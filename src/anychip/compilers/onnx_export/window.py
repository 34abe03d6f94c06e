"""reduce_window as MaxPool, AveragePool and CumSum; batch norm as BatchNormalization."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.compilers.onnx_export.reduce import neutral
from anychip.compilers.onnx_export.shape import pad
from anychip.compilers.onnx_export.typed import Arithmetic, apply, computing_type
from anychip.core import UnsupportedError, dtype
from anychip.ops.reducer import monoid
from anychip.ops.view import OpView

_COMBINE = {"stablehlo.add": "Add", "stablehlo.maximum": "Max", "stablehlo.minimum": "Min"}


def _reduce_window(g: Graph, op: OpView, *tensors: Tensor) -> Any:
    if len(tensors) != 2:
        raise UnsupportedError("ONNX pools one operand at a time")
    x, start = tensors
    a, out, rank = op.attributes, op.outputs[0], len(x.shape)
    how = monoid(op.regions[0])
    ones = (1,) * rank
    window = tuple(a["window_dimensions"])
    strides = tuple(a.get("window_strides") or ones)
    dilations = tuple(a.get("window_dilations") or ones)
    given = a.get("padding")
    padding = np.zeros((rank, 2), int) if given is None else np.asarray(given).reshape(-1, 2)
    if any(d != 1 for d in a.get("base_dilations") or ones):
        raise UnsupportedError("ONNX's pools have no dilated input")
    initial = g.arrays.get(start.name)
    if how == "stablehlo.multiply" and x.dtype != "i1":
        running = _running(x, how, window, strides, dilations, padding)
        if running is not None and g.scalar(start.name) == 1:
            return _running_product(g, op, x, *running)
    if how not in _COMBINE:
        raise UnsupportedError("ONNX pools by sum, maximum and minimum only")
    if initial is None or not (initial.reshape(()) == neutral(how, x.dtype)):
        return _from_elsewhere(g, op, x, start, how)
    if x.dtype == "i1":
        raise UnsupportedError("ONNX pools no i1")
    wide = computing_type(x.dtype)
    alike = g.scalar(x.name)
    looks = (window, strides, dilations, tuple(map(tuple, padding.tolist())), x.shape)
    if how == "stablehlo.add" and alike is not None and None not in (*x.shape, *out.shape):
        counted = _counts(x.shape, out.shape, looks) * alike
        made = g.constant(counted, x.dtype)
        if alike == 1:
            g.windows[made] = looks
        return Tensor(made, counted.shape, out.shape, out.dtype)
    name = g.whole(x)
    if (running := _running(x, how, window, strides, dilations, padding)) is not None:
        axis, backwards = running
        name = name if wide == x.dtype else g.cast(name, wide)
        made = g.node("CumSum", [name, g.constant(axis, "i64")], reverse=int(backwards))
        return made if wide == out.dtype else g.cast(made, out.dtype)
    if dtype(wide).kind != "float":
        wide = "f64"  # exact up to 2^53
        if x.dtype in ("i64", "ui64"):
            raise UnsupportedError("runtimes pool no 64-bit integers")
        if how != "stablehlo.add" and (padding > 0).any():
            raise UnsupportedError("runtimes pool no padded integers")
    name = name if wide == x.dtype else g.cast(name, wide)
    moving = [d for d in range(rank) if (window[d], strides[d]) != (1, 1) or padding[d].any()]
    moving = moving or [rank - 1]
    still = [d for d in range(rank) if d not in moving]
    order = [*still, *moving]
    name = g.transpose(name, order)
    sizes = [x.shape[d] for d in order]
    leads = len(still)
    if leads != 2:
        head = sizes[:leads]
        merged = None if None in head else math.prod(d or 0 for d in head)
        name = g.reshape(name, [merged, 1, *sizes[leads:]])
    if how == "stablehlo.minimum":
        name = g.node("Neg", [name])
    pads = padding[moving]
    k = [window[d] for d in moving]
    span = [(window[d] - 1) * dilations[d] + 1 for d in moving]
    is_sum = how == "stablehlo.add"
    if (pads < 0).any() or any(p >= s for p, s in zip(pads.max(1), span, strict=True)):
        # MaxPool's padding must be less than the window.
        fill = g.constant(0 if is_sum else -np.inf, wide)
        name = pad(g, name, [0, 0, *pads[:, 0]], [0, 0, *pads[:, 1]], fill)
        pads = np.zeros_like(pads)
    shared = {
        "kernel_shape": k,
        "strides": [strides[d] for d in moving],
        "pads": [*map(int, pads[:, 0]), *map(int, pads[:, 1])],
        "dilations": [dilations[d] for d in moving],
    }
    if is_sum:
        count = math.prod(k)
        averaged = g.node("AveragePool", [name], count_include_pad=1, **shared)
        name = g.node("Mul", [averaged, g.constant(count, wide)])
    else:
        name = g.node("MaxPool", [name], **shared)
    summed = name
    if how == "stablehlo.minimum":
        name = g.node("Neg", [name])
    if leads != 2:
        name = g.reshape(name, [out.shape[d] for d in order])
    name = g.transpose(name, [order.index(d) for d in range(rank)])
    if is_sum and name == summed:
        g.counts[name] = math.prod(k)
        g.windows[name] = looks
    return name if wide == out.dtype else g.cast(name, out.dtype)


def _running_product(g: Graph, op: OpView, x: Tensor, axis: int, backwards: bool) -> str:
    """Products of 2, 4, 8, … neighbours (Hillis and Steele 1986): few steps, no loop."""
    wide, size = computing_type(x.dtype), x.shape[axis] or 0
    name = g.whole(x)
    name = name if x.dtype == wide else g.cast(name, wide)
    one, none = g.constant(1, wide), [0] * len(x.shape)
    reach = 1
    while reach < size:
        beside = [reach if d == axis else 0 for d in range(len(x.shape))]
        if backwards:
            kept = g.slice(name, [reach], [size], [axis], [1])
            moved = pad(g, kept, none, beside, one)
        else:
            kept = g.slice(name, [0], [size - reach], [axis], [1])
            moved = pad(g, kept, beside, none, one)
        name = g.node("Mul", [name, moved])
        reach *= 2
    return name if wide == op.outputs[0].dtype else g.cast(name, op.outputs[0].dtype)


def _from_elsewhere(g: Graph, op: OpView, x: Tensor, start: Tensor, how: str) -> Tensor:
    """A window that begins at another value than the neutral one, which then takes part once."""
    least = np.asarray(neutral(how, x.dtype)).astype(dtype(x.dtype).numpy)
    made = _reduce_window(g, op, x, Tensor(g.constant(least), (), (), x.dtype))
    out = op.outputs[0]
    pooled = made if isinstance(made, Tensor) else Tensor(made, out.shape, out.shape, out.dtype)
    return apply(g, op, [start, pooled], lambda g, n, _: g.node(_COMBINE[how], n))


def _counts(shape: Any, out: Any, looks: Any) -> np.ndarray:
    """How many elements each place of the result adds; 1 along axes where that is always equal."""
    window, strides, dilations, padding, _ = looks
    total = np.ones((1,) * len(shape))
    for d, size in enumerate(shape):
        starts = np.arange(out[d]) * strides[d] - padding[d][0]
        at = starts[:, None] + np.arange(window[d])[None] * dilations[d]
        inside = ((at >= 0) & (at < size)).sum(1)
        inside = inside[:1] if inside.size and (inside == inside[0]).all() else inside
        total = total * inside.reshape([-1 if i == d else 1 for i in range(len(shape))])
    return total


def _running(
    x: Tensor, how: str, window: Any, strides: Any, dilations: Any, padding: Any
) -> tuple[int, bool] | None:
    """(axis, backwards) of a running sum or product: a window over all that came before."""
    wide = [d for d, size in enumerate(window) if size != 1]
    is_running = how in ("stablehlo.add", "stablehlo.multiply")
    if not is_running or len(wide) != 1 or set(strides) | set(dilations) != {1}:
        return None
    (axis,) = wide
    size = x.shape[axis]
    if size is None or window[axis] != size or np.delete(padding, axis, 0).any():
        return None
    edge = tuple(map(int, padding[axis]))
    if edge == (size - 1, 0):
        return axis, False
    return (axis, True) if edge == (0, size - 1) else None


def _batch_norm(g: Graph, op: OpView, x: Tensor, *given: Tensor) -> Any:
    """ONNX's puts the channels second."""
    feature, rank = op.attributes["feature_index"], len(x.shape)
    wide = computing_type(x.dtype)
    names = [g.whole(t) if t.dtype == wide else g.cast(g.whole(t), wide) for t in (x, *given)]
    order = [d for d in range(rank) if d != feature]
    order.insert(min(1, rank - 1), feature)
    if rank == 1:
        raise UnsupportedError("ONNX's BatchNormalization needs a batch dimension")
    image = g.transpose(names[0], order)
    made = g.node(
        "BatchNormalization", [image, *names[1:]], epsilon=float(op.attributes["epsilon"])
    )
    made = g.transpose(made, [order.index(d) for d in range(rank)])
    return made if wide == op.outputs[0].dtype else g.cast(made, op.outputs[0].dtype)


def _batch_norm_training(g: Graph, op: OpView, x: Tensor, scale: Tensor, offset: Tensor) -> Any:
    """Mean and (biased) variance of the batch itself, and what they make of it."""
    feature, rank = op.attributes["feature_index"], len(x.shape)
    wide = computing_type(x.dtype)
    names = [
        g.whole(t) if t.dtype == wide else g.cast(g.whole(t), wide) for t in (x, scale, offset)
    ]
    axes = g.ints(*(d for d in range(rank) if d != feature))
    line = [-1 if d == feature else 1 for d in range(rank)]
    a = Arithmetic(g, wide)
    mean = g.node("ReduceMean", [names[0], axes], keepdims=1)
    centred = a.Sub(names[0], mean)
    variance = g.node("ReduceMean", [a.Mul(centred, centred), axes], keepdims=1)
    normed = a.Div(centred, a.Sqrt(a.Add(variance, float(op.attributes["epsilon"]))))
    factor, shift = (g.node("Reshape", [n, g.ints(*line)]) for n in names[1:])
    made = [a.Add(a.Mul(normed, factor), shift)]
    made += [g.node("Reshape", [n, g.ints(-1)]) for n in (mean, variance)]
    out = op.outputs[0].dtype
    return made if wide == out else [g.cast(n, out) for n in made]


RULES = {
    "stablehlo.batch_norm_training": _batch_norm_training,
    "stablehlo.reduce_window": _reduce_window,
    "stablehlo.batch_norm_inference": _batch_norm,
}
