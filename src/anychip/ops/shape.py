"""Ops that make, place and rearrange elements without computing on them."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.core.dtypes import dtype
from anychip.ops.case import case
from anychip.ops.count import moved, nothing, picked
from anychip.ops.table import op
from anychip.ops.view import OpView
from anychip.ops.work import Work


@op(
    "stablehlo.constant",
    unit="move",
    work=nothing,
    cases=[
        case(
            out="f32[2,2]",
            attributes="value = dense<[[1.0, 2.0], [3.0, 0x7FC00000]]> : tensor<2x2xf32>",
            expect=lambda: np.array([[1, 2], [3, np.nan]]),
        ),
        case(
            out="bf16[3]",
            attributes="value = dense<1.5> : tensor<3xbf16>",
            expect=lambda: np.full(3, 1.5),
        ),
        case(
            out="complex<f32>[2]",
            attributes="value = dense<[(1.0, -2.0), (0.0, 0.5)]> : tensor<2xcomplex<f32>>",
            expect=lambda: np.array([1 - 2j, 0.5j]),
        ),
        case(
            out="i4[3]",
            attributes="value = dense<[-8, 7, 0]> : tensor<3xi4>",
            expect=lambda: np.array([-8, 7, 0]),
        ),
        case(out="f32[0,3]", attributes="value = dense<> : tensor<0x3xf32>"),
    ],
)
def constant(op: OpView) -> Any:
    """The value written in the program. It lies in memory like a weight and costs nothing here."""
    return jnp.asarray(op.attributes["value"])


@op(
    "stablehlo.iota",
    unit="move",
    work=moved,
    cases=[
        case(out="i32[2,3]", attributes="iota_dimension = 1 : i64"),
        case(out="f32[4]", attributes="iota_dimension = 0 : i64", expect=lambda: np.arange(4)),
        case(out="complex<f32>[2,2]", attributes="iota_dimension = 0 : i64"),
        case(out="ui8[3,0]", attributes="iota_dimension = 0 : i64"),
    ],
)
def iota(op: OpView) -> Any:
    """Each element is its own index along `iota_dimension`."""
    out = op.outputs[0]
    return counting(out.sizes, op.attributes["iota_dimension"], dtype(out.dtype).numpy)


def counting(shape: tuple[int, ...], dimension: int, element: np.dtype) -> Any:
    """The array whose elements are their index along one dimension."""
    if dtype(element).kind == "complex":
        real = np.float32 if element == np.complex64 else np.float64
        return lax.convert_element_type(lax.broadcasted_iota(real, shape, dimension), element)
    return lax.broadcasted_iota(element, shape, dimension)


@op(
    "stablehlo.reshape",
    unit="move",
    work=nothing,
    cases=[
        case("f32[2,3]", out="f32[3,2]", expect=lambda x: x.reshape(3, 2)),
        case("i32[1,1]", out="i32[]", expect=lambda x: x.reshape(())),
        case("bf16[0,2]", out="bf16[4,0]"),
    ],
)
def reshape(op: OpView, x: Any) -> Any:
    """The same elements in row-major order under another shape."""
    return lax.reshape(x, op.outputs[0].sizes)


@op(
    "stablehlo.transpose",
    unit="move",
    work=moved,
    cases=[
        case(
            "f32[2,3,4]",
            out="f32[4,2,3]",
            attributes="permutation = array<i64: 2, 0, 1>",
            expect=lambda x: x.transpose(2, 0, 1),
        ),
        case("i8[]", attributes="permutation = array<i64>"),
        case("f16[0,2]", out="f16[2,0]", attributes="permutation = array<i64: 1, 0>"),
    ],
)
def transpose(op: OpView, x: Any) -> Any:
    """result[i[permutation]] = x[i]."""
    return lax.transpose(x, op.attributes["permutation"])


@op(
    "stablehlo.broadcast_in_dim",
    unit="move",
    work=moved,
    cases=[
        case(
            "f32[3]",
            out="f32[2,3]",
            attributes="broadcast_dimensions = array<i64: 1>",
            expect=lambda x: np.broadcast_to(x, (2, 3)),
        ),
        case("i32[2,1]", out="i32[2,3,4]", attributes="broadcast_dimensions = array<i64: 0, 1>"),
        case("bf16[]", out="bf16[2]", attributes="broadcast_dimensions = array<i64>"),
        case("f32[1]", out="f32[0]", attributes="broadcast_dimensions = array<i64: 0>"),
    ],
)
def broadcast_in_dim(op: OpView, x: Any) -> Any:
    """Dimension i of x becomes `broadcast_dimensions[i]`; sizes of 1 and new dimensions repeat."""
    return lax.broadcast_in_dim(x, op.outputs[0].sizes, op.attributes["broadcast_dimensions"])


@op(
    "stablehlo.broadcast",
    unit="move",
    work=moved,
    cases=[
        case(
            "f32[3]",
            out="f32[2,4,3]",
            attributes="broadcast_sizes = array<i64: 2, 4>",
            expect=lambda x: np.broadcast_to(x, (2, 4, 3)),
        ),
        case("i8[]", out="i8[0]", attributes="broadcast_sizes = array<i64: 0>"),
    ],
)
def broadcast(op: OpView, x: Any) -> Any:
    """New major dimensions of these sizes."""
    return lax.broadcast(x, op.attributes["broadcast_sizes"])


@op(
    "stablehlo.concatenate",
    unit="move",
    work=moved,
    cases=[
        case(
            "f32[2,1]",
            "f32[2,3]",
            out="f32[2,4]",
            attributes="dimension = 1 : i64",
            expect=lambda x, y: np.concatenate([x, y], 1),
        ),
        case("i64[2]", "i64[0]", "i64[1]", out="i64[3]", attributes="dimension = 0 : i64"),
        case("bf16[2]", attributes="dimension = 0 : i64"),
    ],
)
def concatenate(op: OpView, *operands: Any) -> Any:
    """The operands one after the other along `dimension`."""
    return lax.concatenate(operands, op.attributes["dimension"])


def _slice(start: str, limit: str, strides: str) -> str:
    return (
        f"start_indices = array<i64: {start}>, limit_indices = array<i64: {limit}>, "
        f"strides = array<i64: {strides}>"
    )


@op(
    "stablehlo.slice",
    unit="move",
    work=picked,
    cases=[
        case(
            "f32[5,6]",
            out="f32[2,3]",
            attributes=_slice("1, 0", "3, 6", "1, 2"),
            expect=lambda x: x[1:3, ::2],
        ),
        case("i8[4]", out="i8[0]", attributes=_slice("4", "4", "1")),
        case("bf16[5]", out="bf16[2]", attributes=_slice("0", "5", "3")),
    ],
)
def slice_(op: OpView, x: Any) -> Any:
    """x[start:limit:stride] in each dimension."""
    a = op.attributes
    return lax.slice(x, a["start_indices"], a["limit_indices"], a["strides"])


def _pad(low: str, high: str, interior: str) -> str:
    return (
        f"edge_padding_low = array<i64: {low}>, edge_padding_high = array<i64: {high}>, "
        f"interior_padding = array<i64: {interior}>"
    )


@op(
    "stablehlo.pad",
    unit="move",
    work=moved,
    cases=[
        case(
            "f32[2,3]",
            "f32[]",
            out="f32[5,6]",
            attributes=_pad("1, 0", "2, 3", "0, 0"),
            expect=lambda x, v: np.pad(x, ((1, 2), (0, 3)), constant_values=v),
        ),
        case("i32[3]", "i32[]", out="i32[7]", attributes=_pad("1", "1", "1")),
        case("i32[4]", "i32[]", out="i32[2]", attributes=_pad("-1", "-1", "0")),
        case("bf16[0]", "bf16[]", out="bf16[3]", attributes=_pad("1", "2", "0")),
    ],
)
def pad(op: OpView, x: Any, value: Any) -> Any:
    """`value` before, after and between the elements; negative edges cut."""
    a = op.attributes
    sides = zip(a["edge_padding_low"], a["edge_padding_high"], a["interior_padding"], strict=True)
    return lax.pad(x, value, list(sides))


@op(
    "stablehlo.reverse",
    unit="move",
    work=moved,
    cases=[
        case("f32[2,3]", attributes="dimensions = array<i64: 1>", expect=lambda x: x[:, ::-1]),
        case("i8[2,2]", attributes="dimensions = array<i64: 0, 1>"),
        case("f16[0]", attributes="dimensions = array<i64: 0>"),
    ],
)
def reverse(op: OpView, x: Any) -> Any:
    """Back to front along these dimensions."""
    return lax.rev(x, op.attributes["dimensions"])


@op(
    "stablehlo.get_dimension_size",
    unit="control",
    work=nothing,
    cases=[
        case(
            "f32[2,3]",
            out="i32[]",
            attributes="dimension = 1 : i64",
            expect=lambda x: np.int32(x.shape[1]),
        ),
        case("f32[0]", out="i32[]", attributes="dimension = 0 : i64"),
    ],
)
def get_dimension_size(op: OpView, x: Any) -> Any:
    """The size of one dimension."""
    return np.int32(np.shape(x)[op.attributes["dimension"]])


def _sets_the_size_it_has(op: OpView) -> str:
    if op.outputs[0].is_static:
        return ""
    return "a size changed while running is bounded dynamism; specialise the module first"


@op(
    "stablehlo.set_dimension_size",
    unit="control",
    work=lambda op: Work(),
    cases=[
        case(
            "f32[2,3]",
            "i32[]",
            out="f32[2,3]",
            attributes="dimension = 1 : i64",
            given={1: 3},
            expect=lambda x, size: x,
        )
    ],
    refusal=_sets_the_size_it_has,
    reference="it has no rule for this op",
)
def set_dimension_size(op: OpView, x: Any, size: Any) -> Any:
    """x, whose dimension already has this size: all a statically shaped program can say."""
    return x
