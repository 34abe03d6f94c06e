"""Quantised ops of ONNX Runtime's domain com.microsoft: block weights and QLinear arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anychip.core.errors import InputError, UnsupportedError
from anychip.frontends.onnx.rules.cast import clamp
from anychip.frontends.onnx.rules.conv import average_pool
from anychip.frontends.onnx.rules.quant import centred, dequantized, quantized
from anychip.frontends.onnx.table import MICROSOFT, Call, op
from anychip.ops import composites


def unpacked(data: Any, bits: int, count: int) -> Any:
    """The last axis's bytes as `count` unsigned values of `bits` bits, lowest bits first."""
    if bits == 8:
        return data[..., :count]
    per_byte = 8 // bits
    shifts = np.arange(per_byte, dtype=np.uint8) * bits
    values = (data[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return values.reshape((*data.shape[:-1], data.shape[-1] * per_byte))[..., :count]


@op("MatMulNBits", domain=MICROSOFT)
def mat_mul_n_bits(
    call: Call,
    a: Any,
    packed: Any,
    scales: Any,
    zeros: Any = None,
    order: Any = None,
    bias: Any = None,
) -> Any:
    """a · Wᵀ with W[N, K] in blocks along K: (q - zero) · scale; without zeros, the middle."""
    depth, rows = call.required("K"), call.required("N")
    bits, block = call.attr("bits", 4), call.required("block_size")
    if bits not in (2, 4, 8):
        raise UnsupportedError(f"has {bits}-bit weights; 2, 4 and 8 work")
    blocks = -(-depth // block)
    values = unpacked(packed.reshape((rows, blocks, -1)), bits, block).astype(np.float32)
    scale = scales.reshape((rows, blocks)).astype(np.float32)
    if zeros is None:
        zero: Any = np.float32(1 << (bits - 1))
    elif zeros.dtype == np.uint8:
        zero = unpacked(zeros.reshape((rows, -1)), bits, blocks).astype(np.float32)
    else:
        zero = zeros.reshape((rows, blocks)).astype(np.float32)
    if order is None:
        zero = zero if np.ndim(zero) == 0 else zero[..., None]
        weight = ((values - zero) * scale[..., None]).reshape((rows, blocks * block))
    else:  # each column names its block
        flat = values.reshape((rows, blocks * block))[:, :depth]
        zero = zero if np.ndim(zero) == 0 else zero[:, order]
        weight = (flat - zero) * scale[:, order]
    weight = weight[:, :depth].astype(a.dtype)
    out = jnp.einsum("...k,nk->...n", a, weight, preferred_element_type=a.dtype)
    return out if bias is None else out + bias


@op("GatherBlockQuantized", domain=MICROSOFT)
def gather_block_quantized(
    call: Call, data: Any, indices: Any, scales: Any, zeros: Any = None
) -> Any:
    bits, block = call.attr("bits", 4), call.attr("block_size", 128)
    axis, along = call.attr("gather_axis", 0), call.attr("quantize_axis", 1) % data.ndim
    if axis != 0 or along != data.ndim - 1:
        raise UnsupportedError(
            "gathers along another axis than 0 of weights blocked along the last"
        )
    rows = data[indices]
    if data.dtype == np.uint8:
        rows = unpacked(rows, bits, rows.shape[-1] * (8 // bits))
    width = rows.shape[-1]
    scale = jnp.repeat(scales[indices], block, axis=-1)[..., :width]
    middle = (1 << (bits - 1)) if data.dtype == np.uint8 else 0
    zero: Any = np.float32(middle)
    if zeros is not None:
        picked = zeros[indices]
        if data.dtype == np.uint8:
            picked = unpacked(picked, bits, scales.shape[-1])
        zero = jnp.repeat(picked, block, axis=-1)[..., :width].astype(np.float32)
    return ((rows.astype(np.float32) - zero) * scale.astype(np.float32)).astype(scales.dtype)


@op("MatMulIntegerToFloat", domain=MICROSOFT)
def mat_mul_integer_to_float(
    call: Call, a: Any, b: Any, sa: Any, sb: Any, za: Any = None, zb: Any = None, bias: Any = None
) -> Any:
    total = jnp.matmul(centred(a, za), centred(b, zb), preferred_element_type=np.int32)
    out = total.astype(np.float32) * (sa * sb)
    return out if bias is None else out + bias


@op("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_mat_mul(
    call: Call, a: Any, b: Any, sb: Any, zb: Any = None, bias: Any = None
) -> Any:
    """`a` is quantised to unsigned 8 bits on the fly, as DynamicQuantizeLinear does."""
    low, high = jnp.minimum(jnp.min(a), 0), jnp.maximum(jnp.max(a), 0)
    scale = (high - low) / 255
    safe = jnp.where(scale == 0, 1, scale)
    zero = clamp(jnp.round(-low / safe), 0, 255).astype(np.uint8)
    return mat_mul_integer_to_float(
        call, quantized(a, safe, zero, np.uint8), b, scale, sb, zero, zb, bias
    )


@op("QGemm", domain=MICROSOFT)
def q_gemm(
    call: Call,
    a: Any,
    sa: Any,
    za: Any,
    b: Any,
    sb: Any,
    zb: Any,
    c: Any = None,
    sy: Any = None,
    zy: Any = None,
) -> Any:
    left, right = centred(a, za), centred(b, zb, (1, -1) if zb is not None and zb.ndim else None)
    left = left.T if call.attr("transA", 0) else left
    if call.attr("transB", 0):
        right = centred(b, zb, (-1, 1) if zb is not None and zb.size > 1 else None).T
    total = jnp.matmul(left, right, preferred_element_type=np.int32)
    total = total if c is None else total + c
    out = total.astype(np.float32) * (sa * sb * call.attr("alpha", 1.0))
    return out if sy is None else quantized(out, sy, zy, zy.dtype if zy is not None else np.uint8)


Function = Callable[..., Any]


def _binary(name: str, function: Function) -> None:
    def rule(
        call: Call, a: Any, sa: Any, za: Any, b: Any, sb: Any, zb: Any, sy: Any, zy: Any = None
    ) -> Any:
        out = function(dequantized(a, sa, za), dequantized(b, sb, zb))
        return quantized(out, sy, zy, a.dtype)

    rule.__name__ = name.lower()
    op(name, domain=MICROSOFT)(rule)


_binary("QLinearAdd", jnp.add)
_binary("QLinearMul", jnp.multiply)


def _unary(name: str, function: Function) -> None:
    """x, scale and zero in; scale and zero out: the function of the numbers in between."""

    def rule(call: Call, x: Any, sx: Any, zx: Any, sy: Any, zy: Any = None) -> Any:
        return quantized(function(call, dequantized(x, sx, zx)), sy, zy, x.dtype)

    rule.__name__ = name.lower()
    op(name, domain=MICROSOFT)(rule)


def _leaky(call: Call, x: Any) -> Any:
    return jnp.where(x < 0, x * call.attr("alpha", 0.01), x)


def _global_average(call: Call, x: Any) -> Any:
    if call.attr("channels_last", 0):
        return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), keepdims=True)
    return jnp.mean(x, axis=tuple(range(2, x.ndim)), keepdims=True)


def _average(call: Call, x: Any) -> Any:
    if call.attr("channels_last", 0):
        return jnp.moveaxis(average_pool(call, jnp.moveaxis(x, -1, 1)), 1, -1)
    return average_pool(call, x)


def _softmax(call: Call, x: Any) -> Any:
    axis = call.attr("axis", -1) % x.ndim
    if call.attr("opset", 13) >= 13:
        return call.composite(composites.softmax, x, axis=axis)
    flat = x.reshape((*x.shape[:axis], -1))
    return call.composite(composites.softmax, flat, axis=-1).reshape(x.shape)


def _mean(call: Call, x: Any) -> Any:
    axes = call.attr("axes")
    keep = bool(call.attr("keepdims", 1))
    return jnp.mean(x, axis=tuple(axes) if axes else None, keepdims=keep)


_unary("QLinearLeakyRelu", _leaky)
_unary("QLinearSigmoid", lambda call, x: jax.nn.sigmoid(x))
_unary("QLinearGlobalAveragePool", _global_average)
_unary("QLinearAveragePool", _average)
_unary("QLinearSoftmax", _softmax)
_unary("QLinearReduceMean", _mean)


@op("QLinearConcat", domain=MICROSOFT)
def q_linear_concat(call: Call, sy: Any, zy: Any, *parts: Any) -> Any:
    if len(parts) % 3:
        raise InputError("wants a scale and a zero point for each part")
    values = [dequantized(*parts[i : i + 3]) for i in range(0, len(parts), 3)]
    return quantized(jnp.concatenate(values, axis=call.required("axis")), sy, zy, zy.dtype)


@op("QLinearWhere", domain=MICROSOFT)
def q_linear_where(
    call: Call,
    condition: Any,
    x: Any,
    sx: Any,
    zx: Any,
    y: Any,
    sy: Any,
    zy: Any,
    sz: Any,
    zz: Any,
) -> Any:
    out = jnp.where(condition, dequantized(x, sx, zx), dequantized(y, sy, zy))
    return quantized(out, sz, zz, x.dtype)
