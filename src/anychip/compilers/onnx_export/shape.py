"""Ops that move elements: reshape, transpose, broadcast, slice, pad, concatenate, iota."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anychip.compilers.onnx_export.graph import Graph, Shape, Tensor
from anychip.core import dtype
from anychip.ops.view import OpView


def _tensor(g: Graph, op: OpView, name: str) -> Tensor:
    spec = op.outputs[0]
    return Tensor(name, spec.shape, spec.shape, spec.dtype)


def _reshape(g: Graph, op: OpView, x: Tensor) -> Tensor:
    spec = op.outputs[0]
    if x.shape == spec.shape and None not in x.shape:
        return x
    if repeated := _repeated(g, x, spec.shape):
        return _tensor(g, op, repeated)
    if x.is_pending and math.prod(d or 0 for d in x.held) == 1:
        ones = (1,) * len(spec.shape)
        name = x.name if len(x.held) == len(ones) else g.reshape(x.name, ones)
        return Tensor(name, ones, spec.shape, spec.dtype)
    name = g.whole(x)
    made = g.producer.get(name)
    if made is not None and made.op_type.startswith("Reduce") and not _keeps(made):
        if g.kept_shape.get(name) == spec.shape:
            kept = g.node(made.op_type, list(made.input), keepdims=1)
            if name in g.counts:
                g.counts[kept] = g.counts[name]
            return _tensor(g, op, kept)
    return _tensor(g, op, g.reshape(name, spec.shape))


def _repeated(g: Graph, x: Tensor, shape: Any) -> str:
    """Nearest-neighbour enlarging, written as a broadcast along a new axis that is merged at once.

    "" when it is something else. Only images: runtimes are made for two or three spatial axes.
    """
    grown = [d for d, (held, full) in enumerate(zip(x.held, x.shape, strict=True)) if held != full]
    if len(grown) != 1 or None in (*x.held, *x.shape, *shape) or x.dtype != "f32" or x.target:
        return ""
    (d,) = grown
    times = x.shape[d]
    merged = (*x.shape[: d - 1], (x.shape[d - 1] or 0) * (times or 0), *x.shape[d + 1 :])
    without = (*x.held[:d], *x.held[d + 1 :])
    if d < 3 or len(without) not in (4, 5) or tuple(shape) != merged:
        return ""
    return enlarge(g, g.reshape(x.name, without), without, d - 1, times)


def enlarge(g: Graph, name: str, sizes: Shape, axis: int, times: Any) -> str:
    """Repeat each element so often along an axis, as Resize; joins the one before it."""
    scales = np.ones(len(sizes), np.float32)
    scales[axis] = times
    made = g.producer.get(name)
    if made is not None and made.op_type == "Resize":
        name, scales = made.input[0], scales * g.arrays[made.input[2]]
    out = g.node(
        "Resize",
        [name, "", g.constant(scales)],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    g.sizes[out] = tuple(s if i != axis else (s or 0) * times for i, s in enumerate(sizes))
    return out


def _keeps(made: Any) -> bool:
    return any(a.name == "keepdims" and a.i for a in made.attribute)


def _dynamic_reshape(g: Graph, op: OpView, x: Tensor, sizes: Tensor) -> Tensor:
    return _tensor(g, op, g.node("Reshape", [g.whole(x), _sizes(g, sizes)], allowzero=1))


def _sizes(g: Graph, sizes: Tensor) -> str:
    name = g.whole(sizes)
    return name if sizes.dtype == "i64" else g.cast(name, "i64")


def _transpose(g: Graph, op: OpView, x: Tensor) -> Tensor:
    order = op.attributes["permutation"]
    held = tuple(x.held[d] for d in order)
    if math.prod(d or 0 for d in x.held) == 1:
        return Tensor(x.name, x.held, op.outputs[0].shape, x.dtype)
    if x.target:
        return _tensor(g, op, g.transpose(g.whole(x), order))
    return Tensor(g.transpose(x.name, order), held, op.outputs[0].shape, x.dtype)


def _broadcast_in_dim(g: Graph, op: OpView, x: Tensor) -> Tensor:
    return _spread(g, x, op.attributes["broadcast_dimensions"], op.outputs[0].shape)


def _spread(g: Graph, x: Tensor, dims: tuple[int, ...], shape: Any, target: str = "") -> Tensor:
    """Give `x` the rank of the result; sizes that are 1 broadcast by themselves later."""
    held: list[int | None] = [1] * len(shape)
    for at, size in zip(dims, x.held, strict=True):
        held[at] = size
    name = x.name
    if tuple(held) != x.held:
        made = g.producer.get(name)
        is_kept = (
            made is not None
            and made.op_type in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
            and not _keeps(made)
            and g.kept_shape.get(name) == tuple(held)
        )
        if made is not None and is_kept:
            kept = g.node(made.op_type, list(made.input), keepdims=1)
            if name in g.counts:
                g.counts[kept] = g.counts[name]
            name = kept
        else:
            if list(dims) != sorted(dims):
                order = sorted(range(len(dims)), key=lambda i: dims[i])
                name = g.transpose(name, order)
            if sum(d is None for d in held) > 1:
                new = [i for i in range(len(shape)) if i not in dims]
                name = g.node("Unsqueeze", [name, g.ints(*new)])
            else:
                name = g.reshape(name, held)
    elif list(dims) != sorted(dims):
        name = g.transpose(name, sorted(range(len(dims)), key=lambda i: dims[i]))
    return Tensor(name, tuple(held), tuple(shape), x.dtype, target)


def _dynamic_broadcast(g: Graph, op: OpView, x: Tensor, sizes: Tensor) -> Tensor:
    shape = op.outputs[0].shape
    made = _spread(g, x, op.attributes["broadcast_dimensions"], shape, _sizes(g, sizes))
    # A size known only when running may have to grow, which only Expand can tell.
    return _tensor(g, op, g.node("Expand", [made.name, made.target]))


def _broadcast(g: Graph, op: OpView, x: Tensor) -> Tensor:
    added = len(op.outputs[0].shape) - len(x.shape)
    return _spread(g, x, tuple(range(added, added + len(x.shape))), op.outputs[0].shape)


def _concatenate(g: Graph, op: OpView, *tensors: Tensor) -> Tensor:
    parts = [t for t in tensors if 0 not in t.shape] or [tensors[0]]
    names = [g.whole(t) for t in parts]
    if len(names) == 1:
        return _tensor(g, op, names[0])
    return _tensor(g, op, g.node("Concat", names, axis=op.attributes["dimension"]))


def _slice(g: Graph, op: OpView, x: Tensor) -> Tensor:
    starts, ends = op.attributes["start_indices"], op.attributes["limit_indices"]
    steps = op.attributes["strides"]
    cut = [
        d for d, size in enumerate(x.shape) if (starts[d], steps[d]) != (0, 1) or ends[d] != size
    ]
    if not cut:
        return x
    if all(x.held[d] == 1 and x.shape[d] != 1 for d in cut) and not x.target:
        return Tensor(x.name, x.held, op.outputs[0].shape, x.dtype)
    pick = lambda values: [values[d] for d in cut]  # noqa: E731
    return _tensor(g, op, g.slice(g.whole(x), pick(starts), pick(ends), cut, pick(steps)))


def _real_dynamic_slice(g: Graph, op: OpView, x: Tensor, *given: Tensor) -> Tensor:
    starts, ends, steps = (_sizes(g, one) for one in given)
    axes = g.ints(*range(len(x.shape)))
    return _tensor(g, op, g.node("Slice", [g.whole(x), starts, ends, axes, steps]))


def dilate(g: Graph, name: str, shape: tuple[int, ...], between: Any, fill: str) -> tuple[str, Any]:
    """Put so many fill values between neighbours of each dimension."""
    sizes = list(shape)
    for d, gap in enumerate(between):
        if not gap or sizes[d] < 2:
            continue
        wide = [*sizes[: d + 1], 1, *sizes[d + 1 :]]
        name = g.reshape(name, wide)
        pads = [0] * (2 * len(wide))
        pads[len(wide) + d + 1] = int(gap)
        name = g.node("Pad", [name, g.ints(*pads), fill])
        full = sizes[d] * (1 + int(gap))
        name = g.reshape(name, [*sizes[:d], full, *sizes[d + 1 :]])
        sizes[d] = full - int(gap)
        name = g.slice(name, [0], [sizes[d]], [d], [1])
    return name, tuple(sizes)


def pad(g: Graph, name: str, low: Any, high: Any, fill: str) -> str:
    """Pad by what is positive, cut by what is negative."""
    grow = [max(0, int(p)) for p in (*low, *high)]
    if any(grow):
        name = g.node("Pad", [name, g.ints(*grow), fill])
    cut = [d for d in range(len(low)) if low[d] < 0 or high[d] < 0]
    if cut:
        starts = [max(0, -int(low[d])) for d in cut]
        ends = [int(high[d]) if high[d] < 0 else 2**62 for d in cut]
        name = g.slice(name, starts, ends, cut, [1] * len(cut))
    return name


def _pad(g: Graph, op: OpView, x: Tensor, fill: Tensor) -> Tensor:
    a, element = op.attributes, x.dtype
    wide = {"i1": "i32", "ui64": "i64"}.get(element, element)
    if dtype(element).kind == "float" and element not in ("f32", "f64"):
        wide = "f32"
    name, value = g.whole(x), fill.name
    if wide != element:
        name, value = g.cast(name, wide), g.cast(value, wide)
    low, high = a["edge_padding_low"], a["edge_padding_high"]
    if any(a["interior_padding"]):
        name, _ = dilate(g, name, op.inputs[0].sizes, a["interior_padding"], value)
    name = pad(g, name, low, high, value)
    return _tensor(g, op, name if wide == element else g.cast(name, element))


def _reverse(g: Graph, op: OpView, x: Tensor) -> Tensor:
    dims = op.attributes["dimensions"]
    n = len(dims)
    return _tensor(g, op, g.slice(g.whole(x), [-1] * n, [-(2**62)] * n, dims, [-1] * n))


def _iota(g: Graph, op: OpView) -> Tensor:
    spec, d = op.outputs[0], op.attributes["iota_dimension"]
    held = tuple(size if i == d else 1 for i, size in enumerate(spec.sizes))
    values = np.arange(spec.sizes[d]).reshape(held)
    return Tensor(g.constant(values, spec.dtype), held, spec.shape, spec.dtype)


def _dynamic_iota(g: Graph, op: OpView, sizes: Tensor) -> Tensor:
    spec, d = op.outputs[0], op.attributes["iota_dimension"]
    wanted = _sizes(g, sizes)
    end = g.node("Gather", [wanted, g.constant(d, "i64")], axis=0)
    line = g.node("Range", [g.constant(0, "i64"), end, g.constant(1, "i64")])
    line = g.reshape(line, [None if i == d else 1 for i in range(len(spec.shape))])
    line = line if spec.dtype == "i64" else g.cast(line, spec.dtype)
    return _tensor(g, op, g.node("Expand", [line, wanted]))


def _dimension_size(g: Graph, op: OpView, x: Tensor) -> Tensor:
    d = op.attributes["dimension"]
    if x.shape[d] is not None:
        return _tensor(g, op, g.constant(x.shape[d], "i32"))
    sizes = g.node("Shape", [(x.target and g.whole(x)) or x.name])
    return _tensor(g, op, g.cast(g.node("Gather", [sizes, g.constant(d, "i64")], axis=0), "i32"))


RULES = {
    "stablehlo.reshape": _reshape,
    "stablehlo.dynamic_reshape": _dynamic_reshape,
    "stablehlo.transpose": _transpose,
    "stablehlo.broadcast_in_dim": _broadcast_in_dim,
    "stablehlo.dynamic_broadcast_in_dim": _dynamic_broadcast,
    "stablehlo.broadcast": _broadcast,
    "stablehlo.concatenate": _concatenate,
    "stablehlo.slice": _slice,
    "stablehlo.real_dynamic_slice": _real_dynamic_slice,
    "stablehlo.pad": _pad,
    "stablehlo.reverse": _reverse,
    "stablehlo.iota": _iota,
    "stablehlo.dynamic_iota": _dynamic_iota,
    "stablehlo.get_dimension_size": _dimension_size,
}
