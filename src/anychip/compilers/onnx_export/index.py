"""Indexing: gather, scatter and slices at positions known only when running."""

from __future__ import annotations

import math

import numpy as np

from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.compilers.onnx_export.shape import enlarge
from anychip.core import UnsupportedError, dtype
from anychip.ops.attributes import GatherDims, ScatterDims
from anychip.ops.reducer import monoid
from anychip.ops.view import OpView


def _gather(g: Graph, op: OpView, x: Tensor, indices: Tensor) -> Tensor:
    dims: GatherDims = op.attributes["dimension_numbers"]
    sizes = tuple(int(s) for s in op.attributes["slice_sizes"])
    out = op.outputs[0]
    taken = _take(g, op, x, indices, dims, sizes)
    if not taken:
        at = _positions(g, op, indices, op.inputs[0].sizes, sizes, _from_gather(dims), out.sizes)
        flat = g.reshape(g.whole(x), [op.inputs[0].size])
        taken = g.node("Gather", [flat, at], axis=0)
    return Tensor(taken, out.shape, out.shape, out.dtype)


def _take(
    g: Graph, op: OpView, x: Tensor, indices: Tensor, dims: GatherDims, sizes: tuple[int, ...]
) -> str:
    """Whole rows along one dimension: ONNX's Gather. "" when it is something else."""
    rank = len(x.shape)
    moving = [d for d in dims.start_index_map if x.shape[d] != 1]
    axes = moving or list(dims.start_index_map[-1:])
    if len(axes) != 1 or dims.operand_batch or axes[0] not in dims.collapsed:
        return ""
    (axis,) = axes
    whole = [d for d in range(rank) if d != axis]
    if any(sizes[d] != x.shape[d] for d in whole):
        return ""
    shape = list(indices.shape)
    vector = dims.index_vector
    name = g.whole(indices)
    if vector < len(shape):
        column = dims.start_index_map.index(axis)
        is_lone = shape.pop(vector) == 1 and None not in shape
        name = (
            g.reshape(name, shape)
            if is_lone
            else g.node("Gather", [name, g.constant(column, "i64")], axis=vector)
        )
    last = (x.shape[axis] or 0) - 1
    if indices.dtype not in ("i32", "i64"):
        name = g.cast(name, "i64")
    element = indices.dtype if indices.dtype in ("i32", "i64") else "i64"
    if x.shape[axis] is not None:  # StableHLO clamps
        name = g.node("Clip", [name, g.constant(0, element), g.constant(last, element)])
    made = _repeats(g, x, name, axis) or g.node("Gather", [g.whole(x), name], axis=axis)
    # [before…, batch…, after…], of which the collapsed ones go
    kept = [d for d in whole if d not in dims.collapsed]
    gone = [d + (len(shape) - 1 if d > axis else 0) for d in dims.collapsed if d != axis]
    if gone:
        made = g.node("Squeeze", [made, g.ints(*gone)])
    before = sum(d < axis for d in kept)
    now = [*(("o", i) for i in range(before)), *(("b", i) for i in range(len(shape)))]
    now += [("o", i) for i in range(before, len(kept))]
    rank_out = len(op.outputs[0].shape)
    offsets, batches = iter(range(len(kept))), iter(range(len(shape)))
    wanted = [
        ("o", next(offsets)) if d in dims.offset else ("b", next(batches)) for d in range(rank_out)
    ]
    return g.transpose(made, [now.index(w) for w in wanted])


def _repeats(g: Graph, x: Tensor, indices: str, axis: int) -> str:
    """Rows 0 0 1 1 2 2 … of an image: nearest-neighbour enlarging. "" when they are others."""
    at, size = g.arrays.get(indices), x.shape[axis]
    if at is None or at.ndim != 1 or not size or axis < 2 or len(x.shape) not in (4, 5):
        return ""
    times, rest = divmod(at.size, size)
    is_plain = x.dtype == "f32" and times > 1 and not rest and None not in x.shape
    if not is_plain or not (at == np.repeat(np.arange(size), times)).all():
        return ""
    return enlarge(g, g.whole(x), x.shape, axis, times)


def _from_gather(dims: GatherDims) -> ScatterDims:
    """A gather's dimension numbers read as a scatter's: the same correspondence."""
    return ScatterDims(
        update_window=dims.offset,
        inserted_window=dims.collapsed,
        operand_batch=dims.operand_batch,
        indices_batch=dims.indices_batch,
        scattered=dims.start_index_map,
        index_vector=dims.index_vector,
    )


def _positions(
    g: Graph,
    op: OpView,
    indices: Tensor,
    operand: tuple[int, ...],
    window: tuple[int, ...],
    dims: ScatterDims,
    updates: tuple[int, ...],
    *,
    clamp: bool = True,
) -> str:
    """The flat position in the operand of every element of the gather's result (or update).

    Without `clamp`, elements that fall outside get the position one past the end, each by itself.
    """
    rank = len(updates)
    batch = [d for d in range(rank) if d not in dims.update_window]
    strides = [math.prod(operand[d + 1 :]) for d in range(len(operand))]
    name = g.cast(g.whole(indices), "i64")
    shape = list(op.inputs[1].sizes)
    if dims.index_vector == len(shape):
        name = g.reshape(name, [*shape, 1])
        shape.append(1)
    order = [d for d in range(len(shape)) if d != dims.index_vector]
    name = g.transpose(name, [*order, dims.index_vector])
    lead = [shape[d] for d in order]
    spread = [1] * rank
    for d, size in zip(batch, lead, strict=True):
        spread[d] = size
    kept = [d for d in range(len(operand)) if d not in (*dims.inserted_window, *dims.operand_batch)]
    places = dict(zip(kept, sorted(dims.update_window), strict=True))
    total, inside = g.constant(np.zeros((1,) * rank, np.int64)), ""
    for column, d in enumerate(dims.scattered):
        one = g.node("Gather", [name, g.constant(column, "i64")], axis=len(lead))
        one = g.reshape(one, spread)
        zero = g.constant(0, "i64")
        if clamp:
            one = g.node("Clip", [one, zero, g.constant(operand[d] - window[d], "i64")])
        else:
            reach, last = one, g.constant(operand[d] - 1, "i64")
            if d in places:
                steps = g.constant(_line(rank, places[d], updates[places[d]], 1))
                reach = g.node("Add", [one, steps])
            fits = g.node(
                "And",
                [g.node("GreaterOrEqual", [reach, zero]), g.node("LessOrEqual", [reach, last])],
            )
            inside = g.node("And", [inside, fits]) if inside else fits
        total = g.node("Add", [total, g.node("Mul", [one, g.constant(strides[d], "i64")])])
    for d, at in zip(dims.operand_batch, dims.indices_batch, strict=True):
        place = batch[at - (at > dims.index_vector)]
        line = _line(rank, place, updates[place], strides[d])
        total = g.node("Add", [total, g.constant(line)])
    for d, place in places.items():
        line = _line(rank, place, updates[place], strides[d])
        total = g.node("Add", [total, g.constant(line)])
    if inside:
        total = g.node("Where", [inside, total, g.constant(math.prod(operand), "i64")])
    return g.node("Expand", [total, g.ints(*updates)])


def _line(rank: int, at: int, size: int, stride: int) -> np.ndarray:
    shape = [1] * rank
    shape[at] = size
    return (np.arange(size, dtype=np.int64) * stride).reshape(shape)


_JOINS = {
    "update": "none",
    "stablehlo.add": "add",
    "stablehlo.multiply": "mul",
    "stablehlo.maximum": "max",
    "stablehlo.minimum": "min",
}


def _scatter(g: Graph, op: OpView, *tensors: Tensor) -> Tensor:
    """Into the flat operand, which gets one place more: for what falls outside."""
    if len(tensors) != 3:
        raise UnsupportedError("ONNX scatters into one operand at a time")
    x, indices, updates = tensors
    how = monoid(op.regions[0])
    if how not in _JOINS:
        raise UnsupportedError("ONNX scatters by replace, add, multiply, maximum, minimum only")
    dims: ScatterDims = op.attributes["scatter_dimension_numbers"]
    operand, sizes = op.inputs[0].sizes, op.inputs[2].sizes
    kept = [d for d in range(len(operand)) if d not in (*dims.inserted_window, *dims.operand_batch)]
    window = [1] * len(operand)
    for place, d in zip(sorted(dims.update_window), kept, strict=True):
        window[d] = sizes[place]
    at = _positions(g, op, indices, operand, tuple(window), dims, sizes, clamp=False)
    element = x.dtype
    wide = "i32" if dtype(element).bits < 32 and dtype(element).kind != "float" else element
    if dtype(element).kind == "float" and dtype(element).bits < 32:
        wide = "f32"
    flat = g.reshape(g.whole(x), [math.prod(operand)])
    new = g.reshape(g.whole(updates), [math.prod(sizes)])
    if wide != element:
        flat, new = g.cast(flat, wide), g.cast(new, wide)
    flat = g.node("Concat", [flat, g.constant(np.zeros(1), wide)], axis=0)
    made = g.node(
        "ScatterElements",
        [flat, g.reshape(at, [math.prod(sizes)]), new],
        axis=0,
        reduction=_JOINS[how],
    )
    made = g.slice(made, [0], [math.prod(operand)], [0], [1])
    made = g.reshape(made, operand)
    made = made if wide == element else g.cast(made, element)
    return Tensor(made, operand, operand, element)


def _starts(g: Graph, tensors: tuple[Tensor, ...], most: list[int]) -> list[str]:
    """Each start as i64[1], clamped."""
    starts: list[str] = []
    for one, limit in zip(tensors, most, strict=True):
        name = g.reshape(g.cast(one.name, "i64"), [1])
        starts.append(g.node("Clip", [name, g.constant(0, "i64"), g.constant(limit, "i64")]))
    return starts


def _dynamic_slice(g: Graph, op: OpView, x: Tensor, *given: Tensor) -> Tensor:
    sizes, full = op.attributes["slice_sizes"], op.inputs[0].sizes
    axes = [d for d in range(len(full)) if sizes[d] != full[d]]
    if not axes:
        return x
    starts = _starts(g, tuple(given[d] for d in axes), [full[d] - sizes[d] for d in axes])
    ends = [g.node("Add", [s, g.ints(sizes[d])]) for s, d in zip(starts, axes, strict=True)]
    start, end = (p[0] if len(p) == 1 else g.node("Concat", p, axis=0) for p in (starts, ends))
    made = g.node("Slice", [g.whole(x), start, end, g.ints(*axes)])
    out = op.outputs[0]
    return Tensor(made, out.shape, out.shape, out.dtype)


def _dynamic_update_slice(g: Graph, op: OpView, x: Tensor, new: Tensor, *given: Tensor) -> Tensor:
    """ScatterND of whole trailing rows."""
    full, sizes, out = op.inputs[0].sizes, op.inputs[1].sizes, op.outputs[0]
    axes = [d for d in range(len(full)) if sizes[d] != full[d]]
    if not axes:
        return new
    if 0 in sizes:
        return x
    lead = axes[-1] + 1
    starts = _starts(g, given[:lead], [full[d] - sizes[d] for d in range(lead)])
    columns: list[str] = []
    for d in range(lead):
        line = g.constant(_line(lead + 1, d, sizes[d], 1))
        moved = g.node("Add", [line, starts[d]]) if d in axes else line
        columns.append(g.node("Expand", [moved, g.ints(*sizes[:lead], 1)]))
    at = columns[0] if lead == 1 else g.node("Concat", columns, axis=lead)
    made = g.node("ScatterND", [g.whole(x), at, g.whole(new)])
    return Tensor(made, out.shape, out.shape, out.dtype)


def _index_select(g: Graph, op: OpView, x: Tensor, indices: Tensor) -> Tensor:
    a, out = op.attributes, op.outputs[0]
    if a.get("batch_dims", 0):
        raise UnsupportedError("torch_index_select with batch dimensions; use a gather")
    axis = a["dim"]
    made = g.node("Gather", [g.whole(x), g.cast(g.whole(indices), "i64")], axis=axis)
    return Tensor(made, out.shape, out.shape, out.dtype)


RULES = {
    "stablehlo.gather": _gather,
    "stablehlo.scatter": _scatter,
    "stablehlo.dynamic_slice": _dynamic_slice,
    "stablehlo.dynamic_update_slice": _dynamic_update_slice,
    "stablehlo.torch_index_select": _index_select,
}
