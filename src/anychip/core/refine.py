"""Fix the sizes of a program: of `main`'s arguments first, then of every shape inside."""

# The MLIR bindings are untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anychip.core import ir
from anychip.core.errors import InputError
from anychip.core.inline import inline_calls


def refine(bytecode: bytes, types: Sequence[str]) -> bytes:
    """The program whose `main` takes these types (`tensor<2x3xf32>`), with every size they settle.

    Raises InputError when StableHLO's shape refinement cannot take them through.
    """
    from jaxlib.mlir import ir as mlir

    with ir.opened(bytecode) as parsed:
        try:
            _refine(parsed, types)
            return ir.to_bytecode(parsed)
        except mlir.MLIRError:
            # Refinement settles a function once and refuses calls that differ in known integers,
            # as those of JAX's dimension arithmetic (`floor_divide`, …) do: then it is inlined.
            pass
    with ir.opened(bytecode) as parsed:
        try:
            _run(parsed, "func.func(stablehlo-legalize-composite-to-call)")
            inline_calls(parsed)
            _run(parsed, "symbol-dce")
            _refine(parsed, types)
            return ir.to_bytecode(parsed)
        except mlir.MLIRError as error:
            raise InputError(f"cannot fix the arguments' sizes: {error}") from None


def _refine(parsed: Any, types: Sequence[str]) -> None:
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
