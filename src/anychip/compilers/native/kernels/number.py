"""Numbers in memory of any float type as f32, and the functions LLVM has no instruction for."""

from __future__ import annotations

from collections.abc import Callable

from anychip.compilers.native.ir import F16, F32, F32V, I8, I16, I32, I32V, Function, Value, vector
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels.dot import halves

SIZES = {"f32": 4, "bf16": 2, "f16": 2, "i32": 4}
"""Bytes of the element types kernels read."""


def load(f: Function, isa: Isa, pointer: Value, element: str, lanes: int = 16) -> Value:
    """`lanes` numbers as f32 (i32 stays i32); one lane is a scalar."""
    if element in ("f32", "i32"):
        return pointer.load(_kind(F32 if element == "f32" else I32, lanes))
    if element == "f16" and lanes == 16:
        return halves(f, isa, pointer)
    if element == "f16" and isa.has_half:
        return pointer.load(_kind(F16, lanes)).to(_kind(F32, lanes))
    bits = pointer.load(_kind(I16, lanes)).unsigned_to(_kind(I32, lanes))
    if element == "bf16":
        return (bits << 16).bits_as(_kind(F32, lanes))
    assert element == "f16"
    size = ((bits & 0x7FFF) << 13).bits_as(_kind(F32, lanes)) * 2.0**112
    sign = (bits & 0x8000) << 16
    return (size.bits_as(_kind(I32, lanes)) | sign).bits_as(_kind(F32, lanes))


def store(f: Function, isa: Isa, pointer: Value, value: Value, element: str, lanes: int) -> None:
    """f32 numbers rounded to the element type, ties to even."""
    if element in ("f32", "i32"):
        pointer.store(value)
    elif element == "bf16":
        bits = value.bits_as(_kind(I32, lanes))
        rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
        pointer.store(rounded.to(_kind(I16, lanes)))
    elif isa.has_half:
        assert element == "f16"
        pointer.store(value.to(_kind(F16, lanes)))
    else:
        pointer.store(_half_bits(f, value, lanes).to(_kind(I16, lanes)))


def _half_bits(f: Function, value: Value, lanes: int) -> Value:
    """An f32's nearest f16 as bits, ties to even: the exponent's bias changed and thirteen bits
    rounded off; below 2^-14, adding a half does the rounding ("float->half", F. Giesen, 2012)."""
    kind = _kind(I32, lanes)
    bits = value.bits_as(kind)
    size = bits & 0x7FFFFFFF
    normal = ((size - 0x38000000) + (((size >> 13) & 1) + 0xFFF)) >> 13
    small = (size.bits_as(value.type) + 0.5).bits_as(kind) - 0x3F000000
    made = f.select(size < 0x38800000, small, normal)
    above = f.select(size > 0x7F800000, f.constant(kind, 0x7E00), f.constant(kind, 0x7C00))
    return f.select(size < 0x47800000, made, above) | ((bits >> 16) & 0x8000)


BLOCK, BLOCK_BYTES = 32, 34
"""Of q8_0: an f16 scale, then 32 signed bytes (core/blocks.py)."""


def row_bytes(element: str, count: int) -> int:
    """Of a row of `count` numbers; of q8_0 a multiple of 32."""
    return count // BLOCK * BLOCK_BYTES if element == "q8_0" else count * SIZES[element]


def row_reader(f: Function, isa: Isa, row: Value, element: str) -> Callable[[int], Value]:
    """part(i): numbers 16 i to 16 i + 15 of a row as f32."""
    if element != "q8_0":
        return lambda i: load(f, isa, row.at(16 * SIZES[element] * i), element)
    scales: dict[int, Value] = {}

    def part(i: int) -> Value:
        number, half = divmod(i, 2)
        block = row.at(number * BLOCK_BYTES)
        if number not in scales:
            scales[number] = load(f, isa, block, "f16", 1).splat()
        codes = block.at(2 + 16 * half).load(vector(I8), align=1)
        return codes.to(I32V).to(F32V) * scales[number]

    return part


def store_block(f: Function, isa: Isa, block: Value, numbers: Value) -> None:
    """32 f32 numbers as a block of q8_0, to the nearest, halves away from zero (as ggml does)."""
    parts = [numbers.load(F32V), numbers.at(64).load(F32V)]
    most = f.largest(f.larger(*(f.magnitude(part) for part in parts)))
    scale = most / 127.0
    inverse = f.select(most > 0.0, f.f32(1.0) / scale, f.f32(0.0)).splat()
    store(f, isa, block, scale, "f16", 1)
    for i, part in enumerate(parts):
        scaled = part * inverse
        half = f.select(scaled < 0.0, f.constant(F32V, -0.5), f.constant(F32V, 0.5))
        block.at(2 + 16 * i).store((scaled + half).to(I32V).to(vector(I8)), align=1)


def _kind(element: object, lanes: int) -> object:
    return vector(element, lanes) if lanes > 1 else element


_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)


ROUND = 1.5 * 2.0**23
"""Added to a small f32, leaves it rounded in the lowest bits."""


def exp(f: Function, x: Value) -> Value:
    """e^x within 2 ulp for -87…88; larger magnitudes give the ends' values.

    2^n e^r with |r| <= ln 2 / 2 and Cephes' polynomial for e^r (expf.c, S. Moshier).
    """
    x = f.smaller(f.larger(x, f.constant(x.type, -87.3)), f.constant(x.type, 88.3))
    # The sum's lowest bits are x / ln 2 rounded to a whole number.
    shifted = f.fma(x, f.constant(x.type, 1.44269504088896341), f.constant(x.type, ROUND))
    n = shifted - ROUND
    r = f.fma(n, f.constant(x.type, -0.693359375), x)
    r = f.fma(n, f.constant(x.type, 2.12194440e-4), r)
    y = f.constant(x.type, _EXP[0])
    for factor in _EXP[1:]:
        y = f.fma(y, r, f.constant(x.type, factor))
    y = f.fma(y, r * r, r + 1.0)
    whole = vector(I32, x.type.count) if hasattr(x.type, "count") else I32
    return (y.bits_as(whole) + (shifted.bits_as(whole) << 23)).bits_as(x.type)


def logistic(f: Function, x: Value) -> Value:
    return f.constant(x.type, 1.0) / (exp(f, f.constant(x.type, 0.0) - x) + 1.0)


def tanh(f: Function, x: Value) -> Value:
    """2 logistic(2x) - 1: absolute error around 1e-7."""
    return logistic(f, x * 2.0) * 2.0 - 1.0
