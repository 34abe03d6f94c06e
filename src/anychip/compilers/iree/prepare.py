"""A Module as IREE takes it: named places, no donation, 16-bit products summed in 32 bits, no
positions outside of arrays."""

from __future__ import annotations

from typing import Any

from anychip.compilers import xla_input
from anychip.compilers.iree.bounds import keep_inside
from anychip.core import Module, ir

PREPARED = 2
"""Counts changes of what this makes, so that programs stored before one are not found."""

_DONATION = ("tf.aliasing_output", "jax.buffer_donor")


def prepare(module: Module) -> tuple[str, tuple[str, ...]]:
    """StableHLO text, and the table of source lines its locations index.

    StableHLO leaves open how a product of 16-bit floats is summed; IREE takes the result's type at
    its word and sums in 16 bits. XLA and the op table sum in 32, so that is asked for here.
    """
    bytecode, table = xla_input.prepare(module)
    with ir.opened(bytecode) as parsed:
        for function in parsed.body.operations:
            _undonate(function)
        _widen_sums(parsed)
        keep_inside(parsed)
        return ir.to_text(parsed, locations=True), table


def _undonate(function: Any) -> None:
    from jaxlib.mlir import ir as mlir

    if "arg_attrs" in function.attributes:
        rows = [
            mlir.DictAttr.get(
                {a.name: a.attr for a in mlir.DictAttr(row) if a.name not in _DONATION}
            )
            for row in mlir.ArrayAttr(function.attributes["arg_attrs"])
        ]
        function.attributes["arg_attrs"] = mlir.ArrayAttr.get(rows)


def _widen_sums(parsed: Any) -> None:
    from jaxlib.mlir import ir as mlir

    for op in ir.ops_named(parsed, "stablehlo.dot_general", "stablehlo.convolution"):
        narrow = mlir.RankedTensorType(op.results[0].type)
        if str(narrow.element_type) not in ("bf16", "f16"):
            continue
        with mlir.InsertionPoint(op), op.location:
            sums = mlir.Operation.create(
                op.name,
                results=[mlir.RankedTensorType.get(narrow.shape, mlir.F32Type.get())],
                operands=list(op.operands),
                attributes={name: op.attributes[name] for name in op.attributes},
            )
            back = mlir.Operation.create(
                "stablehlo.convert", results=[narrow], operands=[sums.results[0]]
            )
        op.results[0].replace_all_uses_with(back.results[0])
        op.erase()
