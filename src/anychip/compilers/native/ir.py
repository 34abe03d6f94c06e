"""Writing LLVM IR so that a kernel reads like the loop it is: values with operators, loops as
`with`, carried values as cells. Says nothing about models.

LLVM's own passes turn cells into registers; every loop here is a counted one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import copysign
from typing import Any

import llvmlite.ir as llvm


class _BFloat(llvm.Type):
    """LLVM's bfloat, which llvmlite does not know: to pass on what an intrinsic gives."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


I1, I8, I16, I32, I64 = (llvm.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32, BF16 = llvm.HalfType(), llvm.FloatType(), _BFloat()
POINTER = llvm.PointerType()
LANES = 16
"""Numbers in a vector: one cache line of f32. Narrower machines take two or four registers."""


def vector(element: Any, lanes: int = LANES) -> Any:
    return llvm.VectorType(element, lanes)


F32V, I32V = vector(F32), vector(I32)


@dataclass(frozen=True, eq=False)
class Value:
    """A value of the function being written. Operators are the type's own: f32 adds are fadd."""

    f: Function
    raw: Any

    @property
    def type(self) -> Any:
        return self.raw.type

    @property
    def is_float(self) -> bool:
        return _element(self.type) in (F32, F16)

    def _other(self, other: Value | int | float) -> Any:
        return other.raw if isinstance(other, Value) else self.f.constant(self.type, other).raw

    def _binary(self, other: Value | int | float, whole: str, real: str) -> Value:
        operation = getattr(self.f.builder, real if self.is_float else whole)
        return Value(self.f, operation(self.raw, self._other(other)))

    def __add__(self, other: Value | int | float) -> Value:
        return self._binary(other, "add", "fadd")

    def __sub__(self, other: Value | int | float) -> Value:
        return self._binary(other, "sub", "fsub")

    def __mul__(self, other: Value | int | float) -> Value:
        return self._binary(other, "mul", "fmul")

    def __truediv__(self, other: Value | int | float) -> Value:
        return self._binary(other, "sdiv", "fdiv")

    def __floordiv__(self, other: Value | int) -> Value:
        """Unsigned."""
        return Value(self.f, self.f.builder.udiv(self.raw, self._other(other)))

    def __mod__(self, other: Value | int) -> Value:
        """Unsigned."""
        return Value(self.f, self.f.builder.urem(self.raw, self._other(other)))

    def __and__(self, other: Value | int) -> Value:
        return Value(self.f, self.f.builder.and_(self.raw, self._other(other)))

    def __or__(self, other: Value | int) -> Value:
        return Value(self.f, self.f.builder.or_(self.raw, self._other(other)))

    def __xor__(self, other: Value | int) -> Value:
        return Value(self.f, self.f.builder.xor(self.raw, self._other(other)))

    def __lshift__(self, other: Value | int) -> Value:
        return Value(self.f, self.f.builder.shl(self.raw, self._other(other)))

    def __rshift__(self, other: Value | int) -> Value:
        """Logical."""
        return Value(self.f, self.f.builder.lshr(self.raw, self._other(other)))

    def __lt__(self, other: Value | int | float) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Value | int | float) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Value | int | float) -> Value:
        return self._compare(">", other)

    def equals(self, other: Value | int | float) -> Value:
        return self._compare("==", other)

    def _compare(self, how: str, other: Value | int | float) -> Value:
        builder = self.f.builder
        compare = builder.fcmp_ordered if self.is_float else builder.icmp_signed
        return Value(self.f, compare(how, self.raw, self._other(other)))

    def to(self, type: Any) -> Value:
        """The number converted; integers are signed."""
        if self.type == type:
            return self
        b, have, want = self.f.builder, _element(self.type), _element(type)
        if have in (F32, F16) and want in (F32, F16):
            made = b.fpext(self.raw, type) if want == F32 else b.fptrunc(self.raw, type)
        elif have in (F32, F16):
            made = b.fptosi(self.raw, type)
        elif want in (F32, F16):
            made = b.sitofp(self.raw, type)
        elif have.width < want.width:
            made = b.sext(self.raw, type)
        else:
            made = b.trunc(self.raw, type)
        return Value(self.f, made)

    def unsigned_to(self, type: Any) -> Value:
        """A wider integer, zeros above."""
        return Value(self.f, self.f.builder.zext(self.raw, type))

    def bits_as(self, type: Any) -> Value:
        return Value(self.f, self.f.builder.bitcast(self.raw, type))

    def splat(self, lanes: int = LANES) -> Value:
        """A scalar in every lane."""
        kind = vector(self.type, lanes)
        b = self.f.builder
        one = b.insert_element(llvm.Constant(kind, llvm.Undefined), self.raw, I32(0))
        return Value(self.f, b.shuffle_vector(one, one, _numbers(vector(I32, lanes), (0,) * lanes)))

    def lane(self, index: int) -> Value:
        return Value(self.f, self.f.builder.extract_element(self.raw, I32(index)))

    def take(self, lanes: Sequence[int], other: Value | None = None) -> Value:
        """Lanes of this vector, then of `other` (numbered from this one's end)."""
        second = llvm.Constant(self.type, llvm.Undefined) if other is None else other.raw
        mask = _numbers(vector(I32, len(lanes)), tuple(lanes))
        return Value(self.f, self.f.builder.shuffle_vector(self.raw, second, mask))

    def at(self, offset: Value | int) -> Value:
        """This pointer moved by bytes."""
        if isinstance(offset, int) and offset == 0:
            return self
        where = I64(offset) if isinstance(offset, int) else offset.raw
        return Value(self.f, self.f.builder.gep(self.raw, [where], source_etype=I8))

    def load(self, type: Any, align: int = 0) -> Value:
        """What this pointer points at; `align` defaults to the element's size."""
        made = self.f.builder.load(self.raw, align=align or _size(type), typ=type)
        return Value(self.f, made)

    def store(self, value: Value, align: int = 0) -> None:
        self.f.builder.store(value.raw, self.raw, align=align or _size(value.type))


class Cell:
    """A variable: what a loop carries from one round to the next."""

    def __init__(self, f: Function, initial: Value):
        self._f, self._type = f, initial.type
        with f.builder.goto_entry_block():
            self._slot = f.builder.alloca(initial.type)
        self.value = initial

    @property
    def value(self) -> Value:
        return Value(self._f, self._f.builder.load(self._slot, typ=self._type))

    @value.setter
    def value(self, new: Value) -> None:
        self._f.builder.store(new.raw, self._slot)


class Function:
    """One function under construction; `arguments` are its parameters by name.

    Use as a context manager: leaving it writes the return.
    """

    def __init__(self, module: llvm.Module, name: str, parameters: Sequence[tuple[str, Any]]):
        kind = llvm.FunctionType(llvm.VoidType(), [t for _, t in parameters])
        self.raw = llvm.Function(module, kind, name)
        self.raw.attributes.add("nounwind")
        for argument, (label, _) in zip(self.raw.args, parameters, strict=True):
            argument.name = label
        self.module = module
        self.builder = llvm.IRBuilder(self.raw.append_basic_block("entry"))
        names = (label for label, _ in parameters)
        self.arguments = {n: Value(self, a) for n, a in zip(names, self.raw.args, strict=True)}

    def __enter__(self) -> Function:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            self.builder.ret_void()

    def constant(self, type: Any, number: int | float | Sequence[int]) -> Value:
        """A number, in every lane of a vector type, or a number for each lane."""
        if isinstance(number, Sequence):
            return Value(self, _numbers(type, tuple(number)))
        if isinstance(type, llvm.VectorType):
            return Value(self, _everywhere(type, number, copysign(1, number)))
        return Value(self, llvm.Constant(type, number))

    def i64(self, number: int) -> Value:
        return self.constant(I64, number)

    def f32(self, number: float) -> Value:
        return self.constant(F32, number)

    def cell(self, initial: Value) -> Cell:
        return Cell(self, initial)

    def room(self, nbytes: int) -> Value:
        """A pointer to memory on the stack, on a cache line."""
        with self.builder.goto_entry_block():
            slot: Any = self.builder.alloca(llvm.ArrayType(I8, nbytes))
            slot.align = 64
            return self.plain_pointer(slot)

    def plain_pointer(self, raw: Any) -> Value:
        """A pointer without llvmlite's idea of what it points at."""
        made = self.builder.gep(raw, [I64(0)], source_etype=I8)
        made.type = POINTER
        return Value(self, made)

    @contextmanager
    def loop(self, first: Value | int, last: Value | int, step: int = 1) -> Iterator[Value]:
        """`for index in range(first, last, step)` over i64."""
        b = self.builder
        start, stop = (v if isinstance(v, Value) else self.i64(v) for v in (first, last))
        before = b.block
        head, body, done = (self.raw.append_basic_block(n) for n in ("head", "body", "done"))
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(I64)
        index.add_incoming(start.raw, before)
        b.cbranch(b.icmp_signed("<", index, stop.raw), body, done)
        b.position_at_end(body)
        yield Value(self, index)
        index.add_incoming(b.add(index, I64(step)), b.block)
        b.branch(head)
        b.position_at_end(done)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        with self.builder.if_then(condition.raw):
            yield

    @contextmanager
    def either(self, condition: Value) -> Iterator[tuple[Any, Any]]:
        """`with f.either(c) as (yes, no):`, then `with yes:` and `with no:`."""
        with self.builder.if_else(condition.raw) as both:
            yield both

    def select(self, condition: Value, yes: Value, no: Value) -> Value:
        return Value(self, self.builder.select(condition.raw, yes.raw, no.raw))

    def intrinsic(self, name: str, result: Any, *arguments: Value) -> Value:
        """Call an LLVM intrinsic (or any external function) by its full name."""
        known = self.module.globals.get(name)
        if known is None:
            kind = llvm.FunctionType(result, [a.type for a in arguments])
            known = llvm.Function(self.module, kind, name)
        return Value(self, self.builder.call(known, [a.raw for a in arguments]))

    def call_pointer(self, code: Value, kind: llvm.FunctionType, *arguments: Value) -> None:
        """Call what a pointer points at, a function of this type."""
        self.builder.call(_Callee(code.raw, kind), [a.raw for a in arguments])

    def prefetch(self, pointer: Value, writes: bool = False, level: int = 1) -> None:
        """Ask for a cache line that will be read, or written, into the cache of this level. Any
        address is fine."""
        name = "llvm.prefetch.p0"
        known = self.module.globals.get(name)
        if known is None:
            kind = llvm.FunctionType(llvm.VoidType(), [POINTER, I32, I32, I32])
            known = llvm.Function(self.module, kind, name)
        self.builder.call(known, [pointer.raw, I32(int(writes)), I32(4 - level), I32(1)])

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c in one rounding where the machine can (two on machines without fma)."""
        return self.intrinsic(f"llvm.fmuladd.{mangled(a.type)}", a.type, a, b, c)

    def larger(self, a: Value, b: Value) -> Value:
        return self.intrinsic(f"llvm.maxnum.{mangled(a.type)}", a.type, a, b)

    def smaller(self, a: Value, b: Value) -> Value:
        return self.intrinsic(f"llvm.minnum.{mangled(a.type)}", a.type, a, b)

    def magnitude(self, a: Value) -> Value:
        return self.intrinsic(f"llvm.fabs.{mangled(a.type)}", a.type, a)

    def rounded(self, a: Value) -> Value:
        """To the nearest whole number, ties to even."""
        return self.intrinsic(f"llvm.nearbyint.{mangled(a.type)}", a.type, a)

    def root(self, a: Value) -> Value:
        return self.intrinsic(f"llvm.sqrt.{mangled(a.type)}", a.type, a)

    def total(self, a: Value) -> Value:
        """The sum of a vector's lanes, by halving: a fixed order."""
        return self._halved(a, lambda x, y: x + y)

    def largest(self, a: Value) -> Value:
        return self._halved(a, self.larger)

    def _halved(self, a: Value, combine: Any) -> Value:
        width = a.type.count
        while width > 1:
            width //= 2
            a = combine(a.take(range(width)), a.take(range(width, 2 * width)))
        return a.lane(0)


# Constants of vectors are made, and spelt, once: they were half of what writing a step takes.
@lru_cache(maxsize=4096)
def _numbers(type: Any, numbers: tuple[int, ...]) -> Any:
    return llvm.Constant(type, list(numbers) if any(numbers) else None)


@lru_cache(maxsize=4096, typed=True)
def _everywhere(type: Any, number: int | float, sign: float) -> Any:
    """`sign` tells apart what compares equal: 0.0 and -0.0."""
    is_zero = number == 0 and sign > 0
    return llvm.Constant(type, None if is_zero else [number] * type.count)


def mangled(type: Any) -> str:
    """The type as intrinsics' names spell it: v16f32."""
    if isinstance(type, llvm.VectorType):
        return f"v{type.count}{mangled(type.element)}"
    return {F32: "f32", F16: "f16"}.get(type) or f"i{type.width}"


def _element(type: Any) -> Any:
    return type.element if isinstance(type, llvm.VectorType) else type


def _size(type: Any) -> int:
    element = _element(type)
    return {F32: 4, F16: 2, POINTER: 8}.get(element) or max(1, element.width // 8)


class _Callee:
    """A pointer with the function type that llvmlite looks for on what is called."""

    is_declaration = False

    def __init__(self, raw: Any, kind: llvm.FunctionType):
        self._raw, self.function_type, self.type = raw, kind, raw.type

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)
