"""Quantised tensors: QuantizeLinear and its inverse, integer and QLinear products."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from anychip.core.dtypes import dtype
from anychip.frontends.onnx.rules.cast import clamp, convert
from anychip.frontends.onnx.rules.conv import convolve, per_channel
from anychip.frontends.onnx.table import Call, op
from anychip.frontends.onnx.tensors import element


def spread(parameter: Any, x: Any, axis: int, block: int) -> Any:
    """A scale or zero point, shaped like x: per tensor, per axis, or per block along an axis."""
    if parameter.ndim == 0 or parameter.shape == (1,):
        return parameter.reshape(())
    if parameter.ndim == 1:
        shape = [1] * x.ndim
        shape[axis] = -1
        return parameter.reshape(shape)
    if parameter.shape == x.shape:
        return parameter
    block = block or -(-x.shape[axis] // parameter.shape[axis])
    wide = jnp.repeat(parameter, block, axis=axis)
    return wide[(slice(None),) * axis + (slice(0, x.shape[axis]),)]


def limits(kind: Any) -> tuple[int, int]:
    """The smallest and largest value of an integer type, sub-byte ones included."""
    one = dtype(kind)
    if one.kind == "uint":
        return 0, (1 << one.bits) - 1
    return -(1 << one.bits - 1), (1 << one.bits - 1) - 1


def quantized(x: Any, scale: Any, zero: Any, kind: Any, saturate: bool = True) -> Any:
    """round(x / scale) + zero, in `kind`; floats only divide and convert."""
    if dtype(kind).kind == "float":
        return convert(jnp, x / scale, np.dtype(kind), saturate)
    low, high = limits(kind)
    value = jnp.round(x / scale)
    if zero is not None:
        value = value + zero.astype(value.dtype)
    return convert(jnp, clamp(value, low, high), np.dtype(kind), saturate)


def dequantized(x: Any, scale: Any, zero: Any) -> Any:
    """(x - zero) · scale in the scale's type."""
    value = x.astype(np.float32)
    if zero is not None:
        value = value - zero.astype(np.float32)
    wide = jnp.promote_types(scale.dtype, np.float32)
    return (value * scale.astype(wide)).astype(scale.dtype)


@op("QuantizeLinear")
@op("QuantizeLinear", domain="com.microsoft")
def quantize_linear(call: Call, x: Any, scale: Any, zero: Any = None) -> Any:
    axis = call.attr("axis", 1)
    axis = axis % x.ndim if x.ndim else 0
    block = call.attr("block_size", 0)
    kind = np.dtype(np.uint8) if zero is None else zero.dtype
    if zero is None and (code := call.attr("output_dtype", 0)):
        kind = element(code).numpy
    wide = x.dtype
    if code := call.attr("precision", 0):
        wide = element(code).numpy
    factor = spread(scale, x, axis, block).astype(wide)
    if x.dtype.kind in "iu":
        wide = scale.dtype
        factor = spread(scale, x, axis, block)
    offset = None if zero is None else spread(zero, x, axis, block)
    return quantized(x.astype(wide), factor, offset, kind, bool(call.attr("saturate", 1)))


@op("DequantizeLinear")
@op("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(call: Call, x: Any, scale: Any, zero: Any = None) -> Any:
    axis = call.attr("axis", 1)
    axis = axis % x.ndim if x.ndim else 0
    block = call.attr("block_size", 0)
    offset = None if zero is None else spread(zero, x, axis, block)
    out = dequantized(x, spread(scale, x, axis, block), offset)
    code = call.attr("output_dtype", 0)
    return out.astype(element(code).numpy) if code else out


@op("DynamicQuantizeLinear")
def dynamic_quantize_linear(call: Call, x: Any) -> Any:
    low, high = jnp.minimum(jnp.min(x), 0), jnp.maximum(jnp.max(x), 0)
    scale = (high - low) / 255
    safe = jnp.where(scale == 0, 1, scale).astype(np.float32)
    zero = clamp(jnp.round(-low / safe), 0, 255).astype(np.uint8)
    return quantized(x, safe, zero, np.uint8), scale.astype(np.float32), zero


def centred(x: Any, zero: Any, shape: Any = None) -> Any:
    """x - zero in i32."""
    wide = x.astype(np.int32)
    if zero is None:
        return wide
    zero = zero.astype(np.int32)
    return wide - (zero if shape is None or zero.ndim == 0 else zero.reshape(shape))


@op("MatMulInteger")
def mat_mul_integer(call: Call, a: Any, b: Any, za: Any = None, zb: Any = None) -> Any:
    rows = (-1, 1) if za is not None and za.ndim == 1 and za.size > 1 else None
    return jnp.matmul(centred(a, za, rows), centred(b, zb), preferred_element_type=np.int32)


@op("ConvInteger")
def conv_integer(call: Call, x: Any, w: Any, zx: Any = None, zw: Any = None) -> Any:
    channels = (-1,) + (1,) * (w.ndim - 1)
    zw = zw.reshape(()) if zw is not None and zw.size == 1 else zw
    zx = zx.reshape(()) if zx is not None else zx
    return convolve(call, centred(x, zx), centred(w, zw, channels), np.int32)


@op("QLinearMatMul")
def q_linear_mat_mul(
    call: Call, a: Any, sa: Any, za: Any, b: Any, sb: Any, zb: Any, sy: Any, zy: Any
) -> Any:
    rows = (-1, 1) if za.ndim == 1 and za.size > 1 else None
    total = jnp.matmul(centred(a, za, rows), centred(b, zb), preferred_element_type=np.int32)
    factor = (sa.reshape(rows) if rows and sa.size > 1 else sa).astype(np.float32) * sb.astype(
        np.float32
    )
    return quantized(total.astype(np.float32) * factor, sy.astype(np.float32), zy, zy.dtype)


@op("QLinearConv")
def q_linear_conv(
    call: Call,
    x: Any,
    sx: Any,
    zx: Any,
    w: Any,
    sw: Any,
    zw: Any,
    sy: Any,
    zy: Any,
    b: Any = None,
) -> Any:
    channels = (-1,) + (1,) * (w.ndim - 1)
    zw = zw.reshape(()) if zw.size == 1 else zw
    total = convolve(call, centred(x, zx.reshape(())), centred(w, zw, channels), np.int32)
    if b is not None:
        total = total + per_channel(b, total.ndim)
    factor = sx.reshape(()) * (per_channel(sw, total.ndim) if sw.size > 1 else sw.reshape(()))
    return quantized(total.astype(np.float32) * factor, sy.reshape(()), zy.reshape(()), zy.dtype)
