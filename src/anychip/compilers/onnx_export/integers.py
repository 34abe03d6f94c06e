"""Integers: logic, shifts, powers, and divisions that no runtime may die of."""

from __future__ import annotations

from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.compilers.onnx_export.typed import Arithmetic, apply
from anychip.core import dtype
from anychip.ops.view import OpView


def logical(kind: str, g: Graph, op: OpView, *tensors: Tensor) -> Tensor:
    element = tensors[0].dtype
    if element == "i1":
        return apply(g, op, tensors, lambda g, n, _: g.node(kind, n))
    if dtype(element).bits >= 8:
        return apply(g, op, tensors, lambda g, n, _: g.node(f"Bitwise{kind}", n), wide=element)
    return apply(
        g,
        op,
        tensors,
        lambda g, n, wide: _wrapped(g, g.node(f"Bitwise{kind}", n), element, wide),
        wide="i32",
    )


def negate(g: Graph, op: OpView, x: Tensor) -> Tensor:
    wide = "i64" if x.dtype == "ui64" else ""
    return apply(g, op, [x], lambda g, n, _: g.node("Neg", n), wide=wide)


def _wrapped(g: Graph, name: str, element: str, wide: str) -> str:
    """Within a type narrower than a byte, to which runtimes clamp or do not convert at all."""
    bits = dtype(element).bits
    if bits >= 8:
        return name
    name = g.node("BitwiseAnd", [name, g.constant((1 << bits) - 1, wide)])
    return name if dtype(element).kind == "uint" else _signed(g, name, bits, wide)


def _signed(g: Graph, name: str, bits: int, wide: str) -> str:
    """The number that so many low bits are in two's complement."""
    top = g.constant(1 << (bits - 1), wide)
    return g.node("Sub", [g.node("BitwiseXor", [name, top]), top])


def shift(how: str, g: Graph, op: OpView, x: Tensor, by: Tensor) -> Tensor:
    """ONNX shifts unsigned numbers only, and by less than their width: all in 64 bits."""
    element = dtype(x.dtype)

    def moved(g: Graph, value: str, count: str) -> str:
        direction = "LEFT" if how == "left" else "RIGHT"
        unsigned = [g.cast(value, "ui64"), g.cast(count, "ui64")]
        return g.cast(g.node("BitShift", unsigned, direction=direction), "i64")

    def make(g: Graph, names: list[str], _: str) -> str:
        a, (value, count) = Arithmetic(g, "i64"), names
        inside = a.And(a.Less(count, element.bits), a.GreaterOrEqual(count, 0))
        count = a.Where(inside, count, 0)
        if how != "left" and element.bits < 64:
            value = a.BitwiseAnd(value, (1 << element.bits) - 1)
            value = _signed(g, value, element.bits, "i64") if how == "arithmetic" else value
        if how != "arithmetic":
            result = a.Where(inside, moved(g, value, count), 0)
        else:
            is_negative = a.Less(value, 0)
            size = a.Where(is_negative, a.BitwiseNot(value), value)
            size = a.Where(inside, moved(g, size, count), 0)
            result = a.Where(is_negative, a.BitwiseNot(size), size)
        return _wrapped(g, result, x.dtype, "i64")

    return apply(g, op, [x, by], make, wide="i64")


def power(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    """Integers by squaring, wrapping around; a negative power is 1/x rounded toward zero."""
    element = dtype(x.dtype)
    if element.kind == "float":
        return apply(g, op, [x, y], lambda g, n, _: g.node("Pow", n))

    def make(g: Graph, names: list[str], _: str) -> str:
        a, (value, times) = Arithmetic(g, "i64"), names
        known = g.arrays.get(times)
        most = element.bits - (element.kind == "int")
        if known is not None and known.size and (known >= 0).all():
            most = int(known.max()).bit_length()
        result, square = a.Mul(value, 0) if most == 0 else "", value
        result = a.Add(result, 1) if result else ""
        for bit in range(most):
            is_set = a.Not(a.Equal(a.BitwiseAnd(times, _mask(bit)), 0))
            result = a.Where(is_set, a.Mul(result, square) if result else square, result or 1)
            square = a.Mul(square, square) if bit + 1 < most else square
        if element.kind == "int" and (known is None or (known < 0).any()):
            odd = a.Where(a.Equal(a.BitwiseAnd(times, 1), 1), -1, 1)
            inverse = a.Where(a.Equal(value, 1), 1, a.Where(a.Equal(value, -1), odd, 0))
            result = a.Where(a.Less(times, 0), inverse, result)
        return _wrapped(g, result, x.dtype, "i64")

    return apply(g, op, [x, y], make, wide="i64")


def _mask(bit: int) -> int:
    return 1 << bit if bit < 63 else -(1 << 63)


def whole_division(g: Graph, names: list[str], wide: str, kind: str) -> str:
    """Integers: runtimes die of a divisor of 0, and of -1 under the least number.

    StableHLO: x / 0 is -1 (all bits set), the remainder then x.
    """
    x, y = names
    a = Arithmetic(g, wide)
    fmod = 1 if kind == "Mod" else None
    if wide == "ui64":
        return _unsigned_division(g, names, kind, fmod)
    known = g.arrays.get(y)
    if known is not None and not ((known == 0) | (known == -1)).any():
        return g.node(kind, names, fmod=fmod)
    is_zero, is_minus = a.Equal(y, 0), a.Equal(y, -1)
    safe = a.Where(a.Or(is_zero, is_minus), 1, y)
    made = g.node(kind, [x, safe], fmod=fmod)
    if kind == "Mod":
        return a.Where(is_zero, x, made)
    return a.Where(is_zero, -1, a.Where(is_minus, a.Sub(0, x), made))


def _unsigned_division(g: Graph, names: list[str], kind: str, fmod: int | None) -> str:
    """As above; runtimes choose between 64-bit integers only where they have a sign."""
    a, (x, y) = Arithmetic(g, "i64"), (g.cast(n, "i64") for n in names)
    is_zero = a.Equal(y, 0)
    safe = g.cast(a.Where(is_zero, 1, y), "ui64")
    made = g.cast(g.node(kind, [names[0], safe], fmod=fmod), "i64")
    return g.cast(a.Where(is_zero, x if kind == "Mod" else -1, made), "ui64")
