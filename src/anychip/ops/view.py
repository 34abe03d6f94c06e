"""A Module read once into plain Python: functions, blocks, ops, values. No MLIR objects survive."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

from anychip.core import origin as origins
from anychip.core.dtypes import dtype, nbytes
from anychip.core.errors import InputError, UnsupportedError
from anychip.core.ir import tensor_type
from anychip.core.module import Module
from anychip.core.origin import Origin
from anychip.core.signature import Signature
from anychip.ops.attributes import Symbol, decode, parse_dense


@dataclass(frozen=True)
class Quantized:
    """`!quant.uniform`: real = (stored - zero_point) * scale, per tensor or along `axis`."""

    expressed: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    low: int
    high: int
    axis: int | None = None


@dataclass(frozen=True)
class Spec:
    """The type of one value.

    `shape` has None for a size known only when running; `dtype` is StableHLO's name, the storage
    type of a quantised tensor, "token", or "tuple" or "future" (whose members are `parts`).
    """

    shape: tuple[int | None, ...]
    dtype: str
    parts: tuple[Spec, ...] = ()
    quantized: Quantized | None = None

    @property
    def is_static(self) -> bool:
        return None not in self.shape and all(p.is_static for p in self.parts)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape. Raises InputError while a size is dynamic."""
        if None in self.shape:
            raise InputError(f"{self} has a dynamic size; specialise the module first")
        return tuple(d for d in self.shape if d is not None)

    @property
    def size(self) -> int:
        """Number of elements. Raises InputError while a size is dynamic."""
        return math.prod(self.sizes)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense value, sub-byte types packed. Tokens take none."""
        if self.dtype == "token":
            return 0
        if self.dtype in ("tuple", "future"):
            return sum(p.nbytes for p in self.parts)
        return nbytes(self.sizes, self.dtype)

    def __str__(self) -> str:
        if self.dtype in ("tuple", "future"):
            return f"({', '.join(map(str, self.parts))})"
        return f"{self.dtype}[{','.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True, eq=False)
class Value:
    """One SSA value. Compared by identity."""

    spec: Spec


@dataclass(frozen=True, eq=False)
class Block:
    """A region's or function's one block: its arguments, its ops in order, what it returns."""

    arguments: tuple[Value, ...]
    ops: tuple[OpView, ...]
    results: tuple[Value, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class OpView:
    """One op. `attributes` holds Python values (see ops.attributes), never MLIR objects.

    `operands` and `results` are SSA values; `inputs` and `outputs` are their types. `origin` is
    relative to the function the op stands in; ops.walk gives the absolute one.
    """

    name: str
    attributes: Mapping[str, Any]
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    regions: tuple[Block, ...] = ()
    origin: Origin = Origin()

    @property
    def inputs(self) -> tuple[Spec, ...]:
        return tuple(v.spec for v in self.operands)

    @property
    def outputs(self) -> tuple[Spec, ...]:
        return tuple(v.spec for v in self.results)

    @property
    def callee(self) -> str | None:
        """The function a `func.call` or `stablehlo.composite` stands for, else None."""
        key = {"func.call": "callee", "stablehlo.composite": "decomposition"}.get(self.name)
        symbol = self.attributes[key] if key else None
        return symbol.name if isinstance(symbol, Symbol) else None

    def __str__(self) -> str:
        ins, outs = ", ".join(map(str, self.inputs)), ", ".join(map(str, self.outputs))
        return f"{self.name}({ins}) -> {outs} at {self.origin}"


@dataclass(frozen=True, eq=False)
class Program:
    """The functions of a module; `main` is where execution starts."""

    functions: Mapping[str, Block]
    signature: Signature = field(repr=False)

    @cached_property
    def is_static(self) -> bool:
        """Whether no op anywhere has a dynamic size."""
        return all(_is_static(block) for block in self.functions.values())

    @property
    def main(self) -> Block:
        return self.functions["main"]

    def function(self, name: str) -> Block:
        """A function's body. Raises InputError when the module has none of that name."""
        if name not in self.functions:
            raise InputError(f"the module calls @{name}, which it does not define")
        return self.functions[name]


def _is_static(block: Block) -> bool:
    values = (*block.arguments, *(v for op in block.ops for v in op.results))
    return all(v.spec.is_static for v in values) and all(
        _is_static(region) for op in block.ops for region in op.regions
    )


def program(module: Module) -> Program:
    """Read a module. The result is shared between callers and must not be changed."""
    return _read(module.bytecode, module.sources, module.signature)


@lru_cache(maxsize=8)
def _read(bytecode: bytes, sources: tuple[str, ...], signature: Signature) -> Program:
    from anychip.core import ir

    with ir.opened(bytecode) as parsed:
        reader = _Reader(sources)
        functions = {}
        for op in parsed.body.operations:
            if op.operation.name == "func.func" and len(op.operation.regions[0].blocks):
                name = decode(op.operation.attributes["sym_name"])
                functions[name] = reader.block(op.operation.regions[0], {})
        return Program(MappingProxyType(functions), signature)


class _Reader:
    """Reads blocks, remembering types and locations it has already parsed."""

    def __init__(self, sources: tuple[str, ...]):
        self._sources = sources
        self._specs: dict[str, Spec] = {}
        self._origins: dict[str, Origin] = {}

    def block(self, region: Any, outer: Mapping[Any, Value]) -> Block:
        blocks = list(region.blocks)
        if len(blocks) != 1:
            raise UnsupportedError(
                f"a region with {len(blocks)} blocks is unstructured control flow, which StableHLO "
                "does not have; lower the model to stablehlo.while, if and case"
            )
        values = dict(outer)
        arguments = tuple(self._define(a, values) for a in blocks[0].arguments)
        ops = list(blocks[0].operations)
        read = tuple(self._op(o.operation, values) for o in ops[:-1])
        results = tuple(values[v] for v in ops[-1].operation.operands)
        return Block(arguments, read, results)

    def _op(self, op: Any, values: dict[Any, Value]) -> OpView:
        operands = tuple(values[v] for v in op.operands)
        regions = tuple(self.block(r, values) for r in op.regions if len(r.blocks))
        results = tuple(self._define(r, values) for r in op.results)
        return OpView(
            name=op.name,
            attributes=MappingProxyType(_attributes(op)),
            operands=operands,
            results=results,
            regions=regions,
            origin=self._origin(str(op.location)),
        )

    def _define(self, value: Any, values: dict[Any, Value]) -> Value:
        text = str(value.type)
        if text not in self._specs:
            self._specs[text] = parse_spec(text)
        values[value] = Value(self._specs[text])
        return values[value]

    def _origin(self, location: str) -> Origin:
        if location not in self._origins:
            self._origins[location] = origins.parse(location, self._sources)
        return self._origins[location]


def _attributes(op: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for name in op.attributes:
        try:
            attribute = op.attributes[name]
        except TypeError:  # the bindings have no class for dense complex elements
            text = op.get_asm()
            attributes[name] = parse_dense(text[text.index("dense<") :].strip())
            continue
        attributes[name] = decode(attribute)
    return attributes


_QUANT = re.compile(
    r"^tensor<((?:(?:\d+|\?)x)*)!quant\.uniform<([iu]\d+)(?:<(-?\d+):(-?\d+)>)?:(\w+)"
    r"(?::(\d+))?, ?(\{.*\}|[^{}]+)>>$"
)


def parse_spec(text: str) -> Spec:
    """The Spec of an MLIR type's text. Raises InputError for types StableHLO does not have."""
    if text == "!stablehlo.token":
        return Spec((), "token")
    for prefix, kind in (("tuple<", "tuple"), ("!stablehlo.future<", "future")):
        if text.startswith(prefix):
            parts = tuple(parse_spec(t) for t in _split(text[len(prefix) : -1]))
            return Spec((), kind, parts=parts)
    match = _QUANT.match(text)
    if match is None:
        shape, element = tensor_type(text)
        dtype(element)
        return Spec(shape, element)
    sizes, storage, low, high, expressed, axis, values = match.groups()
    storage = storage.replace("u", "ui")
    bits, is_signed = dtype(storage).bits, dtype(storage).kind == "int"
    lowest = -(1 << (bits - 1)) if is_signed else 0
    pairs = [p.strip().partition(":") for p in values.strip("{}").split(",")]
    quantized = Quantized(
        expressed,
        tuple(float(scale) for scale, _, _ in pairs),
        tuple(int(zero or 0) for _, _, zero in pairs),
        int(low) if low else lowest,
        int(high) if high else lowest + (1 << bits) - 1,
        int(axis) if axis else None,
    )
    shape = tuple(None if d == "?" else int(d) for d in sizes.split("x")[:-1])
    return Spec(shape, storage, quantized=quantized)


def _split(text: str) -> list[str]:
    """Split at commas outside angle brackets."""
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char == "<") - (char == ">")
        if char == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    return [p for p in (*parts, text[start:].strip()) if p]
