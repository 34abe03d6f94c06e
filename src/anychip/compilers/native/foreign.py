"""Pieces that cpu:xla runs between native parts: one op cut out of the module, compiled alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from anychip.compilers.native.plan import Foreign, Plan
from anychip.core import CompileOptions, Module, dtype, ir
from anychip.core.module import find_function

Piece = Callable[..., np.ndarray]


def compile_pieces(plan: Plan, module: Module, options: CompileOptions) -> Mapping[Foreign, Piece]:
    """Each distinct piece of a plan as a function from arrays (floats in f32) to an array."""
    kernels = {plan.tasks[i].kernel for i in plan.pieces}
    return {k: _compiled(k, module, options) for k in kernels if isinstance(k, Foreign)}


def _compiled(piece: Foreign, module: Module, options: CompileOptions) -> Piece:
    from anychip.compilers.xla import XlaTarget

    alone = CompileOptions(threads=options.threads, timeout_s=options.timeout_s)
    executable = XlaTarget().compile(cut(module, piece.function, piece.index), alone)
    elements = [dtype(element).numpy for _, element, _ in piece.inputs]
    is_float = dtype(piece.result[1]).kind == "float"

    def run(*arrays: Any) -> np.ndarray:
        typed = [
            a if getattr(a, "dtype", None) == e else np.asarray(a).astype(e)
            for a, e in zip(arrays, elements, strict=True)
        ]
        made = np.asarray(executable.run(*typed)[0])
        return made.astype(np.float32) if is_float else made

    return run


def cut(module: Module, function: str, index: int) -> Module:
    """A module whose main is that one op, with the functions it may call."""
    from jaxlib.mlir import ir as mlir
    from jaxlib.mlir.dialects import func

    with ir.opened(module.bytecode) as parsed:
        whole = find_function(parsed, function)
        op = list(whole.operation.regions[0].blocks[0].operations)[index].operation
        with mlir.Location.unknown():
            made = mlir.Module.create()
            with mlir.InsertionPoint(made.body):
                inputs = [v.type for v in op.operands]
                main = func.FuncOp("main", (inputs, [v.type for v in op.results]))
                block = main.add_entry_block()
                with mlir.InsertionPoint(block):
                    copy = op.clone()
                    for at, argument in enumerate(block.arguments):
                        copy.operands[at] = argument
                    func.ReturnOp(list(copy.results))
                for other in parsed.body.operations:
                    name = mlir.StringAttr(other.operation.attributes["sym_name"]).value
                    if name != "main":
                        other.operation.clone()
        return Module.from_mlir(made, name=f"{function}_{index}")
