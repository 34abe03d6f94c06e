"""Block formats: small groups of numbers that share a scale, packed in bytes. Declared once, here.

The q… layouts are ggml's (ggml-common.h); the mx… ones follow the OCP Microscaling specification
v1.0, packed as ggml packs mxfp4 and q8_0 (scale first); nvfp4 is ggml's packing of NVIDIA's format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from anychip.core.errors import InputError, UnsupportedError, unknown


@dataclass(frozen=True, kw_only=True)
class BlockFormat:
    """`elements` consecutive numbers of a row in `nbytes` bytes.

    A format with `has_outer_scale` needs one f32 a row beside the blocks (nvfp4, whose own scales
    reach only from 2^-9 to 448): real = outer * dequantised.
    """

    name: str
    elements: int
    nbytes: int
    unpack: Callable[[Any, Any], Any]
    pack: Callable[[Any, Any], Any] | None = None
    has_outer_scale: bool = False

    @property
    def bits_per_element(self) -> float:
        return self.nbytes * 8 / self.elements

    def row_bytes(self, elements: int) -> int:
        """Bytes of a row. Raises InputError when it is not a whole number of blocks."""
        if elements % self.elements:
            raise InputError(
                f"a row of {elements} numbers is not a multiple of {self.name}'s block of "
                f"{self.elements}; keep this tensor in bf16 or f32"
            )
        return elements // self.elements * self.nbytes

    def dequantize(self, blocks: Any, xp: Any = np) -> Any:
        """u8[..., n * nbytes] → f32[..., n * elements]. `xp` is numpy or jax.numpy."""
        if blocks.shape[-1] % self.nbytes:
            raise InputError(
                f"{blocks.shape[-1]} bytes are not a multiple of {self.name}'s {self.nbytes}"
            )
        *lead, size = blocks.shape
        count = size // self.nbytes
        values = self.unpack(blocks.reshape((*lead, count, self.nbytes)), xp)
        return values.reshape((*lead, count * self.elements))

    def quantize(self, array: Any, xp: Any = np) -> Any:
        """f32[..., n * elements] → u8[..., n * nbytes]; ties round to even, overflow saturates.

        With `has_outer_scale`, divide by `outer_scale(array)` first. Raises UnsupportedError for
        formats that are only read here.
        """
        if self.pack is None:
            can = ", ".join(name for name, f in BLOCK_FORMATS.items() if f.pack is not None)
            raise UnsupportedError(f"{self.name} can be read but not made; these can: {can}")
        *lead, size = array.shape
        count = self.row_bytes(size) // self.nbytes
        rows = xp.asarray(array, dtype=np.float32).reshape((*lead, count, self.elements))
        return self.pack(rows, xp).reshape((*lead, count * self.nbytes))

    def outer_scale(self, array: Any, xp: Any = np) -> Any:
        """f32[...] a row of f32[..., K]: its largest magnitude over the largest nvfp4 number."""
        largest = xp.max(xp.abs(xp.asarray(array, dtype=np.float32)), axis=-1)
        return xp.where(largest > 0, largest / np.float32(_E4M3_MAX * _E2M1_MAX), np.float32(1))


def block_format(name: str) -> BlockFormat:
    """The format, or UsageError listing all."""
    if name not in BLOCK_FORMATS:
        raise unknown("block format", name, BLOCK_FORMATS)
    return BLOCK_FORMATS[name]


_E2M1_MAX, _E4M3_MAX = 6.0, 448.0


def _f16(pair: Any) -> Any:
    return pair.view(np.float16).astype(np.float32)


def _nibbles(packed: Any, xp: Any) -> Any:
    """u8[..., n] → u8[..., 2n]: all low halves, then all high halves."""
    return xp.concatenate([packed & 15, packed >> 4], axis=-1)


def _join(nibbles: Any, xp: Any) -> Any:
    half = nibbles.shape[-1] // 2
    return (nibbles[..., :half] | (nibbles[..., half:] << 4)).astype(np.uint8)


def _f32(values: Any) -> Any:
    return values.astype(np.float32)


def _i8(bytes_: Any) -> Any:
    return bytes_.view(np.int8).astype(np.float32)


def _shifted(packed: Any, shifts: Any, mask: int, xp: Any) -> Any:
    """u8[..., n] → u8[..., len(shifts), n]: bit fields, one plane a shift."""
    return (packed[..., None, :] >> xp.asarray(shifts, dtype=np.uint8)[:, None]) & mask


def _unpack_q4_0(b: Any, xp: Any) -> Any:
    return _f16(b[..., :2]) * (_f32(_nibbles(b[..., 2:], xp)) - 8)


def _unpack_q4_1(b: Any, xp: Any) -> Any:
    return _f16(b[..., :2]) * _f32(_nibbles(b[..., 4:], xp)) + _f16(b[..., 2:4])


def _fifth_bit(b: Any, xp: Any) -> Any:
    """u8[..., 4] → u8[..., 32]: bit j of the little-endian word, moved to bit 4."""
    bits = (b[..., :, None] >> xp.arange(8, dtype=np.uint8)) & 1
    return bits.reshape((*b.shape[:-1], 32)) << 4


def _unpack_q5_0(b: Any, xp: Any) -> Any:
    q = _nibbles(b[..., 6:], xp) | _fifth_bit(b[..., 2:6], xp)
    return _f16(b[..., :2]) * (_f32(q) - 16)


def _unpack_q5_1(b: Any, xp: Any) -> Any:
    q = _nibbles(b[..., 8:], xp) | _fifth_bit(b[..., 4:8], xp)
    return _f16(b[..., :2]) * _f32(q) + _f16(b[..., 2:4])


def _unpack_q8_0(b: Any, xp: Any) -> Any:
    return _f16(b[..., :2]) * _i8(b[..., 2:])


def _k_scales(b: Any, xp: Any) -> tuple[Any, Any]:
    """The eight 6-bit scales and minimums of q4_K and q5_K, times their f16 factors."""
    low, mid, high = b[..., 4:8], b[..., 8:12], b[..., 12:16]
    scale = xp.concatenate([low & 63, (high & 15) | ((low >> 2) & 48)], axis=-1)
    least = xp.concatenate([mid & 63, (high >> 4) | ((mid >> 2) & 48)], axis=-1)
    return _f16(b[..., :2]) * _f32(scale), _f16(b[..., 2:4]) * _f32(least)


def _k_nibbles(b: Any, xp: Any) -> Any:
    """u8[..., 128] → u8[..., 8, 32]: 32 bytes hold 32 low halves, then 32 high halves."""
    planes = _shifted(b.reshape((*b.shape[:-1], 4, 32)), [0, 4], 15, xp)
    return planes.reshape((*b.shape[:-1], 8, 32))


def _unpack_q4_k(b: Any, xp: Any) -> Any:
    scale, least = _k_scales(b, xp)
    return scale[..., None] * _f32(_k_nibbles(b[..., 16:], xp)) - least[..., None]


def _unpack_q5_k(b: Any, xp: Any) -> Any:
    scale, least = _k_scales(b, xp)
    fifth = _shifted(b[..., 16:48], list(range(8)), 1, xp) << 4
    return scale[..., None] * _f32(_k_nibbles(b[..., 48:], xp) | fifth) - least[..., None]


def _unpack_q6_k(b: Any, xp: Any) -> Any:
    low = b[..., :128].reshape((*b.shape[:-1], 2, 64))
    high = b[..., 128:192].reshape((*b.shape[:-1], 2, 32))
    low = _shifted(low, [0, 4], 15, xp).reshape((*b.shape[:-1], 2, 4, 32))
    q = _f32(low | (_shifted(high, [0, 2, 4, 6], 3, xp) << 4)) - 32
    scale = _f16(b[..., 208:]) * _i8(b[..., 192:208])
    return scale[..., None] * q.reshape((*b.shape[:-1], 16, 16))


def _unpack_mxfp4(b: Any, xp: Any) -> Any:
    return _e8m0(b[..., :1], xp) * _e2m1(_nibbles(b[..., 1:], xp), xp)


def _unpack_mxfp8(b: Any, xp: Any) -> Any:
    return _e8m0(b[..., :1], xp) * b[..., 1:].view(ml_dtypes.float8_e4m3fn).astype(np.float32)


def _unpack_mxint8(b: Any, xp: Any) -> Any:
    return _e8m0(b[..., :1], xp) * (_i8(b[..., 1:]) * np.float32(2**-6))


def _unpack_mxint4(b: Any, xp: Any) -> Any:
    q = _f32(_nibbles(b[..., 1:], xp) ^ 8) - 8  # two's complement
    return _e8m0(b[..., :1], xp) * (q * np.float32(2**-2))


def _unpack_nvfp4(b: Any, xp: Any) -> Any:
    scale = b[..., :4].view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    packed = b[..., 4:].reshape((*b.shape[:-1], 4, 8))
    return scale[..., None] * _e2m1(_nibbles(packed, xp), xp)


def _e8m0(byte: Any, xp: Any) -> Any:
    """2^(byte - 127); 255 is NaN (OCP MX v1.0, section 5.4.1)."""
    wide = byte.astype(np.uint32)
    bits = xp.where(wide == 0, np.uint32(1 << 22), wide << 23)
    return xp.where(wide == 255, np.uint32(0x7FC00000), bits).view(np.float32)


def _e2m1(code: Any, xp: Any) -> Any:
    """0 0.5 1 1.5 2 3 4 6 and their negatives: sign, two exponent bits, one mantissa bit."""
    exponent, mantissa = (code >> 1) & 3, code & 1
    shift = xp.maximum(exponent, 1) - 1
    doubled = _f32(xp.where(exponent > 0, (mantissa | 2) << shift, mantissa))
    return xp.where(code & 8, np.float32(-0.5), np.float32(0.5)) * doubled


def _to_e2m1(values: Any, xp: Any) -> Any:
    """The nearest code, ties to the even mantissa, magnitudes over 6 to 6."""
    size = xp.minimum(xp.abs(values), np.float32(_E2M1_MAX))
    code = xp.where(
        size < 2,
        xp.rint(size * 2),
        xp.where(size < 4, xp.rint(size) + 2, xp.rint(size / 2) + 4),
    )
    return code.astype(np.uint8) | (xp.signbit(values).astype(np.uint8) << 3)


def _to_e4m3(values: Any, xp: Any) -> Any:
    clipped = xp.clip(values, np.float32(-_E4M3_MAX), np.float32(_E4M3_MAX))
    return clipped.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def _shared_exponent(rows: Any, largest_exponent: int, xp: Any) -> tuple[Any, Any]:
    """The E8M0 byte of each block and the block divided by it (OCP MX v1.0, section 6.3).

    The exponent is floor(log2(largest magnitude)) - the element type's largest exponent, read off
    the float's own bits so that no logarithm rounds.
    """
    largest = xp.max(xp.abs(rows), axis=-1, keepdims=True)
    exponent = (largest.view(np.int32) >> 23) - largest_exponent
    byte = xp.clip(exponent, 0, 254).astype(np.uint8)
    # Dividing in two steps keeps 1/scale finite for the smallest scales.
    half = (byte.astype(np.int32) - 127) // 2
    rest = (byte.astype(np.int32) - 127) - half
    return byte, rows * _power(-half, xp) * _power(-rest, xp)


def _power(exponent: Any, xp: Any) -> Any:
    """2^exponent for -126…127, exactly."""
    return ((exponent + 127) << 23).astype(np.int32).view(np.float32)


def _pack_mxfp4(rows: Any, xp: Any) -> Any:
    byte, scaled = _shared_exponent(rows, 2, xp)
    return xp.concatenate([byte, _join(_to_e2m1(scaled, xp), xp)], axis=-1)


def _pack_mxfp8(rows: Any, xp: Any) -> Any:
    byte, scaled = _shared_exponent(rows, 8, xp)
    return xp.concatenate([byte, _to_e4m3(scaled, xp)], axis=-1)


def _pack_mxint8(rows: Any, xp: Any) -> Any:
    byte, scaled = _shared_exponent(rows, 0, xp)
    q = xp.clip(xp.rint(scaled * 64), -127, 127).astype(np.int8)
    return xp.concatenate([byte, q.view(np.uint8)], axis=-1)


def _pack_mxint4(rows: Any, xp: Any) -> Any:
    byte, scaled = _shared_exponent(rows, 0, xp)
    q = xp.clip(xp.rint(scaled * 4), -7, 7).astype(np.int8).view(np.uint8) & 15
    return xp.concatenate([byte, _join(q, xp)], axis=-1)


def _pack_nvfp4(rows: Any, xp: Any) -> Any:
    groups = rows.reshape((*rows.shape[:-1], 4, 16))
    scale = _to_e4m3(xp.max(xp.abs(groups), axis=-1) / np.float32(_E2M1_MAX), xp)
    real = scale.view(ml_dtypes.float8_e4m3fn).astype(np.float32)[..., None]
    codes = _to_e2m1(xp.where(real > 0, groups / xp.where(real > 0, real, 1), 0), xp)
    packed = _join(codes, xp).reshape((*rows.shape[:-1], 32))
    return xp.concatenate([scale, packed], axis=-1)


def _inverse(scale: Any, xp: Any) -> Any:
    return xp.where(scale == 0, np.float32(0), 1 / xp.where(scale == 0, np.float32(1), scale))


def _half_bytes(scale: Any) -> Any:
    """f32[..., 1] → the two bytes of its f16."""
    return scale.astype(np.float16).view(np.uint8)


def _pack_q4_0(rows: Any, xp: Any) -> Any:
    where = xp.argmax(xp.abs(rows), axis=-1, keepdims=True)
    scale = xp.take_along_axis(rows, where, axis=-1) / -8
    # ggml truncates after adding a half, in f32.
    q = xp.clip(xp.trunc(rows * _inverse(scale, xp) + np.float32(8.5)), 0, 15).astype(np.uint8)
    return xp.concatenate([_half_bytes(scale), _join(q, xp)], axis=-1)


def _pack_q4_1(rows: Any, xp: Any) -> Any:
    least = xp.min(rows, axis=-1, keepdims=True)
    scale = (xp.max(rows, axis=-1, keepdims=True) - least) / 15
    q = xp.trunc((rows - least) * _inverse(scale, xp) + np.float32(0.5))
    packed = _join(xp.clip(q, 0, 15).astype(np.uint8), xp)
    return xp.concatenate([_half_bytes(scale), _half_bytes(least), packed], axis=-1)


def _pack_q8_0(rows: Any, xp: Any) -> Any:
    scale = xp.max(xp.abs(rows), axis=-1, keepdims=True) / 127
    scaled = rows * _inverse(scale, xp)
    # roundf: halves go away from zero.
    q = xp.trunc(scaled + xp.where(scaled < 0, np.float32(-0.5), np.float32(0.5))).astype(np.int8)
    return xp.concatenate([_half_bytes(scale), q.view(np.uint8)], axis=-1)


def _table() -> dict[str, BlockFormat]:
    rows: list[tuple[str, int, int, Any, Any]] = [
        ("q4_0", 32, 18, _unpack_q4_0, _pack_q4_0),
        ("q4_1", 32, 20, _unpack_q4_1, _pack_q4_1),
        ("q5_0", 32, 22, _unpack_q5_0, None),
        ("q5_1", 32, 24, _unpack_q5_1, None),
        ("q8_0", 32, 34, _unpack_q8_0, _pack_q8_0),
        ("q4_K", 256, 144, _unpack_q4_k, None),
        ("q5_K", 256, 176, _unpack_q5_k, None),
        ("q6_K", 256, 210, _unpack_q6_k, None),
        ("mxfp4", 32, 17, _unpack_mxfp4, _pack_mxfp4),
        ("mxfp8", 32, 33, _unpack_mxfp8, _pack_mxfp8),  # E4M3 elements
        ("mxint8", 32, 33, _unpack_mxint8, _pack_mxint8),
        # Not in the OCP specification: mxint8's rules at four bits, implied scale 2^-2.
        ("mxint4", 32, 17, _unpack_mxint4, _pack_mxint4),
        ("nvfp4", 64, 36, _unpack_nvfp4, _pack_nvfp4),  # four groups of 16, an E4M3 scale each
    ]
    return {
        name: BlockFormat(
            name=name,
            elements=elements,
            nbytes=size,
            unpack=unpack,
            pack=pack,
            has_outer_scale=name == "nvfp4",
        )
        for name, elements, size, unpack, pack in rows
    }


BLOCK_FORMATS: dict[str, BlockFormat] = _table()
