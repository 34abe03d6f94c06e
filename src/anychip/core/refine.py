"""Fix the symbolic dimensions of a Module: sizes in `main` first, then every shape inside."""

# The MLIR bindings are untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anychip.core import ir
from anychip.core.errors import InputError
from anychip.core.inline import inline_calls
from anychip.core.signature import Dim, Signature

if TYPE_CHECKING:
    from anychip.core.module import Module


def refine(module: Module, dims: Mapping[str, int]) -> Module:
    """The module at these sizes, with every type inside static.

    Raises InputError when StableHLO's shape refinement cannot settle some type.
    """
    from jaxlib.mlir import ir as mlir

    def fixed(shape: tuple[Dim, ...]) -> tuple[int, ...]:
        return tuple(dims[d] if isinstance(d, str) else d for d in shape)

    arguments = tuple(replace(a, shape=fixed(a.shape)) for a in module.signature.arguments)
    types = [f"tensor<{''.join(f'{d}x' for d in fixed(a.shape))}{a.dtype}>" for a in arguments]
    with module.opened() as parsed:
        try:
            _refine(parsed, types)
            return _refined(module, parsed, arguments, dims)
        except mlir.MLIRError:
            # Refinement settles a function once and refuses calls that differ in known integers,
            # as those of JAX's dimension arithmetic (`floor_divide`, …) do: then it is inlined.
            pass
    with module.opened() as parsed:
        try:
            _run(parsed, "func.func(stablehlo-legalize-composite-to-call)")
            inline_calls(parsed)
            _run(parsed, "symbol-dce")
            _refine(parsed, types)
            return _refined(module, parsed, arguments, dims)
        except mlir.MLIRError as error:
            raise InputError(f"cannot fix dimensions {dict(dims)}: {error}") from None


def _refine(parsed: Any, types: list[str]) -> None:
    _run(
        parsed,
        # refinement does not look into a composite's body; as a call it does
        "func.func(stablehlo-legalize-composite-to-call),"
        "stablehlo-refine-arguments{types=" + ",".join(types) + "},"
        "stablehlo-refine-shapes,func.func(stablehlo-canonicalize-dynamism),"
        "stablehlo-refine-shapes",
    )


def _run(parsed: Any, passes: str) -> None:
    from jaxlib.mlir import passmanager
    from jaxlib.mlir.dialects import stablehlo

    stablehlo.register_stablehlo_passes()
    passmanager.PassManager.parse(f"builtin.module({passes})").run(parsed.operation)


def _refined(
    module: Module, parsed: Any, arguments: tuple[Any, ...], dims: Mapping[str, int]
) -> Module:
    from anychip.core.module import Module, find_function, function_types

    _, outputs = function_types(find_function(parsed, "main"))
    results = []
    for text, result in zip(outputs, module.signature.results, strict=True):
        sizes, _ = ir.tensor_type(text)
        if None in sizes:
            raise InputError(
                f"result {result.name} keeps a dynamic size ({text}) at dimensions {dict(dims)}"
            )
        results.append(replace(result, shape=tuple(d for d in sizes if d is not None)))
    return Module.from_mlir(
        ir.to_bytecode(parsed),
        name=module.name,
        signature=Signature(arguments, tuple(results)),
        weights=module.weights,
        sources=module.sources,
    )
