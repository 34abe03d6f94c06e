"""A Module that also returns what its layers compute, so that any target that runs can be asked."""

# The MLIR bindings are untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from anychip.core import DTYPES, Module, Origin, Result, Signature, ir
from anychip.core import origin as origins
from anychip.core.inline import inline_calls
from anychip.core.module import find_function, function_types


@dataclass(frozen=True)
class Probe:
    """One value that an instrumented module returns: the last float result of a layer."""

    origin: Origin
    op: str


def instrument(module: Module) -> tuple[Module, tuple[Probe, ...]]:
    """The module with one more result a layer, after its own, in program order; and what they are.

    Functions are inlined. A layer is a path in the user's model; its value is the last result of
    floats that an op of exactly this path gives in `main`. What happens inside loops shows as the
    loop's results. A result that is itself a layer's value is returned twice.
    """
    with module.opened() as parsed:
        inline_calls(parsed)
        main = find_function(parsed, "main")
        block = main.operation.regions[0].blocks[0]
        found: dict[str, tuple[Any, Probe]] = {}
        for op in block.operations:
            origin = origins.parse(str(op.location), module.sources)
            values = [v for v in op.operation.results if _is_float(v)]
            if origin.layer and values:
                found.pop(origin.layer, None)  # the order is that of the last op
                found[origin.layer] = values[-1], Probe(origin, op.operation.name)
        probes = list(found.values())
        made = _returning(parsed, module, block, [value for value, _ in probes])
    return made, tuple(probe for _, probe in probes)


def _is_float(value: Any) -> bool:
    text = str(value.type)
    if not text.startswith("tensor<") or "?" in text or "!" in text:
        return False
    _, element = ir.tensor_type(text)
    return element in DTYPES and DTYPES[element].kind == "float"


def _returning(parsed: Any, module: Module, block: Any, values: list[Any]) -> Module:
    """`main` returning these values after its own results."""
    from jaxlib.mlir import ir as mlir

    main = find_function(parsed, "main").operation
    end = list(block.operations)[-1].operation
    operands = [*end.operands, *values]
    with mlir.Location.unknown():
        mlir.Operation.create("func.return", operands=operands, ip=mlir.InsertionPoint(end))
    end.erase()
    inputs = [a.type for a in block.arguments]
    kind = mlir.FunctionType.get(inputs, [v.type for v in operands])
    main.attributes["function_type"] = mlir.TypeAttr.get(kind)
    if "res_attrs" in main.attributes:
        empty = mlir.DictAttr.get({})
        rows = [*mlir.ArrayAttr(main.attributes["res_attrs"]), *[empty] * len(values)]
        main.attributes["res_attrs"] = mlir.ArrayAttr.get(rows)
    _, outputs = function_types(find_function(parsed, "main"))
    own = len(module.signature.results)
    extra = tuple(
        Result(f"probe{index}", tuple(d for d in sizes if d is not None), element)
        for index, (sizes, element) in enumerate(map(ir.tensor_type, outputs[own:]))
    )
    signature: Signature = replace(module.signature, results=(*module.signature.results, *extra))
    return Module.from_mlir(
        ir.run_passes(ir.to_bytecode(parsed), "builtin.module(symbol-dce)"),
        name=f"{module.name}-probed",
        signature=signature,
        weights=module.weights,
        sources=module.sources,
    )
