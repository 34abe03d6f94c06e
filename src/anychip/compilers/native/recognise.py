"""Finds what a composite does not name: rows gathered from a block-format table and dequantised.

The chain of ops behind the gather is compared, op by op, with what `core.blocks` says of the
format. So nothing is recognised by its looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from anychip.core import Module
from anychip.core.blocks import BLOCK_FORMATS
from anychip.ops.view import Block, OpView, Value, program


@dataclass(frozen=True)
class Gathered:
    """`value` is f32[…, depth]: rows of a table in `format`; `ops` are those it stands for."""

    value: Value
    format: str
    ops: tuple[OpView, ...]


def dequantised(block: Block, gather: OpView) -> Gathered | None:
    """The dequantised rows that follow a gather of bytes; None when there are no such."""
    *lead, size = gather.outputs[0].sizes
    makers = {value: op for op in block.ops for value in op.results}
    for op in block.ops:
        for value in op.results:
            *own, depth = value.spec.sizes or (0,)
            if value.spec.dtype != "f32" or own != lead:
                continue
            for name, form in BLOCK_FORMATS.items():
                if depth % form.elements or form.row_bytes(depth) != size:
                    continue
                found: dict[OpView, None] = {}
                written = _expression(value, gather.results[0], makers, found)
                if written == _reference(name, (*lead, size)):
                    return Gathered(value, name, tuple(found))
    return None


@lru_cache(maxsize=16)
def _reference(name: str, shape: tuple[int, ...]) -> Any:
    """The expression of a format's own definition on u8[shape]."""
    import jax
    import jax.numpy as jnp

    spec = jax.ShapeDtypeStruct(shape, np.uint8)
    form = BLOCK_FORMATS[name]
    lowered = jax.jit(lambda blocks: form.dequantize(blocks, jnp)).lower(spec)
    module = Module.from_mlir(str(lowered.compiler_ir("stablehlo")))
    main = program(module).main
    makers = {value: op for op in main.ops for value in op.results}
    return _expression(main.results[0], main.arguments[0], makers, {})


def _expression(
    value: Value, root: Value, makers: Mapping[Value, OpView], found: dict[OpView, None]
) -> Any:
    """The value as nested tuples in terms of `root`; the ops on the way are added to `found`."""
    numbers: dict[Value, int] = {}
    lines: list[Any] = []

    def visit(one: Value) -> int:
        if one in numbers:
            return numbers[one]
        if one is root or one not in makers:
            line: Any = "root" if one is root else ("other", id(one))
        else:
            op = makers[one]
            inputs = tuple(visit(v) for v in op.operands)
            found[op] = None
            attributes = tuple(sorted((k, _plain(v)) for k, v in op.attributes.items()))
            line = (op.name, str(one.spec), inputs, attributes)
        lines.append(line)
        numbers[one] = len(lines) - 1
        return numbers[one]

    visit(value)
    return tuple(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    return repr(value)


def users(block: Block, value: Value) -> Iterator[OpView]:
    """The ops of a block that read a value."""
    return (op for op in block.ops if any(v is value for v in op.operands))
