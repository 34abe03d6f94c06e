"""Convolutions as Conv and ConvTranspose: channels second, as ONNX wants them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from anychip.compilers.onnx_export.graph import Graph, Tensor, read_by
from anychip.compilers.onnx_export.shape import dilate, pad
from anychip.compilers.onnx_export.typed import computing_type
from anychip.core import UnsupportedError, dtype
from anychip.ops.attributes import ConvDims
from anychip.ops.view import OpView


def _convolution(g: Graph, op: OpView, x: Tensor, kernel: Tensor) -> Tensor:
    a, out = op.attributes, op.outputs[0]
    dims: ConvDims = a["dimension_numbers"]
    spatial = len(dims.input_spatial)
    if a.get("batch_group_count", 1) != 1:
        raise UnsupportedError("ONNX's Conv has no batch groups (a gradient of a convolution)")
    if not spatial:
        raise UnsupportedError("ONNX's Conv needs a spatial dimension; use a matrix product")
    wide = computing_type(out.dtype)
    if dtype(wide).kind != "float":
        wide = "f64" if dtype(out.dtype).bits > 16 else "f32"  # exact up to 2^53 and 2^24
    image, weight = g.whole(x), g.whole(kernel)
    image = image if x.dtype == wide else g.cast(image, wide)
    weight = weight if kernel.dtype == wide else g.cast(weight, wide)
    x_order = [dims.input_batch, dims.input_feature, *dims.input_spatial]
    k_order = [dims.kernel_output_feature, dims.kernel_input_feature, *dims.kernel_spatial]
    image, weight = g.transpose(image, x_order), g.transpose(weight, k_order)
    x_sizes = [x.shape[d] for d in x_order]
    k_sizes = [op.inputs[1].sizes[d] for d in k_order]
    ones = (1,) * spatial
    reversal = a.get("window_reversal") or (False,) * spatial
    flipped = [2 + d for d in range(spatial) if reversal[d]]
    strides = tuple(a.get("window_strides") or ones)
    rhs = tuple(a.get("rhs_dilation") or ones)
    lhs = tuple(a.get("lhs_dilation") or ones)
    given = a.get("padding")
    padding = np.zeros((spatial, 2), int) if given is None else np.asarray(given).reshape(-1, 2)
    groups = a.get("feature_group_count", 1)
    made = ""
    if lhs != ones and strides == ones:
        made = _transposed(g, image, weight, k_sizes, flipped, lhs, rhs, padding, groups)
    if not made:
        if flipped:
            weight = _flip(g, weight, flipped)
        fill = g.constant(0, wide)
        if lhs != ones:
            between = (0, 0, *(d - 1 for d in lhs))
            if None in x_sizes:
                raise UnsupportedError("a dilated input of a size known only when running")
            image, _ = dilate(g, image, tuple(d or 0 for d in x_sizes), between, fill)
        if (padding < 0).any():
            zero = [0, 0]
            image = pad(g, image, [*zero, *padding[:, 0]], [*zero, *padding[:, 1]], fill)
            padding = np.zeros_like(padding)
        made = g.node(
            "Conv",
            [image, weight],
            kernel_shape=list(k_sizes[2:]),
            strides=list(strides),
            dilations=list(rhs),
            group=groups,
            pads=[*map(int, padding[:, 0]), *map(int, padding[:, 1])],
        )
    back = [dims.output_batch, dims.output_feature, *dims.output_spatial]
    made = g.transpose(made, [back.index(d) for d in range(len(back))])
    made = made if wide == out.dtype else g.cast(made, out.dtype)
    return Tensor(made, out.shape, out.shape, out.dtype)


def _flip(g: Graph, name: str, axes: list[int]) -> str:
    n = len(axes)
    return g.slice(name, [-1] * n, [-(2**62)] * n, axes, [-1] * n)


def _transposed(
    g: Graph,
    image: str,
    weight: str,
    k_sizes: list[int],
    flipped: list[int],
    lhs: tuple[int, ...],
    rhs: tuple[int, ...],
    padding: Any,
    groups: int,
) -> str:
    """ConvTranspose for a convolution of a dilated input; "" where its padding cannot be said.

    A transposed convolution of padding p is a convolution of the dilated input by the flipped
    kernel with padding d (k - 1) - p (arXiv:1603.07285, section 4).
    """
    reach = [r * (k - 1) for r, k in zip(rhs, k_sizes[2:], strict=True)]
    low = [r - int(p) for r, p in zip(reach, padding[:, 0], strict=True)]
    high = [r - int(p) for r, p in zip(reach, padding[:, 1], strict=True)]
    extra = [max(0, -h) for h in high]
    if min(low) < 0 or any(e >= s for e, s in zip(extra, lhs, strict=True)):
        return ""
    axes = [2 + d for d in range(len(lhs)) if 2 + d not in flipped]
    if axes and k_sizes[2:] != [1] * len(lhs):
        weight = _flip(g, weight, axes)
    outs, ins = k_sizes[0], k_sizes[1]
    if groups == 1:
        weight = g.transpose(weight, [1, 0, *range(2, len(k_sizes))])
    else:
        each = outs // groups
        weight = g.reshape(weight, [groups, each, ins, *k_sizes[2:]])
        weight = g.transpose(weight, [0, 2, 1, *range(3, len(k_sizes) + 1)])
        weight = g.reshape(weight, [groups * ins, each, *k_sizes[2:]])
    return g.node(
        "ConvTranspose",
        [image, weight],
        kernel_shape=list(k_sizes[2:]),
        strides=list(lhs),
        dilations=list(rhs),
        group=groups,
        pads=[*low, *(max(0, h) for h in high)],
        output_padding=extra,
    )


def join_biases(g: Graph, kept: set[str]) -> None:
    """Put a vector over the channels that is added to a Conv's only reader into the Conv itself.

    `kept` are values that must stay as they are: the model's results.
    """
    readers = Counter(name for node in g.nodes for name in read_by(node))
    convs = {n.output[0]: n for n in g.nodes if n.op_type == "Conv" and len(n.input) == 2}
    for node in [n for n in g.nodes if n.op_type == "Add"]:
        for image, bias in (node.input, [*node.input][::-1]):
            conv, array = convs.get(image), g.arrays.get(bias)
            if conv is None or array is None or readers[image] != 1 or image in kept:
                continue
            channels = array.shape[1] if array.ndim > 2 else 0
            if not channels or array.size != channels or array.dtype.kind != "f":
                continue
            sizes = g.sizes.get(conv.input[1])
            if sizes is None or sizes[0] != channels:  # one number for all would need spreading
                continue
            conv.input.append(g.constant(array.reshape(-1)))
            conv.output[0] = node.output[0]
            g.nodes.remove(node)
            break


RULES = {"stablehlo.convolution": _convolution}
