"""Sixteen rows' dot products of four bytes each: unsigned weights times signed activations."""

from __future__ import annotations

from anychip.compilers.native.ir import F16, F32V, I8, I16, I32, I32V, Function, Value, vector
from anychip.compilers.native.isa import Isa


def is_signed(isa: Isa, bits: int) -> bool:
    """Whether `dot` takes 8-bit weights as w - 128, so that nothing is left to correct."""
    return isa.dot in ("maddubs", "sdot") and bits == 8


def dot(f: Function, isa: Isa, sums: Value, weights: Value, x: Value, bits: int) -> Value:
    """sums i32[16] + Σ weights u8[16, 4] · x s8[4]; `x` is a pointer, weights come as i32[16].

    Exact. `bits` bounds the weights: 4 for 0…15, 8 for 0…255 (see `is_signed`).
    """
    return _WAYS[isa.dot](f, sums, weights, x, bits)


def _vnni512(f: Function, sums: Value, weights: Value, x: Value, bits: int) -> Value:
    bytes_ = vector(I8, 64)
    four = x.load(I32).splat().bits_as(bytes_)
    name = "llvm.x86.avx512.vpdpbusd.512"
    return f.intrinsic(name, I32V, sums, weights.bits_as(bytes_), four)


def _maddubs(f: Function, sums: Value, weights: Value, x: Value, bits: int) -> Value:
    """Pairs in i16, then pairs of those in i32. Pairs fit: 2 · 15 · 127 and 2 · 128 · 127."""
    four = x.load(I32).splat(8).bits_as(vector(I8, 32))
    halves: list[Value] = []
    for start in (0, 8):
        part = weights.take(range(start, start + 8)).bits_as(vector(I8, 32))
        other = four
        if bits == 8:
            part = part ^ -128
            other = f.intrinsic("llvm.x86.avx2.psign.b", part.type, four, part)
            part = f.intrinsic("llvm.x86.avx2.psign.b", part.type, part, part)
        pairs = f.intrinsic("llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), part, other)
        ones = f.constant(vector(I16, 16), 1)
        halves.append(f.intrinsic("llvm.x86.avx2.pmadd.wd", vector(I32, 8), pairs, ones))
    return sums + halves[0].take(range(16), halves[1])


def _sdot(f: Function, sums: Value, weights: Value, x: Value, bits: int) -> Value:
    """AArch64's products of signed bytes; quants of fewer than 8 bits are the same signed."""
    four = x.load(I32).splat(4).bits_as(vector(I8, 16))
    parts: list[Value] = []
    for start in range(0, 16, 4):
        rows = range(start, start + 4)
        part = weights.take(rows).bits_as(vector(I8, 16))
        part = part ^ -128 if bits == 8 else part
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        parts.append(f.intrinsic(name, vector(I32, 4), sums.take(rows), part, four))
    halves = [a.take(range(8), b) for a, b in (parts[:2], parts[2:])]
    return halves[0].take(range(16), halves[1])


def _shifts(f: Function, sums: Value, weights: Value, x: Value, bits: int) -> Value:
    for byte in range(4):
        one = (weights >> 8 * byte) & 255
        sums = sums + one * x.at(byte).load(I8).to(I32).splat()
    return sums


_WAYS = {"vnni512": _vnni512, "maddubs": _maddubs, "sdot": _sdot, "shifts": _shifts}


def halves(f: Function, isa: Isa, pointer: Value) -> Value:
    """f16[16] in memory as f32[16], exactly (no infinities or NaN)."""
    if isa.has_half:
        return pointer.load(vector(F16), align=2).to(F32V)
    bits = pointer.load(vector(I16), align=2).unsigned_to(I32V)
    # Exponent and mantissa in f32's place read 2^-112 times the number, subnormals included.
    size = ((bits & 0x7FFF) << 13).bits_as(F32V) * 2.0**112
    return (size.bits_as(I32V) | ((bits & 0x8000) << 16)).bits_as(F32V)
