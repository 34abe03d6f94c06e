"""Ops that read or write at positions given as data: gather, scatter, dynamic slices."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.ops.attributes import GatherDims, ScatterDims
from anychip.ops.case import case
from anychip.ops.count import picked, region
from anychip.ops.reducer import monoid
from anychip.ops.table import op
from anychip.ops.view import OpView
from anychip.ops.work import Work


@op(
    "stablehlo.dynamic_slice",
    unit="move",
    work=picked,
    cases=[
        case(
            "f32[4,5]",
            "i32[]",
            "i32[]",
            out="f32[2,3]",
            attributes="slice_sizes = array<i64: 2, 3>",
            given={1: 1, 2: 2},
            expect=lambda x, i, j: x[1:3, 2:5],
        ),
        case(
            "i8[5]",
            "i64[]",
            out="i8[3]",
            attributes="slice_sizes = array<i64: 3>",
            given={1: 9},
            expect=lambda x, i: x[2:5],
        ),
        case("bf16[5]", "ui8[]", out="bf16[0]", attributes="slice_sizes = array<i64: 0>"),
    ],
)
def dynamic_slice(op: OpView, x: Any, *starts: Any) -> Any:
    """x[start:start+size], starts clamped so that the slice lies inside."""
    return lax.dynamic_slice(x, starts, op.attributes["slice_sizes"])


def _update_work(op: OpView) -> Work:
    """In place: reads the update and the positions, writes only the update."""
    update = op.inputs[1].nbytes
    positions = sum(s.nbytes for s in op.inputs[2:])
    return Work(read_bytes=update + positions, written_bytes=update)


@op(
    "stablehlo.dynamic_update_slice",
    unit="move",
    work=_update_work,
    cases=[
        case(
            "f32[4,5]",
            "f32[2,2]",
            "i32[]",
            "i32[]",
            given={2: 1, 3: 9},
            expect=lambda x, u, i, j: np.block([[x[:1]], [x[1:3, :3], u], [x[3:]]]),
        ),
        case("i8[3]", "i8[0]", "i64[]", expect=lambda x, u, i: x),
    ],
)
def dynamic_update_slice(op: OpView, x: Any, update: Any, *starts: Any) -> Any:
    """x with `update` written at `starts`, clamped so that it lies inside."""
    return lax.dynamic_update_slice(x, update, starts)


def _gather(
    offset: str,
    collapsed: str,
    start_map: str,
    vector: int,
    sizes: str,
    *,
    operand_batch: str = "",
    indices_batch: str = "",
) -> str:
    return (
        f"dimension_numbers = #stablehlo.gather<offset_dims = [{offset}], "
        f"collapsed_slice_dims = [{collapsed}], operand_batching_dims = [{operand_batch}], "
        f"start_indices_batching_dims = [{indices_batch}], start_index_map = [{start_map}], "
        f"index_vector_dim = {vector}>, slice_sizes = array<i64: {sizes}>, "
        "indices_are_sorted = false"
    )


@op(
    "stablehlo.gather",
    unit="move",
    work=picked,
    cases=[
        case(
            "f32[6,3]",
            "i32[4,1]",
            out="f32[4,3]",
            attributes=_gather("1", "0", "0", 1, "1, 3"),
            given={1: [[0], [5], [2], [9]]},
            expect=lambda x, i: x[np.clip(i[:, 0], 0, 5)],
        ),
        case(
            "f32[6,3]",
            "i64[4]",
            out="f32[4,3]",
            attributes=_gather("1", "0", "0", 1, "1, 3"),
            given={1: [-3, 1, 2, 0]},
            expect=lambda x, i: x[np.clip(i, 0, 5)],
        ),
        case(
            "i32[3,4,2]",
            "i64[2,3,2]",
            out="i32[2,3,2,2]",
            attributes=_gather("2, 3", "0", "1, 0", 2, "1, 2, 2"),
            draw=("normal", "small"),
        ),
        case(
            "bf16[2,3,4,2]",
            "i32[2,2,3,2]",
            out="bf16[2,2,3,2,2]",
            attributes=_gather(
                "3, 4", "1", "2, 1", 3, "1, 1, 2, 2", operand_batch="0", indices_batch="1"
            ),
            draw=("normal", "small"),
        ),
        case(
            "f32[5,4]",
            "i32[2,3]",
            out="f32[3,2]",
            attributes=_gather("1", "0", "0, 1", 0, "1, 2"),
            draw=("normal", "small"),
        ),
        case(
            "f32[5,4]",
            "i32[0,1]",
            out="f32[0,4]",
            attributes=_gather("1", "0", "0", 1, "1, 4"),
        ),
    ],
)
def gather(op: OpView, x: Any, indices: Any) -> Any:
    """Slices of x at start positions, which are clamped so that each slice lies inside."""
    return gathered(x, indices, op.attributes["dimension_numbers"], op.attributes["slice_sizes"])


def gathered(x: Any, indices: Any, dims: GatherDims, slice_sizes: tuple[int, ...]) -> Any:
    """`gather` with the slice sizes given apart, as `dynamic_gather` has them."""
    numbers = lax.GatherDimensionNumbers(
        offset_dims=dims.offset,
        collapsed_slice_dims=dims.collapsed,
        start_index_map=dims.start_index_map,
        operand_batching_dims=dims.operand_batch,
        start_indices_batching_dims=_without(dims.indices_batch, dims.index_vector),
    )
    vectors = _vectors_last(indices, dims.index_vector)
    return lax.gather(x, vectors, numbers, slice_sizes, mode=lax.GatherScatterMode.CLIP)


def _vectors_last(indices: Any, dimension: int) -> Any:
    """Index vectors along the last dimension, where JAX wants them."""
    if dimension == indices.ndim:
        return indices[..., None]
    return jnp.moveaxis(indices, dimension, -1)


def _without(dims: tuple[int, ...], removed: int) -> tuple[int, ...]:
    """Dimension numbers after dimension `removed` moved to the end."""
    return tuple(d - (d > removed) for d in dims)


@op(
    "stablehlo.torch_index_select",
    unit="move",
    work=picked,
    cases=[
        case(
            "f32[4,3]",
            "i32[2]",
            out="f32[2,3]",
            attributes="dim = 0 : i64, batch_dims = 0 : i64",
            given={1: [3, 0]},
            expect=lambda x, i: x[i],
        ),
        case(
            "f32[2,3,4]",
            "i32[2,2]",
            out="f32[2,2,4]",
            attributes="dim = 1 : i64, batch_dims = 1 : i64",
            given={1: [[2, 0], [1, 1]]},
            expect=lambda x, i: np.stack([x[b, i[b]] for b in range(2)]),
        ),
    ],
    reference="it has no rule for this op",
)
def torch_index_select(op: OpView, x: Any, indices: Any) -> Any:
    """Entries of dimension `dim` at these indices, for each of the leading `batch_dims`."""
    take = lambda one, at: jnp.take(one, at, axis=axis, mode="clip")  # noqa: E731
    batch = op.attributes["batch_dims"]
    axis = op.attributes["dim"] - batch
    for _ in range(batch):
        take = jax.vmap(take)
    return take(x, indices)


def _scatter(
    window: str,
    inserted: str,
    scattered: str,
    vector: int,
    *,
    operand_batch: str = "",
    indices_batch: str = "",
) -> str:
    return (
        f"scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [{window}], "
        f"inserted_window_dims = [{inserted}], input_batching_dims = [{operand_batch}], "
        f"scatter_indices_batching_dims = [{indices_batch}], "
        f"scatter_dims_to_operand_dims = [{scattered}], index_vector_dim = {vector}>, "
        "indices_are_sorted = false, unique_indices = false"
    )


def _combine(element: str, name: str) -> str:
    kind = f"tensor<{element}>"
    if name == "update":
        return f"^bb0(%x: {kind}, %u: {kind}):\nstablehlo.return %u : {kind}"
    return (
        f"^bb0(%x: {kind}, %u: {kind}):\n%0 = stablehlo.{name} %x, %u : {kind}\n"
        f"stablehlo.return %0 : {kind}"
    )


_BLEND = """^bb0(%x: tensor<f32>, %u: tensor<f32>):
  %half = stablehlo.constant dense<0.5> : tensor<f32>
  %0 = stablehlo.multiply %x, %half : tensor<f32>
  %1 = stablehlo.add %0, %u : tensor<f32>
  stablehlo.return %1 : tensor<f32>"""

_PAIR = """^bb0(%x: tensor<f32>, %n: tensor<i32>, %u: tensor<f32>, %m: tensor<i32>):
  %0 = stablehlo.add %x, %u : tensor<f32>
  %1 = stablehlo.maximum %n, %m : tensor<i32>
  stablehlo.return %0, %1 : tensor<f32>, tensor<i32>"""


def _scatter_work(op: OpView) -> Work:
    """In place: reads indices, updates and the elements it changes, writes those elements."""
    operands = len(op.results)
    updates = op.inputs[operands + 1 :]
    body = op.regions[0]
    reads_old = any(a in o.operands for o in body.ops for a in body.arguments[:operands])
    moved = sum(u.nbytes for u in updates)
    arithmetic = region(body) * updates[0].size
    reads = op.inputs[operands].nbytes + moved * (2 if reads_old else 1)
    return arithmetic + Work(read_bytes=reads, written_bytes=moved)


@op(
    "stablehlo.scatter",
    unit="move",
    work=_scatter_work,
    cases=[
        case(
            "f32[6,3]",
            "i32[4,1]",
            "f32[4,3]",
            attributes=_scatter("1", "0", "0", 1),
            region=_combine("f32", "add"),
            given={1: [[0], [5], [0], [9]]},
            expect=lambda x, i, u: x + np.eye(6)[[0, 5, 0]].T @ u[:3],
            reduced=3,
        ),
        *(
            case(
                "i32[5]",
                "i64[3,1]",
                "i32[3]",
                attributes=_scatter("", "0", "0", 1),
                region=_combine("i32", name),
                given={1: [[1], [3], [-1]]},
            )
            for name in ("update", "multiply", "minimum", "maximum", "subtract", "xor")
        ),
        case(
            "i64[3,4,2]",
            "i64[2,3,2]",
            "i64[2,3,2,2]",
            attributes=_scatter("2, 3", "0", "1, 0", 2),
            region=_combine("i64", "add"),
            given={1: [[[0, 2], [1, 0], [2, 1]], [[0, 1], [3, 0], [0, 9]]]},
        ),
        case(
            "i64[2,3,4,2]",
            "i64[2,2,3,2]",
            "i64[2,2,3,2,2]",
            attributes=_scatter("3, 4", "1", "2, 1", 3, operand_batch="0", indices_batch="1"),
            region=_combine("i64", "add"),
            draw=("normal", "small", "normal"),
        ),
        case(
            "bf16[4,4]",
            "i32[2,3]",
            "bf16[3]",
            attributes=_scatter("", "0, 1", "0, 1", 0),
            region=_combine("bf16", "add"),
            draw=("normal", "small", "normal"),
        ),
        case(
            "i1[4]",
            "i32[2]",
            "i1[2]",
            attributes=_scatter("", "0", "0", 1),
            region=_combine("i1", "or"),
            given={1: [1, 3]},
        ),
        case(
            "f32[4]",
            "i32[3,1]",
            "f32[3]",
            attributes=_scatter("", "0", "0", 1),
            region=_BLEND,
            given={1: [[2], [0], [7]]},
        ),
        case(
            "f32[4]",
            "i32[4]",
            "i32[2,1]",
            "f32[2]",
            "i32[2]",
            out=("f32[4]", "i32[4]"),
            attributes=_scatter("", "0", "0", 1),
            region=_PAIR,
            given={2: [[3], [1]]},
        ),
        case(
            "f32[4]",
            "i32[0,1]",
            "f32[0]",
            attributes=_scatter("", "0", "0", 1),
            region=_combine("f32", "add"),
            expect=lambda x, i, u: x,
        ),
    ],
)
def scatter(op: OpView, *operands: Any, bodies: tuple[Any, ...]) -> Any:
    """Operands with updates combined into them at positions given by index vectors.

    Single elements that would fall outside are skipped, not whole windows (the specification's
    rule; XLA skips the window). Where positions repeat, updates apply in row-major order.
    """
    count = len(op.results)
    arrays, indices, updates = operands[:count], operands[count], operands[count + 1 :]
    dims: ScatterDims = op.attributes["scatter_dimension_numbers"]
    fast = _SCATTERS.get(monoid(op.regions[0]) or "")
    if count == 1 and fast is not None and _moves_whole_elements(op, dims):
        return _scatter_windows(fast, arrays[0], indices, updates[0], dims)
    places, inside = _places(op, indices, dims)
    if count == 1 and fast is not None:
        return _scatter_elements(fast, arrays[0], places, inside, updates[0])
    return _scatter_one_by_one(arrays, places, inside, updates, bodies[0])


_SCATTERS: dict[str, Callable[..., Any]] = {
    "update": lax.scatter,
    "stablehlo.add": lax.scatter_add,
    "stablehlo.multiply": lax.scatter_mul,
    "stablehlo.minimum": lax.scatter_min,
    "stablehlo.maximum": lax.scatter_max,
}


def _moves_whole_elements(op: OpView, dims: ScatterDims) -> bool:
    """Whether a window is one element wide in each scattered dimension, so never half outside."""
    kept = [
        d
        for d in range(len(op.inputs[0].sizes))
        if d not in dims.inserted_window and d not in dims.operand_batch
    ]
    updates = op.inputs[2].sizes
    width = {d: updates[w] for d, w in zip(kept, dims.update_window, strict=True)}
    return all(width.get(d, 1) == 1 for d in dims.scattered) and op.inputs[0].dtype != "i1"


def _scatter_windows(
    rule: Callable[..., Any], x: Any, indices: Any, updates: Any, dims: ScatterDims
) -> Any:
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=dims.update_window,
        inserted_window_dims=dims.inserted_window,
        scatter_dims_to_operand_dims=dims.scattered,
        operand_batching_dims=dims.operand_batch,
        scatter_indices_batching_dims=_without(dims.indices_batch, dims.index_vector),
    )
    vectors = _vectors_last(indices, dims.index_vector)
    return rule(x, vectors, updates, numbers, mode=lax.GatherScatterMode.FILL_OR_DROP)


def _places(op: OpView, indices: Any, dims: ScatterDims) -> tuple[Any, Any]:
    """For each update element its row-major position in the operand, and whether that exists."""
    shape, update_shape = op.inputs[0].sizes, op.inputs[len(op.results) + 1].sizes
    vectors = _vectors_last(indices, dims.index_vector).astype(np.int64)
    scatter_dims = [d for d in range(len(update_shape)) if d not in dims.update_window]
    along = [lax.broadcasted_iota(np.int64, update_shape, d) for d in range(len(update_shape))]
    at = tuple(along[d] for d in scatter_dims)
    kept = [
        d
        for d in range(len(shape))
        if d not in dims.inserted_window and d not in dims.operand_batch
    ]
    index = {d: along[w] for d, w in zip(kept, dims.update_window, strict=True)}
    for k, d in enumerate(dims.scattered):
        start = vectors[(*at, k)]
        index[d] = index[d] + start if d in index else start
    batches = _without(dims.indices_batch, dims.index_vector)
    for d, b in zip(dims.operand_batch, batches, strict=True):
        index[d] = at[b]
    places = jnp.zeros(update_shape, np.int64)
    inside = jnp.ones(update_shape, bool)
    for d, size in enumerate(shape):
        places = places * size + index[d]
        inside &= (index[d] >= 0) & (index[d] < size)
    return places, inside


def _scatter_elements(
    rule: Callable[..., Any], x: Any, places: Any, inside: Any, updates: Any
) -> Any:
    numbers = lax.ScatterDimensionNumbers((), (0,), (0,))
    at = jnp.where(inside, places, x.size).reshape(-1, 1)
    if x.dtype == np.bool_:  # or is the maximum of bytes, and the minimum
        rule = {lax.scatter_add: lax.scatter_max, lax.scatter_mul: lax.scatter_min}.get(rule, rule)
        wide = _scatter_elements(rule, x.astype(np.uint8), places, inside, updates.astype(np.uint8))
        return wide != 0
    flat = rule(
        x.reshape(-1),
        at,
        updates.reshape(-1),
        numbers,
        mode=lax.GatherScatterMode.FILL_OR_DROP,
    )
    return flat.reshape(x.shape)


def _scatter_one_by_one(
    arrays: tuple[Any, ...], places: Any, inside: Any, updates: tuple[Any, ...], body: Any
) -> tuple[Any, ...]:
    at, valid = places.reshape(-1), inside.reshape(-1)
    news = [u.reshape(-1) for u in updates]
    if at.size == 0 or arrays[0].size == 0:
        return arrays

    def step(i: Any, flat: tuple[Any, ...]) -> tuple[Any, ...]:
        combined = body(*(x[at[i]] for x in flat), *(u[i] for u in news))
        return tuple(
            x.at[at[i]].set(jnp.where(valid[i], c, x[at[i]]))
            for x, c in zip(flat, combined, strict=True)
        )

    done = lax.fori_loop(0, at.size, step, tuple(x.reshape(-1) for x in arrays))
    return tuple(f.reshape(x.shape) for f, x in zip(done, arrays, strict=True))
