"""Find the first op of a program at which something becomes true: wrong on a target, not compiling.

The program is cut after its n-th op, and n is found by halving. That takes as many trials as the
number of ops has bits, and finds *the* first op where what holds of a prefix holds of every longer
one (an error that stays, an op that cannot be compiled); of several it finds one.
"""

# The MLIR bindings are untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anychip.core import (
    AnychipError,
    CompileOptions,
    Executable,
    Module,
    Origin,
    Result,
    Target,
    UnsupportedError,
    UsageError,
    ir,
)
from anychip.core import origin as origins
from anychip.core.inline import inline_calls
from anychip.core.module import find_function, function_types
from anychip.debug.errors import Distance

Predicate = Callable[[Module], str]
"""What is wrong with a prefix of the program, in words; "" when nothing is."""


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """The first op whose prefix the predicate holds of. `index` counts the ops of `main` with its
    functions inlined, `of` is how many there are, `trials` how often the predicate was asked."""

    op: str
    origin: Origin
    index: int
    of: int
    why: str
    trials: int


def bisect(
    module: Module, predicate: Predicate, say: Callable[[str], None] = lambda what: None
) -> Culprit | None:
    """The culprit, or None when the predicate does not hold of the whole program either."""
    ops = _ops(module)
    trials = 1
    say(f"the whole program, {len(ops)} ops")
    why = predicate(prefix(module, len(ops)))
    if not why:
        return None
    good, bad = 0, len(ops)  # of no ops it does not hold, of `bad` it does
    while bad - good > 1:
        middle = (good + bad) // 2
        say(f"between op {good + 1} and {bad}")
        trials += 1
        found = predicate(prefix(module, middle))
        good, bad, why = (good, middle, found) if found else (middle, bad, why)
    name, origin = ops[bad - 1]
    return Culprit(op=name, origin=origin, index=bad - 1, of=len(ops), why=why, trials=trials)


def prefix(module: Module, count: int) -> Module:
    """The program's first `count` ops; it returns what the last of them gives, and every value
    that the rest of the program would use.

    Raises UsageError when the module has fewer, or when no such value is a tensor.
    """
    with module.opened() as parsed:
        from jaxlib.mlir import ir as mlir

        inline_calls(parsed)
        main = find_function(parsed, "main").operation
        block = main.regions[0].blocks[0]
        ops = [op.operation for op in block.operations]
        if not 0 < count < len(ops):
            raise UsageError(f"{module.name} has {len(ops) - 1} ops, not {count}")
        needed = set(_operands(ops[count:]))
        values = [v for op in ops[: count - 1] for v in op.results if v in needed]
        values = [v for v in (*values, *ops[count - 1].results) if str(v.type)[:7] == "tensor<"]
        if not values:
            raise UsageError(f"after op {count} of {module.name} there is no tensor to return")
        for op in reversed(ops[count:]):
            op.erase()
        with mlir.Location.unknown():
            mlir.Operation.create("func.return", operands=values, ip=mlir.InsertionPoint(block))
        kind = mlir.FunctionType.get([a.type for a in block.arguments], [v.type for v in values])
        main.attributes["function_type"] = mlir.TypeAttr.get(kind)
        if "res_attrs" in main.attributes:
            del main.attributes["res_attrs"]
        _, outputs = function_types(find_function(parsed, "main"))
        results = tuple(
            Result(f"value{index}", tuple(d for d in sizes if d is not None), element)
            for index, (sizes, element) in enumerate(map(ir.tensor_type, outputs))
        )
        return Module.from_mlir(
            ir.run_passes(ir.to_bytecode(parsed), "builtin.module(symbol-dce)"),
            name=f"{module.name}-first-{count}",
            signature=replace(module.signature, results=results),
            weights=module.weights,
            sources=module.sources,
        )


def _operands(ops: Sequence[Any]) -> Iterator[Any]:
    """Every value that ops, or ops in their regions, use."""
    for op in ops:
        yield from op.operands
        for region in op.regions:
            for block in region.blocks:
                yield from _operands([inner.operation for inner in block.operations])


def does_not_compile(target: Target, options: CompileOptions | None = None) -> Predicate:
    """Whether a target refuses a program, or leaves ops of it unsupported."""

    def predicate(module: Module) -> str:
        try:
            coverage = target.compile(module, options or CompileOptions()).coverage
        except UsageError:
            raise
        except AnychipError as error:
            return str(error)
        refused = [row for row in coverage.rows if row.fate == "unsupported"]
        return "; ".join(f"{row.op}: {row.why}" for row in refused)

    return predicate


def is_wrong(
    reference: Target,
    target: Target,
    inputs: Sequence[np.ndarray],
    *,
    threshold: float = 1e-3,
    options: CompileOptions | None = None,
    compile: Callable[[Target, Module, CompileOptions], Executable] | None = None,
) -> Predicate:
    """Whether a program's results on `target` are further from those on `reference`, relative to
    their size, than `threshold`. Integers and booleans must be equal. `compile`: how to, where the
    target's own way is not meant, such as with a fallback for ops it lacks."""
    for one in (reference, target):
        if not one.runs:
            raise UsageError(f"{one.name} does not run here: no numbers to compare")

    def predicate(module: Module) -> str:
        both: list[list[Any]] = []
        for one in (reference, target):
            given = options or CompileOptions()
            made = compile(one, module, given) if compile else one.compile(module, given)
            both.append([np.array(x) for x in made.run(*(np.array(x) for x in inputs))])
        for a, b in zip(*both, strict=True):
            distance = Distance()
            distance.add(a, b)
            if a.dtype.kind in "biu" and distance.max_abs:
                return f"max |Δ| {distance.max_abs:g} in {a.dtype}"
            if not distance.rel <= threshold:
                return f"relative error {distance.rel:.2e}"
        return ""

    return predicate


def _ops(module: Module) -> list[tuple[str, Origin]]:
    with module.opened() as parsed:
        inline_calls(parsed)
        block = find_function(parsed, "main").operation.regions[0].blocks[0]
        ops = [op.operation for op in block.operations][:-1]
        if not ops:
            raise UnsupportedError(f"{module.name} has no ops to search")
        return [(op.name, origins.parse(str(op.location), module.sources)) for op in ops]
