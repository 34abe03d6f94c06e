"""Lift: name what hardware knows as one thing, where a program spells it out op by op.

Each pattern becomes the composite of that name whose decomposition is the very ops that were found:
a back end that does not know the composite computes what it did before, bit for bit.
"""

# The MLIR bindings are untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from anychip.core import Module, Origin, ir
from anychip.core.inline import copy_op, inline_calls
from anychip.core.module import find_function
from anychip.ops.composite import PREFIX
from anychip.ops.view import Value, program
from anychip.passes.expression import Expressions, Mismatch
from anychip.passes.patterns import (
    Pattern,
    attention,
    gelu,
    layer_norm,
    rms_norm,
    silu,
    softmax,
)
from anychip.passes.patterns_model import rope, scaled_matmul

PATTERNS: tuple[tuple[tuple[str, Pattern], ...], ...] = (
    (
        ("layer_norm", layer_norm),
        ("rms_norm", rms_norm),
        ("softmax", softmax),
        ("gelu", gelu),
        ("silu", silu),
        ("rope", rope),
        ("scaled_matmul", scaled_matmul),
    ),
    (("attention", attention),),
)
"""By round: attention is looked for when softmax is known."""
_MIXED = ("rope", "scaled_matmul")
"""Those that take other types than they give."""
_FLOATS = ("f32", "f64")
"""Narrower ones say by their conversions what is rounded where; a composite would not."""


@dataclass(frozen=True)
class Lifted:
    """One thing that was named: the composite, how many ops it stands for, where it ended."""

    name: str
    ops: int
    origin: Origin


def lift(module: Module, names: Collection[str] | None = None) -> tuple[Module, tuple[Lifted, ...]]:
    """The module with its patterns named, and what they are. Calls in `main` are inlined.

    `names` are the composites to look for; all of PATTERNS where it is None. Patterns inside loops,
    branches and composites stay as they are, as do symbolic sizes.
    """
    read = program(module)
    if not read.is_static:
        return module, ()
    if any(op.name == "func.call" for op in read.main.ops):
        with module.opened() as parsed:
            inline_calls(parsed)
            module = _rebuilt(module, ir.to_bytecode(parsed))
    found: list[Lifted] = []
    for patterns in PATTERNS:
        wanted = tuple((n, p) for n, p in patterns if names is None or n in names)
        module, new = _round(module, wanted)
        found += new
    return module, tuple(found)


def _rebuilt(module: Module, bytecode: Any) -> Module:
    return Module.from_mlir(
        bytecode, signature=module.signature, weights=module.weights, sources=module.sources
    )


@dataclass(frozen=True)
class _Match:
    name: str
    root: int
    inside: frozenset[int]
    takes: tuple[Value, ...]
    attributes: Mapping[str, Any]


def _round(
    module: Module, patterns: tuple[tuple[str, Pattern], ...]
) -> tuple[Module, list[Lifted]]:
    read = program(module)
    matches = _matches(Expressions(read.main), patterns)
    if not matches:
        return module, []
    with module.opened() as parsed:
        block = find_function(parsed, "main").operation.regions[0].blocks[0]
        ops = [op.operation for op in block.operations]
        values = dict(zip(read.main.arguments, block.arguments, strict=True))
        for view, op in zip(read.main.ops, ops, strict=False):
            values.update(zip(view.results, op.results, strict=True))
        dead: set[int] = set()
        for match in matches:
            made = _replace(parsed, ops, values, match, f"{match.name}_lifted_{match.root}")
            values[read.main.ops[match.root].results[0]] = made
            dead |= match.inside
        for index in sorted(dead, reverse=True):
            if not any(len(list(r.uses)) for r in ops[index].results):
                ops[index].erase()
        bytecode = ir.to_bytecode(parsed)
    lifted = [Lifted(m.name, len(m.inside), read.main.ops[m.root].origin) for m in matches]
    return _rebuilt(module, bytecode).run_passes("builtin.module(symbol-dce)"), lifted


def _matches(e: Expressions, patterns: tuple[tuple[str, Pattern], ...]) -> list[_Match]:
    """From the last op to the first, so that the largest pattern is found; none overlap."""
    found: list[_Match] = []
    taken: set[int] = set()
    for root in range(len(e.block.ops) - 1, -1, -1):
        op = e.block.ops[root]
        if root in taken or len(op.results) != 1 or op.outputs[0].dtype not in _FLOATS:
            continue
        for name, pattern in patterns:
            e.inside, e.shared = {root}, set()
            try:
                takes, attributes = pattern(e, op)
            except Mismatch:
                continue
            bound = {i for i in e.inside - e.shared if not e.is_free(i)}
            alike = name in _MIXED or all(v.spec.dtype == op.outputs[0].dtype for v in takes)
            if bound & taken or not alike or not e.closed(root, takes):
                continue
            found.append(_Match(name, root, frozenset(e.inside), takes, attributes))
            taken |= bound
            break
    return found[::-1]


def _replace(
    parsed: Any, ops: list[Any], values: dict[Value, Any], match: _Match, symbol: str
) -> Any:
    """Put the ops into a function, the composite in the root's place; returns its result."""
    from jaxlib.mlir import ir as mlir

    root = ops[match.root]
    operands = [values[v] for v in match.takes]
    unique = list(dict.fromkeys(operands))
    kinds = [v.type for v in operands]
    results = [r.type for r in root.results]
    function = mlir.Operation.create(
        "func.func",
        attributes={
            "sym_name": mlir.StringAttr.get(symbol),
            "sym_visibility": mlir.StringAttr.get("private"),
            "function_type": mlir.TypeAttr.get(mlir.FunctionType.get(kinds, results)),
        },
        regions=1,
        loc=root.location,
        ip=mlir.InsertionPoint(parsed.body),
    )
    block = function.regions[0].blocks.append(*kinds, arg_locs=[root.location] * len(kinds))
    inside = {v: block.arguments[operands.index(v)] for v in unique}
    at = mlir.InsertionPoint(block)
    for index in sorted(match.inside):
        copy_op(ops[index], at, inside)
    mlir.Operation.create(
        "func.return", operands=[inside[root.results[0]]], loc=mlir.Location.unknown(), ip=at
    )
    made = mlir.Operation.create(
        "stablehlo.composite",
        results=results,
        operands=operands,
        attributes={
            "name": mlir.StringAttr.get(PREFIX + match.name),
            "decomposition": mlir.FlatSymbolRefAttr.get(symbol),
            "composite_attributes": mlir.DictAttr.get(
                {name: _attribute(value) for name, value in match.attributes.items()}
            ),
            "version": mlir.IntegerAttr.get(mlir.IntegerType.get_signless(32), 1),
        },
        loc=root.location,
        ip=mlir.InsertionPoint(root),
    )
    root.results[0].replace_all_uses_with(made.results[0])
    return made.results[0]


def _attribute(value: Any) -> Any:
    from jaxlib.mlir import ir as mlir

    if isinstance(value, bool):
        return mlir.BoolAttr.get(value)
    if isinstance(value, int):
        return mlir.IntegerAttr.get(mlir.IntegerType.get_signless(64), value)
    if isinstance(value, str):
        return mlir.StringAttr.get(value)
    return mlir.FloatAttr.get(mlir.F64Type.get(), float(value), loc=mlir.Location.unknown())
