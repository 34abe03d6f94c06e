"""The roof: the pace at which memory gives its bytes to threads that only add them up.

The sum does what helps cpu:native's products: it asks ahead, and threads claim what they add. On
two cores that makes it 1.13 times as fast as a loop that leaves both out, so shares of this roof
are that much lower than shares of a plain loop's pace.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as llvm
import numpy as np

from anychip.compilers.native.claims import LINE, emit_shared
from anychip.compilers.native.ir import I32V, I64, POINTER, Function
from anychip.compilers.native.kernels.ahead import ask_ahead

UNIT = 4096
"""Bytes of a unit of the sum; what is beyond whole ones is not read."""


def write_sum(module: llvm.Module) -> llvm.Function:
    """A kernel: its operands are memory and room for 64 lines."""
    f = Function(module, "add_up", [("operands", POINTER), ("first", I64), ("last", I64)])
    with f:
        memory, out = (f.arguments["operands"].at(8 * i).load(POINTER) for i in (0, 1))
        first, last = f.arguments["first"], f.arguments["last"]
        sums = [f.cell(f.constant(I32V, 0)) for _ in range(4)]
        with f.loop(first * UNIT, last * UNIT, 64 * len(sums)) as at:
            for i, one in enumerate(sums):
                line = memory.at(at).at(64 * i)
                ask_ahead(f, line)
                one.value = one.value + line.load(I32V, align=64)
        total = sums[0].value + sums[1].value + sums[2].value + sums[3].value
        out.at((first & 63) * 64).store(total)
    return f.raw


def write_shared(
    module: llvm.Module, name: str, kernel: Any, units: int, piece: int, threads: int
) -> None:
    """`name(context, thread)`: the kernel shared out among threads. The context is counters, then
    the kernel's operands."""
    shared: Any = module.globals.get("shared") or emit_shared(module, threads)
    f = Function(module, name, [("context", POINTER), ("thread", I64)])
    with f:
        context, thread = f.arguments["context"], f.arguments["thread"]
        numbers = (f.i64(max(units, 1)), f.i64(max(piece, 1)), thread)
        given = (f.plain_pointer(kernel), context.at(8), context.load(POINTER), *numbers)
        f.builder.call(shared, [one.raw for one in given])


def counters(runs: int, threads: int) -> np.ndarray:
    """For so many runs, one after the other; to be zeroed before they are run again."""
    return np.zeros((runs, threads * LINE // 8), np.int64)
