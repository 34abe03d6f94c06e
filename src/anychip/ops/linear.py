"""Ops a matrix unit does: products, Einstein sums and convolutions."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.core.dtypes import dtype
from anychip.ops.attributes import ConvDims, DotDims
from anychip.ops.case import case
from anychip.ops.count import moved
from anychip.ops.table import op
from anychip.ops.view import OpView, Spec
from anychip.ops.work import Work


def _dot_dims(contract: str, batch: str = "") -> str:
    batching = f"lhs_batching_dimensions = [{batch}], rhs_batching_dimensions = [{batch}], "
    left, right = contract.split("x")
    return (
        f"dot_dimension_numbers = #stablehlo.dot<{batching if batch else ''}"
        f"lhs_contracting_dimensions = [{left}], rhs_contracting_dimensions = [{right}]>"
    )


def _dot_work(op: OpView) -> Work:
    dims: DotDims = op.attributes["dot_dimension_numbers"]
    depth = math.prod(op.inputs[0].sizes[d] for d in dims.lhs_contract)
    return moved(op) + Work(flops=2 * op.outputs[0].size * depth)


@op(
    "stablehlo.dot_general",
    unit="matmul",
    work=_dot_work,
    cases=[
        case(
            "f32[8,16]",
            "f32[16,4]",
            out="f32[8,4]",
            attributes=_dot_dims("1x0"),
            expect=np.matmul,
            reduced=16,
        ),
        case(
            "f32[2,3,4]",
            "f32[2,4,5]",
            out="f32[2,3,5]",
            attributes=_dot_dims("2x1", "0"),
            expect=np.matmul,
            reduced=4,
        ),
        case("bf16[4,8]", "bf16[3,8]", out="f32[4,3]", attributes=_dot_dims("1x1"), reduced=8),
        case("bf16[4,8]", "bf16[8,3]", out="bf16[4,3]", attributes=_dot_dims("1x0"), reduced=8),
        case("f16[4,8]", "f16[8,3]", out="f16[4,3]", attributes=_dot_dims("1x0"), reduced=8),
        case("f64[2,3]", "f64[3,2]", out="f64[2,2]", attributes=_dot_dims("1x0"), reduced=3),
        case(
            "i8[3,5]",
            "i8[5,2]",
            out="i32[3,2]",
            attributes=_dot_dims("1x0"),
            draw="bits",
            expect=lambda x, y: x.astype(np.int32) @ y.astype(np.int32),
        ),
        case("ui8[3,5]", "ui8[5,2]", out="ui32[3,2]", attributes=_dot_dims("1x0"), draw="bits"),
        case("i4[3,4]", "i4[4,2]", out="i32[3,2]", attributes=_dot_dims("1x0")),
        case(
            "f8E4M3FN[3,4]", "f8E4M3FN[4,2]", out="f32[3,2]", attributes=_dot_dims("1x0"), reduced=4
        ),
        case("f8E5M2[3,4]", "f8E5M2[4,2]", out="bf16[3,2]", attributes=_dot_dims("1x0"), reduced=4),
        case(
            "complex<f32>[2,3]",
            "complex<f32>[3,2]",
            out="complex<f32>[2,2]",
            attributes=_dot_dims("1x0"),
            expect=np.matmul,
            reduced=3,
        ),
        case("f32[0,4]", "f32[4,3]", out="f32[0,3]", attributes=_dot_dims("1x0")),
        case(
            "f32[2,0]",
            "f32[0,3]",
            out="f32[2,3]",
            attributes=_dot_dims("1x0"),
            expect=np.matmul,
            skip_reference="it aborts on an empty contraction",
        ),
        case("f32[3]", "f32[3]", out="f32[]", attributes=_dot_dims("0x0"), reduced=3),
        case("f32[2]", "f32[3]", out="f32[2,3]", attributes=_dot_dims("x"), expect=np.outer),
    ],
)
def dot_general(op: OpView, lhs: Any, rhs: Any) -> Any:
    """Sums of products over the contracting dimensions, for each index of the batching ones.

    Result dimensions: batching, then the free ones of lhs, then of rhs. Accumulated in the result's
    type or wider; a requested `precision` or `algorithm` is a lower bound and changes nothing here.
    """
    return contract(lhs, rhs, op.attributes["dot_dimension_numbers"], op.outputs[0])


def contract(lhs: Any, rhs: Any, dims: DotDims, out: Spec) -> Any:
    """`dot_general` for any pair of element types."""
    element = dtype(out.dtype).numpy
    lhs, rhs, wide = _same_type(lhs, rhs, element)
    numbers = ((dims.lhs_contract, dims.rhs_contract), (dims.lhs_batch, dims.rhs_batch))
    result = lax.dot_general(
        lhs, rhs, numbers, precision=lax.Precision.HIGHEST, preferred_element_type=wide
    )
    return lax.convert_element_type(result, element)


_MULTIPLIED_AS_IS = {"f16", "bf16", "f32", "f64", "complex<f32>", "complex<f64>"}


def _same_type(lhs: Any, rhs: Any, element: np.dtype) -> tuple[Any, Any, Any]:
    """Both operands in one type XLA multiplies, and the type to accumulate in."""
    names = {dtype(lhs.dtype).name, dtype(rhs.dtype).name}
    if len(names) == 1 and names <= _MULTIPLIED_AS_IS:
        return lhs, rhs, element
    # Narrow floats and integers are exact in f32 and in the integer accumulator.
    is_float = dtype(element).kind == "float"
    wide = np.promote_types(element, np.float32) if is_float and element.itemsize < 4 else element
    return lax.convert_element_type(lhs, wide), lax.convert_element_type(rhs, wide), wide


@op(
    "stablehlo.dot",
    unit="matmul",
    work=lambda op: moved(op) + Work(flops=2 * op.outputs[0].size * op.inputs[0].sizes[-1]),
    cases=[
        case("f32[2,3]", "f32[3,4]", out="f32[2,4]", expect=np.matmul, reduced=3),
        case("f32[3]", "f32[3]", out="f32[]", expect=np.dot, reduced=3),
        case("i8[2,3]", "i8[3]", out="i32[2]", expect=np.dot),
    ],
)
def dot(op: OpView, lhs: Any, rhs: Any) -> Any:
    """Matrix and vector products: the last dimension of lhs with the first of rhs."""
    dims = DotDims((), (), (lhs.ndim - 1,), (0,))
    return contract(lhs, rhs, dims, op.outputs[0])


def _einsum_work(op: OpView) -> Work:
    """Two flops for every point of the index space: what a direct evaluation does."""
    inputs = op.attributes["einsum_config"].split("->")[0].split(",")
    sizes = {
        letter: size
        for term, spec in zip(inputs, op.inputs, strict=True)
        for letter, size in zip(term, spec.sizes, strict=True)
    }
    return moved(op) + Work(flops=len(inputs) * math.prod(sizes.values()))


@op(
    "stablehlo.einsum",
    unit="matmul",
    work=_einsum_work,
    cases=[
        case(
            "f32[2,3]",
            "f32[3,4]",
            out="f32[2,4]",
            attributes='einsum_config = "ij,jk->ik"',
            expect=np.matmul,
            reduced=3,
        ),
        case(
            "f32[2,3,4]",
            "f32[2,3]",
            out="f32[2,4]",
            attributes='einsum_config = "bij,bi->bj"',
            expect=lambda x, y: np.einsum("bij,bi->bj", x, y),
            reduced=3,
        ),
    ],
    reference="it has no rule for this op",
)
def einsum(op: OpView, lhs: Any, rhs: Any) -> Any:
    """Einstein summation of two operands."""
    wide = dtype(op.outputs[0].dtype).numpy
    return jnp.einsum(
        op.attributes["einsum_config"],
        lhs,
        rhs,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=wide,
    )


@op(
    "stablehlo.unary_einsum",
    unit="vector",
    work=_einsum_work,
    cases=[
        case(
            "f32[2,3]",
            out="f32[2]",
            attributes='einsum_config = "ij->i"',
            expect=lambda x: x.sum(1),
            reduced=3,
        ),
        case(
            "f32[2,3]", out="f32[3,2]", attributes='einsum_config = "ij->ji"', expect=np.transpose
        ),
    ],
    reference="upstream lowers it to einsum, which has no rule",
)
def unary_einsum(op: OpView, x: Any) -> Any:
    """Einstein summation of one operand."""
    return jnp.einsum(op.attributes["einsum_config"], x)


def _conv(
    spec: str = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]",
    *,
    strides: str = "1, 1",
    padding: str = "[[0, 0], [0, 0]]",
    lhs: str = "1, 1",
    rhs: str = "1, 1",
    reversal: str = "false, false",
    groups: int = 1,
    batches: int = 1,
) -> str:
    rank = len(strides.split(","))
    return (
        f"dimension_numbers = #stablehlo.conv<{spec}>, window_strides = array<i64: {strides}>, "
        f"padding = dense<{padding}> : tensor<{rank}x2xi64>, lhs_dilation = array<i64: {lhs}>, "
        f"rhs_dilation = array<i64: {rhs}>, window_reversal = array<i1: {reversal}>, "
        f"feature_group_count = {groups} : i64, batch_group_count = {batches} : i64"
    )


def convolution_work(op: OpView) -> Work:
    """2 · outputs · (kernel elements behind one output), padding included."""
    dims: ConvDims = op.attributes["dimension_numbers"]
    kernel = op.inputs[1]
    filters = max(1, kernel.sizes[dims.kernel_output_feature])
    return moved(op) + Work(flops=2 * op.outputs[0].size * (kernel.size // filters))


CONVOLUTION_CASES = [
    case("f32[1,5,6,2]", "f32[3,2,2,4]", out="f32[1,3,5,4]", attributes=_conv(), reduced=12),
    case(
        "f32[2,7,7,4]",
        "f32[3,3,2,6]",
        out="f32[2,4,4,6]",
        attributes=_conv(strides="2, 2", padding="[[1, 1], [1, 1]]", groups=2),
        reduced=18,
    ),
    case(
        "f32[1,3,8,8]",
        "f32[4,3,3,3]",
        out="f32[1,4,8,8]",
        attributes=_conv("[b, f, 0, 1]x[o, i, 0, 1]->[b, f, 0, 1]", padding="[[1, 1], [1, 1]]"),
        reduced=27,
    ),
    case(
        "f32[1,4,4,1]",
        "f32[2,2,1,1]",
        out="f32[1,6,5,1]",
        attributes=_conv(
            lhs="2, 1", rhs="1, 2", padding="[[0, 0], [1, 2]]", reversal="true, false"
        ),
        reduced=4,
    ),
    case(
        "f32[4,3,3,2]",
        "f32[2,2,2,4]",
        out="f32[2,2,2,4]",
        attributes=_conv(batches=2),
        reduced=8,
    ),
    case("bf16[1,4,4,2]", "bf16[2,2,2,3]", out="bf16[1,3,3,3]", attributes=_conv(), reduced=8),
    case("i8[1,4,4,2]", "i8[2,2,2,3]", out="i32[1,3,3,3]", attributes=_conv(), draw="small"),
    case(
        "i8[1,2,2,1]",
        "i8[2,2,1,1]",
        out="i32[1,1,1,1]",
        attributes=_conv(),
        given={0: [100] * 4, 1: [100] * 4},
        expect=lambda x, w: np.array([[[[40000]]]]),
        skip_reference="it sums i8 convolutions in i8, where the result type is i32",
    ),
    case(
        "f32[1,6,3]",
        "f32[3,3,2]",
        out="f32[1,4,2]",
        attributes=_conv(
            "[b, 0, f]x[0, i, o]->[b, 0, f]",
            strides="1",
            padding="[[0, 0]]",
            lhs="1",
            rhs="1",
            reversal="false",
        ),
        reduced=9,
    ),
    case("f32[0,3,3,1]", "f32[2,2,1,1]", out="f32[0,2,2,1]", attributes=_conv()),
    case(
        "f32[1,4,1]",
        "f32[2,1,1]",
        out="f32[1,3,1]",
        attributes="dimension_numbers = #stablehlo.conv<[b, 0, f]x[0, i, o]->[b, 0, f]>, "
        "feature_group_count = 1 : i64, batch_group_count = 1 : i64",
        expect=lambda x, w: x[:, :-1] * w[0] + x[:, 1:] * w[1],
        reduced=2,
    ),
]


@op("stablehlo.convolution", unit="matmul", work=convolution_work, cases=CONVOLUTION_CASES)
def convolution(op: OpView, lhs: Any, rhs: Any) -> Any:
    """Dot products of windows of the (dilated, padded) input with the (dilated) kernels.

    The kernel is not flipped unless `window_reversal` says so.
    """
    rank = len(op.attributes["dimension_numbers"].kernel_spatial)
    sides = op.attributes.get("padding", np.zeros((rank, 2), np.int64))
    padding = [(int(low), int(high)) for low, high in sides]
    return convolve(op, lhs, rhs, padding)


def convolve(op: OpView, lhs: Any, rhs: Any, padding: list[tuple[int, int]]) -> Any:
    """`convolution` with the padding given apart, as `dynamic_conv` has it."""
    a = op.attributes
    dims: ConvDims = a["dimension_numbers"]
    spatial = dims.kernel_spatial
    flips = a.get("window_reversal") or (False,) * len(spatial)
    if any(flips):
        rhs = lax.rev(rhs, [d for d, flip in zip(spatial, flips, strict=True) if flip])
    element = dtype(op.outputs[0].dtype).numpy
    lhs, rhs, wide = _same_type(lhs, rhs, element)
    ones = (1,) * len(spatial)
    result = lax.conv_general_dilated(
        lhs,
        rhs,
        a.get("window_strides") or ones,
        padding,
        lhs_dilation=a.get("lhs_dilation") or ones,
        rhs_dilation=a.get("rhs_dilation") or ones,
        dimension_numbers=lax.ConvDimensionNumbers(
            (dims.input_batch, dims.input_feature, *dims.input_spatial),
            (dims.kernel_output_feature, dims.kernel_input_feature, *dims.kernel_spatial),
            (dims.output_batch, dims.output_feature, *dims.output_spatial),
        ),
        feature_group_count=a["feature_group_count"],
        batch_group_count=a["batch_group_count"],
        precision=lax.Precision.HIGHEST,
        preferred_element_type=wide,
    )
    return lax.convert_element_type(result, element)
