"""What works row by row or number by number: norms, activations, arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from anychip.compilers.native.kernels.norm import RmsNorm
from anychip.compilers.native.kernels.number import SIZES
from anychip.compilers.native.kernels.pointwise import ON_INTEGERS, Pointwise, Source
from anychip.compilers.native.view import FLOATS, NoKernel, View
from anychip.ops.view import OpView


def rms_norm(reader: Any, op: OpView, inputs: list[Any]) -> View:
    attributes = op.attributes["composite_attributes"]
    x, rows, stride = reader.row_view(inputs[0])
    scales = [reader.view(one) for one in inputs[1:]]
    kernel = RmsNorm(
        rows,
        x.shape[-1],
        stride,
        attributes["eps"],
        attributes["offset"],
        _float(scales[0]).element if scales else "",
    )
    out = reader.buffer("normed", x.shape, kernel)
    reader.add(kernel, x, *scales, out)
    return out


def _float(view: View) -> View:
    if view.element not in FLOATS:
        raise NoKernel(f"numbers of {view.element}")
    return view


def pointwise(formula: str, numbers: Callable[[Any], tuple[float, ...]] = lambda _: ()) -> Any:
    def cover_one(reader: Any, op: OpView, inputs: list[Any]) -> View:
        views = [reader.view(one) for one in inputs]
        shape = op.outputs[0].sizes or (1,)
        element = "i32" if op.outputs[0].dtype == "i32" else "f32"
        sources: list[Source] = []
        for view in views:
            if (element == "i32") != (view.element == "i32") or view.element not in SIZES:
                raise NoKernel(f"numbers of {view.element}")
            strides = view.strides or (0,)
            if shape[-1] == 1:
                strides = (*strides[:-1], 0)
            if strides[-1] not in (0, 1):
                raise NoKernel("elements of a row are not next to each other")
            sources.append(Source(view.element, strides))
        if element == "i32" and formula not in ON_INTEGERS:
            raise NoKernel("integers")
        if element == "f32" and op.outputs[0].dtype not in FLOATS:
            raise NoKernel(f"results of {op.outputs[0].dtype}")
        kernel = Pointwise(formula, shape, tuple(sources), numbers(op), element)
        if all(v.is_dense and v.shape == op.outputs[0].sizes for v in views) and len(shape) > 2:
            flat = (math.prod(shape[:-1]), shape[-1])
            plain = tuple(
                Source(v.element, (shape[-1], s.strides[-1]))
                for v, s in zip(views, sources, strict=True)
            )
            kernel = replace(kernel, shape=flat, sources=plain)
        out = reader.buffer(formula, op.outputs[0].sizes, kernel, 4 * math.prod(shape))
        out = replace(out, element=element)
        reader.add(kernel, *views, out)
        return out

    return cover_one


def swiglu_numbers(op: OpView) -> tuple[float, ...]:
    attributes = op.attributes["composite_attributes"]
    return attributes["alpha"], attributes["limit"], attributes["offset"]


def gelu(reader: Any, op: OpView, inputs: list[Any]) -> View:
    if not op.attributes["composite_attributes"]["approximate"]:
        raise NoKernel("the exact gelu")
    return pointwise("gelu_tanh")(reader, op, inputs)
