"""Numbers in memory of any float type as f32, and the functions LLVM has no instruction for."""

from __future__ import annotations

from anychip.compilers.native.ir import F16, F32, I16, I32, Function, Value, vector
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
    else:
        assert element == "f16"
        assert isa.has_half
        pointer.store(value.to(_kind(F16, lanes)))


def _kind(element: object, lanes: int) -> object:
    return vector(element, lanes) if lanes > 1 else element


_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)


def exp(f: Function, x: Value) -> Value:
    """e^x within 2 ulp for -87…88; larger magnitudes give the ends' values.

    2^n e^r with |r| <= ln 2 / 2 and Cephes' polynomial for e^r (expf.c, S. Moshier).
    """
    x = f.smaller(f.larger(x, f.constant(x.type, -87.3)), f.constant(x.type, 88.3))
    n = f.rounded(x * 1.44269504088896341)
    r = f.fma(n, f.constant(x.type, -0.693359375), x)
    r = f.fma(n, f.constant(x.type, 2.12194440e-4), r)
    y = f.constant(x.type, _EXP[0])
    for factor in _EXP[1:]:
        y = f.fma(y, r, f.constant(x.type, factor))
    y = f.fma(y, r * r, r + 1.0)
    whole = vector(I32, x.type.count) if hasattr(x.type, "count") else I32
    return y * ((n.to(whole) + 127) << 23).bits_as(x.type)


def logistic(f: Function, x: Value) -> Value:
    return f.constant(x.type, 1.0) / (exp(f, f.constant(x.type, 0.0) - x) + 1.0)


def tanh(f: Function, x: Value) -> Value:
    """2 logistic(2x) - 1: absolute error around 1e-7."""
    return logistic(f, x * 2.0) * 2.0 - 1.0
