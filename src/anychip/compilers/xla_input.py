"""What XLA:CPU must know about a Module: the arguments it may reuse, and where each op is from."""

from __future__ import annotations

from typing import Any

from anychip.core import Module, Origin, Signature, ir
from anychip.core import origin as origins
from anychip.core.module import find_function

_DONATION = ("tf.aliasing_output", "jax.buffer_donor")
_INLINED = ("func.call", "stablehlo.composite")


def prepare(module: Module) -> tuple[bytes, tuple[str, ...]]:
    """Bytecode for XLA, and the table of source lines its op names index.

    Exactly the state arguments that a result updates are donated to that result. Every op is named
    `layer#source/op`, which XLA keeps through inlining and fusion; file locations are left out,
    because XLA loses count of them when it stores an executable.
    """
    with module.opened() as parsed:
        main = find_function(parsed, "main")
        _donate(main, module.signature)
        table = _name_ops(parsed, module.sources)
        _name_arguments(main, module.signature)
        return ir.to_bytecode(parsed), table


def origin_of(op_name: str, table: tuple[str, ...]) -> Origin:
    """The origin of an HLO op from the `op_name` of its metadata."""
    return origins.parse(f'loc("{op_name}")', table)


def _donate(main: Any, signature: Signature) -> None:
    from jaxlib.mlir import ir as mlir

    attributes = main.operation.attributes
    empty: list[Any] = [mlir.DictAttr.get({})] * len(signature.arguments)
    given = list(mlir.ArrayAttr(attributes["arg_attrs"])) if "arg_attrs" in attributes else empty
    updated = {r.updates: i for i, r in enumerate(signature.results) if r.updates is not None}
    i32 = mlir.IntegerType.get_signless(32)
    rows = []
    for argument, row in zip(signature.arguments, given, strict=True):
        kept = {a.name: a.attr for a in mlir.DictAttr(row) if a.name not in _DONATION}
        if argument.name in updated:
            kept["tf.aliasing_output"] = mlir.IntegerAttr.get(i32, updated[argument.name])
        rows.append(mlir.DictAttr.get(kept))
    attributes["arg_attrs"] = mlir.ArrayAttr.get(rows)


def _name_ops(parsed: Any, sources: tuple[str, ...]) -> tuple[str, ...]:
    from jaxlib.mlir import ir as mlir

    table = {text: index for index, text in reversed(list(enumerate(sources)))}
    full = list(sources)
    named: dict[tuple[str, str], Any] = {}

    def visit(op: Any) -> Any:
        key = (str(op.location), op.name)
        if key not in named:
            origin = origins.parse(key[0], sources)
            if origin.source and origin.source not in table:
                table[origin.source] = len(full)
                full.append(origin.source)
            mark = f"#{table[origin.source]}" if origin.source else ""
            # XLA puts a caller's name before its callee's ops: `jit` is no layer to origins.parse.
            last = "jit" if op.name in _INLINED else op.name.partition(".")[2]
            place = f"{origin.layer}{mark}"
            named[key] = mlir.Location.name(f"{place}/{last}" if place else last)
        op.location = named[key]
        return mlir.WalkResult.ADVANCE

    parsed.operation.walk(visit)
    return tuple(full)


def _name_arguments(main: Any, signature: Signature) -> None:
    from jaxlib.mlir import ir as mlir

    block = main.operation.regions[0].blocks[0]
    for argument, value in zip(signature.arguments, block.arguments, strict=True):
        value.set_location(mlir.Location.name(argument.name))
