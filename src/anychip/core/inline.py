"""Put the bodies of private functions where they are called, with locations that say both places.

MLIR's own inliner does not know func.call in jaxlib's bindings.
"""

# The MLIR bindings are untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any


def inline_calls(parsed: Any) -> None:
    """Inline every func.call in `main`. The functions stay; `symbol-dce` drops those left over."""
    from jaxlib.mlir import ir as mlir

    functions = {
        mlir.StringAttr(op.attributes["sym_name"]).value: op.operation
        for op in parsed.body.operations
        if op.operation.name == "func.func"
    }
    waiting = _calls(functions["main"])
    while waiting:
        call = waiting.pop()
        body = functions[mlir.FlatSymbolRefAttr(call.attributes["callee"]).value]
        block = body.regions[0].blocks[0]
        values = dict(zip(block.arguments, call.operands, strict=True))
        results = _copy_block(block, mlir.InsertionPoint(call), values, call.location, waiting)
        for old, new in zip(call.results, results, strict=True):
            old.replace_all_uses_with(new)
        call.erase()


def _copy_block(
    block: Any, point: Any, values: dict[Any, Any], caller: Any, calls: list[Any]
) -> list[Any]:
    """Copy a block's ops to `point`; returns what its terminator returns, if that is func's."""
    for op in block.operations:
        if op.operation.name == "func.return":
            return [values.get(v, v) for v in op.operands]
        copy_op(op.operation, point, values, caller, calls)
    return []


def copy_op(
    op: Any, point: Any, values: dict[Any, Any], caller: Any = None, calls: list[Any] | None = None
) -> None:
    """Copy one op with its regions to `point`, operands through `values`, which gets the results.

    With a `caller`, locations say both places. Copied func.calls are added to `calls`.
    """
    from jaxlib.mlir import ir as mlir

    place = op.location if caller is None else mlir.Location.callsite(op.location, [caller])
    copy = mlir.Operation.create(
        op.name,
        results=[r.type for r in op.results],
        operands=[values.get(v, v) for v in op.operands],
        attributes=dict(op.attributes.items()),
        regions=len(op.regions),
        loc=place,
        ip=point,
    )
    calls = [] if calls is None else calls
    for region, new in zip(op.regions, copy.regions, strict=True):
        for inner in region.blocks:
            kinds = [a.type for a in inner.arguments]
            made = new.blocks.append(*kinds, arg_locs=[a.location for a in inner.arguments])
            values.update(zip(inner.arguments, made.arguments, strict=True))
            at = mlir.InsertionPoint(made)
            for one in inner.operations:
                copy_op(one.operation, at, values, caller, calls)
    values.update(zip(op.results, copy.results, strict=True))
    if copy.name == "func.call":
        calls.append(copy)


def _calls(operation: Any) -> list[Any]:
    found: list[Any] = []
    for region in operation.regions:
        for block in region.blocks:
            for op in block.operations:
                if op.operation.name == "func.call":
                    found.append(op.operation)
                found += _calls(op.operation)
    return found
