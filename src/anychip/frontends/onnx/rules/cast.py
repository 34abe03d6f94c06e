"""Changes of element type: Cast, CastLike, BitCast."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anychip.core.dtypes import dtype
from anychip.core.errors import InputError, UnsupportedError
from anychip.frontends.onnx.fold import LIMIT, Sizes
from anychip.frontends.onnx.table import Call, op
from anychip.frontends.onnx.tensors import STRING, element


@op("Cast", "CastLike", raw=True)
def cast(call: Call, x: Any, like: Any = None) -> Any:
    if call.node.op == "CastLike":
        target = np.dtype(_dtype_of(like))
    else:
        code = call.required("to")
        if code == STRING:
            raise UnsupportedError("casts to strings, which no chip computes on")
        target = element(code, field=call.node.label).numpy
    if isinstance(x, Sizes) and target.kind in "iu":
        return Sizes(x.values, target)
    if isinstance(x, np.ndarray) and x.dtype == object:
        return _parse_text(x, target)
    saturate, mode = bool(call.attr("saturate", 1)), call.attr("round_mode", "up")
    if isinstance(x, np.ndarray) and x.size <= LIMIT:
        with np.errstate(all="ignore"):
            return convert(np, x, target, saturate, mode)
    return convert(jnp, call.evaluator.traced(x), target, saturate, mode)


def _dtype_of(value: Any) -> Any:
    return dtype(value.dtype).numpy if isinstance(value.dtype, str) else value.dtype


def _parse_text(x: np.ndarray, target: np.dtype) -> np.ndarray:
    try:
        return np.array([float(t) for t in x.reshape(-1)]).astype(target).reshape(x.shape)
    except ValueError as error:
        raise InputError(f"casts text that is no number: {error}") from None


def convert(xp: Any, x: Any, target: np.dtype, saturate: bool, round_mode: str = "up") -> Any:
    """Cast as ONNX has it: floats saturate at the ends of 8-bit floats unless told otherwise."""
    kind = dtype(target)
    if kind.name == "f8E8M0FNU":
        return _to_e8m0(x, target, saturate, round_mode)
    if kind.kind == "float" and kind.bits <= 8 and x.dtype.kind not in "biu":
        import ml_dtypes

        top = float(ml_dtypes.finfo(target).max)
        if saturate or kind.bits < 8:
            bounds = np.asarray(-top, x.dtype), np.asarray(top, x.dtype)
            x = xp.where(xp.isnan(x), x, xp.minimum(xp.maximum(x, bounds[0]), bounds[1]))
        elif kind.name.endswith("FNUZ"):
            x = xp.where(xp.isinf(x), xp.full_like(x, np.nan), x)
    if target == np.bool_:
        return x != 0
    if kind.kind in ("int", "uint") and kind.bits < 8 and x.dtype.kind not in "biu":
        wide = np.dtype(np.int32)
        return x.astype(wide).astype(target)
    return x.astype(target)


def _to_e8m0(x: Any, target: np.dtype, saturate: bool, round_mode: str) -> Any:
    """The exponent of x as an E8M0 number: 2^(e-127), no sign, NaN is 255 (OCP MX, 5.4.1)."""
    wide = jnp.abs(jnp.asarray(x)).astype(np.float32)
    bits = jax.lax.bitcast_convert_type(wide, np.uint32)
    exponent, fraction = (bits >> 23).astype(np.int32), bits & 0x7FFFFF
    if round_mode == "up":
        more = fraction > jnp.where(exponent == 0, 0x400000, 0)
    elif round_mode == "nearest":
        more = fraction >= 0x400000
    else:
        more = jnp.zeros_like(fraction, bool)
    rounded = exponent + more
    top = 254 if saturate else 255
    rounded = jnp.where(
        exponent >= 255, jnp.where(jnp.isnan(wide), 255, top), jnp.minimum(rounded, top)
    )
    return jax.lax.bitcast_convert_type(rounded.astype(np.uint8), target)


def clamp(x: Any, low: float, high: float) -> Any:
    """x within bounds, in x's type; jnp.clip would carry Python numbers as 64-bit constants."""
    return jax.lax.clamp(np.asarray(low, x.dtype), x, np.asarray(high, x.dtype))


@op("BitCast")
def bit_cast(call: Call, x: Any) -> Any:
    target = element(call.required("to"), field=call.node.label).numpy
    raw = x.astype(np.uint8) if x.dtype == np.bool_ else x
    if target == np.bool_:
        return jax.lax.bitcast_convert_type(raw, np.uint8) != 0
    return jax.lax.bitcast_convert_type(raw, target)
