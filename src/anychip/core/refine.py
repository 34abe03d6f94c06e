"""Fix the symbolic dimensions of a Module: sizes in `main` first, then every shape inside."""

# The MLIR bindings are untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from anychip.core import ir
from anychip.core.errors import InputError
from anychip.core.signature import Dim, Signature

if TYPE_CHECKING:
    from anychip.core.module import Module


def refine(module: Module, dims: Mapping[str, int]) -> Module:
    """The module at these sizes, with every type inside static.

    Raises InputError when StableHLO's shape refinement cannot settle some type.
    """
    from jaxlib.mlir import ir as mlir
    from jaxlib.mlir.dialects import stablehlo

    from anychip.core.module import Module, find_function

    def fixed(shape: tuple[Dim, ...]) -> tuple[int, ...]:
        return tuple(dims[d] if isinstance(d, str) else d for d in shape)

    stablehlo.register_stablehlo_passes()
    with module.opened() as parsed:
        main = find_function(parsed, "main")
        shapes = [
            f"tensor<{''.join(f'{d}x' for d in fixed(a.shape))}{a.dtype}>"
            for a in module.signature.arguments
        ]
        from jaxlib.mlir import passmanager

        pipeline = (
            # refinement does not look into a composite's body; as a call it does
            "builtin.module(func.func(stablehlo-legalize-composite-to-call),"
            "stablehlo-refine-arguments{types=" + ",".join(shapes) + "},"
            "stablehlo-refine-shapes,func.func(stablehlo-canonicalize-dynamism),"
            "stablehlo-refine-shapes)"
        )
        try:
            passmanager.PassManager.parse(pipeline).run(parsed.operation)
        except mlir.MLIRError as error:
            raise InputError(f"cannot fix dimensions {dict(dims)}: {error}") from None
        main = find_function(parsed, "main")
        from anychip.core.module import function_types

        _, outputs = function_types(main)
        results = []
        for text, result in zip(outputs, module.signature.results, strict=True):
            sizes, _ = ir.tensor_type(text)
            if None in sizes:
                raise InputError(
                    f"result {result.name} keeps a dynamic size ({text}) at dimensions {dict(dims)}"
                )
            results.append(replace(result, shape=tuple(d for d in sizes if d is not None)))
        signature = Signature(
            tuple(replace(a, shape=fixed(a.shape)) for a in module.signature.arguments),
            tuple(results),
        )
        return Module.from_mlir(
            ir.to_bytecode(parsed),
            name=module.name,
            signature=signature,
            weights=module.weights,
            sources=module.sources,
        )
