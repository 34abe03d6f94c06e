"""The few formulas most ops' Work follows. Each takes an OpView."""

from __future__ import annotations

from collections.abc import Callable

from anychip.ops.view import Block, OpView
from anychip.ops.work import Work


def elementwise(flops: int = 1, transcendentals: int = 0) -> Callable[[OpView], Work]:
    """So many operations for each output element; operands read once, results written once."""

    def work(op: OpView) -> Work:
        size = sum(s.size for s in op.outputs)
        return moved(op) + Work(flops=flops * size, transcendentals=transcendentals * size)

    return work


def moved(op: OpView) -> Work:
    """Every operand read and every result written, no arithmetic."""
    return Work(
        read_bytes=sum(s.nbytes for s in op.inputs),
        written_bytes=sum(s.nbytes for s in op.outputs),
    )


def picked(op: OpView) -> Work:
    """As many bytes of the first operand as the result has, and the other operands in full."""
    written = sum(s.nbytes for s in op.outputs)
    return Work(
        read_bytes=written + sum(s.nbytes for s in op.inputs[1:]),
        written_bytes=written,
    )


def nothing(op: OpView) -> Work:
    """Renaming and sequencing: no arithmetic, no bytes."""
    return Work()


def region(block: Block) -> Work:
    """Arithmetic of one application of a scalar region; bytes are not counted (registers)."""
    from anychip.ops.table import OPS

    total = Work()
    for op in block.ops:
        total += OPS[op.name].work(op)
    return Work(flops=total.flops, transcendentals=total.transcendentals)
