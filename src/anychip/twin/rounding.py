"""Numbers rounded to a chip's formats, as f32 arrays that JAX can trace: floats, scaled, blocks.

Exact to the bit: significands are rounded on the integers behind them, so that neither a compiler
that drops pairs of conversions nor a host that flushes subnormals changes anything. Nothing here
knows chips.
"""

# JAX's own annotations are partly unknown to pyright; strictness about them finds nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.core.errors import unknown

Beyond = Literal["saturate", "own"]
"""What becomes of numbers too large: the largest one, or what the format has (infinity or NaN)."""


@dataclass(frozen=True)
class Float:
    """A binary float: `least` is the exponent of its smallest normal number, `mantissa` the stored
    bits. `beyond` is what it has past `largest` ("none": no code, so everything saturates)."""

    least: int
    mantissa: int
    largest: float
    beyond: Literal["infinity", "nan", "none"] = "infinity"
    has_negative_zero: bool = True

    @property
    def top_exponent(self) -> int:
        """floor(log2(largest)): the emax of the OCP MX specification."""
        return math.frexp(self.largest)[1] - 1


FLOATS: Mapping[str, Float] = {
    "f16": Float(-14, 10, 65504.0),
    "bf16": Float(-126, 7, 3.3895313892515355e38),
    "tf32": Float(-126, 10, 3.4011621342146535e38),
    # OCP 8-bit Floating Point Specification (OFP8) 1.0, table 1.
    "f8E4M3FN": Float(-6, 3, 448.0, "nan"),
    "f8E5M2": Float(-14, 2, 57344.0),
    # IEEE-like and "no negative zero" variants (StableHLO specification, "Types").
    "f8E4M3": Float(-6, 3, 240.0),
    "f8E3M4": Float(-2, 4, 15.5),
    "f8E4M3FNUZ": Float(-7, 3, 240.0, "nan", has_negative_zero=False),
    "f8E5M2FNUZ": Float(-15, 2, 57344.0, "nan", has_negative_zero=False),
    # OCP Microscaling Formats (MX) specification 1.0, sections 5.3.2 and 5.3.3.
    "f6E2M3FN": Float(0, 3, 7.5, "none"),
    "f6E3M2FN": Float(-2, 2, 28.0, "none"),
    "f4E2M1FN": Float(0, 1, 6.0, "none"),
    # Cerebras' 16 bits: six of exponent, nine stored (docs.cerebras.net, "Data Formats").
    "cb16": Float(-30, 9, float(2.0**32 - 2.0**22)),
}
"""By StableHLO's name, or the one its maker uses."""


@dataclass(frozen=True)
class Block:
    """`size` numbers along the contraction that share a scale.

    `element` is a key of FLOATS, or "int8": integers of so many bits, whose binary point stands
    behind the first bit, symmetric. `scale` "e8m0" is the power of two of the OCP MX specification
    1.0, section 6.3; "e4m3" is NVIDIA's: an E4M3 number under one f32 for the whole tensor
    (NVIDIA, "Pretraining Large Language Models with NVFP4", arXiv:2509.25149, section 2).
    """

    size: int
    element: str
    scale: Literal["e8m0", "e4m3"] = "e8m0"


BLOCKS: Mapping[str, Block] = {
    # OCP MX 1.0, table 1.
    "mxfp8": Block(32, "f8E4M3FN"),
    "mxfp8e5m2": Block(32, "f8E5M2"),
    "mxfp6": Block(32, "f6E2M3FN"),
    "mxfp6e3m2": Block(32, "f6E3M2FN"),
    "mxfp4": Block(32, "f4E2M1FN"),
    "mxint8": Block(32, "int8"),
    # Not in the specification: its rule for integers at other widths.
    "mxint4": Block(32, "int4"),
    "mxint16": Block(32, "int16"),
    # AMD XDNA 2's "block FP16": eight 8-bit significands under one exponent (AMD, "Ryzen AI
    # Software" documentation, "BFP16"; recalled).
    "bfp16": Block(8, "int8"),
    "nvfp4": Block(16, "f4E2M1FN", "e4m3"),
}

SCALED = ("i8", "i4")
"""Integers with one f32 scale a row: the row's largest magnitude becomes the largest integer."""

_CUSTOM = re.compile(r"e8m(\d+)")


def float_format(name: str) -> Float | None:
    """A key of FLOATS, or `e8mN`: f32's exponent with N stored bits. None for any other name."""
    custom = _CUSTOM.fullmatch(name)
    if custom and 1 <= int(custom[1]) < 23:
        bits = int(custom[1])
        return Float(-126, bits, float((2.0 - 2.0**-bits) * 2.0**127))
    return FLOATS.get(name)


def known_formats() -> tuple[str, ...]:
    """Every name `rounded` takes besides `e8mN`."""
    return ("f32", *FLOATS, *SCALED, *BLOCKS)


def rounded(
    x: Any, name: str, axes: Sequence[int], *, beyond: Beyond = "saturate", flush: bool = False
) -> Any:
    """x as f32, each number the nearest one of the format, ties to even.

    `axes` are those that a product sums over: blocks lie along them, and floats of eight bits or
    fewer and integers get a scale for every other index (a channel, a token). `flush` makes
    subnormal numbers of a float format zero. Raises UsageError for an unknown format.
    """
    y = x.astype(jnp.float32)
    if name == "f32":
        return y
    if name in BLOCKS:
        return _along(y, axes, lambda rows: round_blocks(rows, BLOCKS[name]))
    if name in SCALED:
        return _along(y, axes, lambda rows: _scaled_integers(rows, int(name[1:])))
    kind = float_format(name)
    if kind is None:
        raise unknown("number format", name, (*known_formats(), "e8mN"))
    if name.startswith(("f8", "f6", "f4")):
        return _along(y, axes, lambda rows: _scaled_floats(rows, kind, flush))
    return round_float(y, kind, beyond=beyond, flush=flush)


def round_float(x: Any, kind: Float, *, beyond: Beyond = "own", flush: bool = False) -> Any:
    """f32 to the nearest number of a float format, as f32. NaN stays NaN, zeros keep their sign."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    sign, size = bits & np.uint32(0x80000000), bits & np.uint32(0x7FFFFFFF)
    drop = np.uint32(23 - kind.mantissa)
    # A carry out of the significand is the next exponent: the encoding is monotonic.
    odd = (size >> drop) & np.uint32(1)
    kept = ((size + np.uint32((1 << (23 - kind.mantissa - 1)) - 1) + odd) >> drop) << drop
    if kind.least > -126:
        kept = jnp.where(size < _bits(2.0**kind.least), _subnormal(size, kind), kept)
    if flush:
        kept = jnp.where(kept < _bits(2.0**kind.least), np.uint32(0), kept)
    top = _bits(kind.largest)
    past = {"infinity": _bits(math.inf), "nan": np.uint32(0x7FC00000), "none": top}[kind.beyond]
    kept = jnp.where(kept > top, top if beyond == "saturate" else past, kept)
    kept = jnp.where(size > _bits(math.inf), np.uint32(0x7FC00000), kept)
    if not kind.has_negative_zero:
        sign = jnp.where(kept == 0, np.uint32(0), sign)
    return lax.bitcast_convert_type(kept | sign, jnp.float32)


def _subnormal(size: Any, kind: Float) -> Any:
    """The bits of a magnitude below 2^least rounded to multiples of 2^(least - mantissa)."""
    exponent = (size >> np.uint32(23)).astype(jnp.int32)
    significand = (size & np.uint32(0x7FFFFF)) | np.uint32(0x800000)
    shift = (kind.least + 127 - exponent) + (23 - kind.mantissa)
    shift = jnp.minimum(shift, 25).astype(jnp.uint32)  # from 25 on, everything is below a half
    half = np.uint32(1) << (shift - np.uint32(1))
    odd = (significand >> shift) & np.uint32(1)
    count = (significand + half - np.uint32(1) + odd) >> shift
    step = np.float32(2.0 ** (kind.least - kind.mantissa))
    return lax.bitcast_convert_type(count.astype(jnp.float32) * step, jnp.uint32)


def round_blocks(rows: Any, block: Block) -> Any:
    """f32[..., K] in blocks along the last axis; a last block that is short counts zeros.

    A block with an infinity or a NaN becomes NaN, which is what the scale's own NaN code says
    (OCP MX 1.0, section 5.4.1; section 6.3 leaves the conversion to the maker).
    """
    *lead, size = rows.shape
    short = -size % block.size
    padded = jnp.pad(rows, [(0, 0)] * len(lead) + [(0, short)]) if short else rows
    groups = padded.reshape((*lead, (size + short) // block.size, block.size))
    done = _powers(groups, block) if block.scale == "e8m0" else _nvidia(groups, block)
    return done.reshape(padded.shape)[..., :size]


def _powers(groups: Any, block: Block) -> Any:
    largest = jnp.max(jnp.abs(groups), axis=-1, keepdims=True)
    exponent = (lax.bitcast_convert_type(largest, jnp.int32) >> 23) & 0xFF
    # floor(log2(largest)) - emax, within E8M0's 2^-127 … 2^127.
    scale = jnp.clip(exponent - 127 - _top(block.element), -127, 127)
    done = _times_power(_round_element(_times_power(groups, -scale), block.element), scale)
    return jnp.where(exponent == 255, np.float32(np.nan), done)


def _nvidia(groups: Any, block: Block) -> Any:
    peak = jnp.max(jnp.abs(groups))
    element, scale = FLOATS[block.element], FLOATS["f8E4M3FN"]
    tensor = jnp.where(peak > 0, peak / np.float32(element.largest * scale.largest), 1)
    y = groups / tensor
    largest = jnp.max(jnp.abs(y), axis=-1, keepdims=True)
    own = round_float(largest / np.float32(element.largest), scale, beyond="saturate")
    safe = jnp.where(own > 0, own, 1)
    done = round_float(jnp.where(own > 0, y / safe, 0), element, beyond="saturate")
    return jnp.where(jnp.isfinite(largest), done * own * tensor, np.float32(np.nan))


def _top(element: str) -> int:
    """The exponent of an element format's largest number: 0 for integers with their implied scale
    (2^-6 for int8, OCP MX 1.0, section 5.3.4)."""
    return 0 if element.startswith("int") else FLOATS[element].top_exponent


def _round_element(x: Any, element: str) -> Any:
    if not element.startswith("int"):
        return round_float(x, FLOATS[element], beyond="saturate")
    point = int(element[3:]) - 2
    most = np.float32(2 ** (point + 1) - 1)  # symmetric: the lowest code is left out
    steps = np.float32(2.0**point)
    return lax.clamp(-most, lax.round(x * steps, lax.RoundingMethod.TO_NEAREST_EVEN), most) / steps


def _times_power(x: Any, exponent: Any) -> Any:
    """x · 2^exponent in two exact factors, so that 2^±127 does not leave f32."""
    half = exponent // 2
    return x * _power(half) * _power(exponent - half)


def _power(exponent: Any) -> Any:
    return lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)


def _row_scale(rows: Any, most: float) -> Any:
    largest = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    return jnp.maximum(largest, np.finfo(np.float32).tiny) / np.float32(most)


def _scaled_floats(rows: Any, kind: Float, flush: bool) -> Any:
    scale = _row_scale(rows, kind.largest)
    return round_float(rows / scale, kind, beyond="saturate", flush=flush) * scale


def _scaled_integers(rows: Any, bits: int) -> Any:
    most = np.float32(2 ** (bits - 1) - 1)
    scale = _row_scale(rows, float(most))
    codes = lax.round(rows / scale, lax.RoundingMethod.TO_NEAREST_EVEN)
    return lax.clamp(-most, codes, most) * scale


def _along(x: Any, axes: Sequence[int], rule: Any) -> Any:
    """`rule` on x with `axes` as one last axis; a scalar product of nothing has one of length 1."""
    kept = [d for d in range(x.ndim) if d not in axes]
    order = [*kept, *axes]
    turned = x if order == list(range(x.ndim)) else lax.transpose(x, order)
    if x.size == 0:
        return x
    rows = turned.reshape((*(x.shape[d] for d in kept), math.prod(x.shape[d] for d in axes)))
    done = rule(rows).reshape(turned.shape)
    back = [order.index(d) for d in range(x.ndim)]
    return done if order == list(range(x.ndim)) else lax.transpose(done, back)


def _bits(value: float) -> Any:
    return np.float32(value).view(np.uint32)
