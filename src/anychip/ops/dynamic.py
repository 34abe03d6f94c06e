"""Ops whose shapes are operands: these must be concrete, or the result type static."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax
from jax.core import Tracer

from anychip.core.dtypes import dtype
from anychip.core.errors import UnsupportedError
from anychip.ops.case import case
from anychip.ops.count import moved, nothing, picked
from anychip.ops.index import gathered
from anychip.ops.linear import convolution_work, convolve
from anychip.ops.shape import counting
from anychip.ops.table import op
from anychip.ops.view import OpView


def _known(op: OpView, operand: Any) -> tuple[int, ...]:
    """The integers of a shape-like operand. Raises UnsupportedError while JAX is tracing it."""
    if isinstance(operand, Tracer):
        raise UnsupportedError(
            f"{op} takes its shape from a value that is only known when running; "
            "specialise the module first, or evaluate it without jax.jit"
        )
    return tuple(int(n) for n in np.asarray(operand))


def _shape(op: OpView, operand: Any) -> tuple[int, ...]:
    out = op.outputs[0]
    return out.sizes if out.is_static else _known(op, operand)


@op(
    "stablehlo.dynamic_reshape",
    unit="move",
    work=nothing,
    cases=[
        case(
            "f32[2,3]",
            "i64[2]",
            out="f32[3,2]",
            given={1: [3, 2]},
            expect=lambda x, shape: x.reshape(3, 2),
        ),
        case("i32[0]", "i32[2]", out="i32[0,4]", given={1: [0, 4]}),
    ],
)
def dynamic_reshape(op: OpView, x: Any, shape: Any) -> Any:
    """The same elements under another shape."""
    return lax.reshape(x, _shape(op, shape))


@op(
    "stablehlo.dynamic_broadcast_in_dim",
    unit="move",
    work=moved,
    cases=[
        case(
            "f32[3]",
            "i64[2]",
            out="f32[2,3]",
            attributes="broadcast_dimensions = array<i64: 1>",
            given={1: [2, 3]},
            expect=lambda x, shape: np.broadcast_to(x, (2, 3)),
        ),
        case(
            "f32[1,2]",
            "i64[3]",
            out="f32[2,4,2]",
            attributes="broadcast_dimensions = array<i64: 1, 2>",
            given={1: [2, 4, 2]},
        ),
    ],
)
def dynamic_broadcast_in_dim(op: OpView, x: Any, shape: Any) -> Any:
    """broadcast_in_dim to a shape given as data."""
    return lax.broadcast_in_dim(x, _shape(op, shape), op.attributes["broadcast_dimensions"])


@op(
    "stablehlo.dynamic_iota",
    unit="move",
    work=moved,
    cases=[
        case(
            "i64[2]",
            out="i32[2,3]",
            attributes="iota_dimension = 1 : i64",
            given={0: [2, 3]},
            expect=lambda shape: np.tile(np.arange(3), (2, 1)),
        ),
        case("i64[1]", out="f32[0]", attributes="iota_dimension = 0 : i64", given={0: [0]}),
    ],
)
def dynamic_iota(op: OpView, shape: Any) -> Any:
    """iota of a shape given as data."""
    element = dtype(op.outputs[0].dtype).numpy
    return counting(_shape(op, shape), op.attributes["iota_dimension"], element)


@op(
    "stablehlo.dynamic_pad",
    unit="move",
    work=moved,
    cases=[
        case(
            "f32[2,3]",
            "f32[]",
            "i64[2]",
            "i64[2]",
            "i64[2]",
            out="f32[5,9]",
            given={2: [0, 1], 3: [2, 1], 4: [1, 2]},
            is_concrete=True,
        ),
        case(
            "i32[2]",
            "i32[]",
            "i64[1]",
            "i64[1]",
            "i64[1]",
            out="i32[3]",
            given={2: [1], 3: [0], 4: [0]},
            is_concrete=True,
            expect=lambda x, v, low, high, interior: np.concatenate([[v], x]),
        ),
    ],
)
def dynamic_pad(op: OpView, x: Any, value: Any, low: Any, high: Any, interior: Any) -> Any:
    """pad with widths given as data."""
    sides = zip(*(_known(op, widths) for widths in (low, high, interior)), strict=True)
    return lax.pad(x, value, list(sides))


@op(
    "stablehlo.real_dynamic_slice",
    unit="move",
    work=picked,
    cases=[
        case(
            "f32[4,6]",
            "i64[2]",
            "i64[2]",
            "i64[2]",
            out="f32[2,2]",
            given={1: [1, 0], 2: [3, 4], 3: [1, 2]},
            is_concrete=True,
            expect=lambda x, start, limit, stride: x[1:3, 0:4:2],
        ),
        case(
            "i8[4]",
            "i32[1]",
            "i32[1]",
            "i32[1]",
            out="i8[0]",
            given={1: [2], 2: [2], 3: [1]},
            is_concrete=True,
        ),
    ],
    reference="it has no rule for this op",
)
def real_dynamic_slice(op: OpView, x: Any, start: Any, limit: Any, stride: Any) -> Any:
    """x[start:limit:stride] with all three given as data."""
    return lax.slice(x, *(_known(op, numbers) for numbers in (start, limit, stride)))


@op(
    "stablehlo.dynamic_gather",
    unit="move",
    work=picked,
    cases=[
        case(
            "i32[3,4,2]",
            "i64[2,3,2]",
            "i64[3]",
            out="i32[2,3,2,2]",
            attributes="dimension_numbers = #stablehlo.gather<offset_dims = [2, 3], "
            "collapsed_slice_dims = [0], start_index_map = [1, 0], index_vector_dim = 2>",
            draw=("normal", "small", "small"),
            given={2: [1, 2, 2]},
            is_concrete=True,
        ),
        case(
            "f32[6,3]",
            "i32[4]",
            "i64[2]",
            out="f32[4,3]",
            attributes="dimension_numbers = #stablehlo.gather<offset_dims = [1], "
            "collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>",
            given={1: [0, 5, 2, 9], 2: [1, 3]},
            is_concrete=True,
            expect=lambda x, i, sizes: x[np.clip(i, 0, 5)],
        ),
    ],
)
def dynamic_gather(op: OpView, x: Any, indices: Any, sizes: Any) -> Any:
    """gather with slice sizes given as data."""
    return gathered(x, indices, op.attributes["dimension_numbers"], _known(op, sizes))


_CONV = (
    "dimension_numbers = #stablehlo.conv<[b, 0, f]x[0, i, o]->[b, 0, f]>, "
    "window_strides = array<i64: 1>, feature_group_count = 1 : i64, batch_group_count = 1 : i64"
)


@op(
    "stablehlo.dynamic_conv",
    unit="matmul",
    work=convolution_work,
    cases=[
        case(
            "f32[1,5,2]",
            "f32[3,2,4]",
            "i64[1,2]",
            out="f32[1,5,4]",
            attributes=_CONV,
            given={2: [[1, 1]]},
            is_concrete=True,
            reduced=6,
        ),
        case(
            "f32[1,3,1]",
            "f32[1,1,1]",
            "i64[1,2]",
            out="f32[1,3,1]",
            attributes=_CONV,
            given={2: [[0, 0]]},
            is_concrete=True,
            expect=lambda x, w, padding: x * w,
        ),
    ],
)
def dynamic_conv(op: OpView, lhs: Any, rhs: Any, padding: Any) -> Any:
    """convolution with padding given as data."""
    flat = _known(op, padding.reshape(-1))
    return convolve(op, lhs, rhs, list(zip(flat[::2], flat[1::2], strict=True)))
