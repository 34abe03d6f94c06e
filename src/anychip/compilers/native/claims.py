"""A task's units shared out while it runs, so that no thread waits long for a slower one.

Two cores that read one memory seldom get the same of it, and either may be held up by other
programs. Every thread has a part of the units, one range; it claims half of what is left of it
again and again, and once nothing is left it does the same for the threads after it. Which thread
does a unit changes no number. The pieces shrink as in guided self-scheduling (Polychronopoulos and
Kuck 1987, doi:10.1109/TC.1987.5009495), but each thread goes through its memory in order.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as llvm
import numpy as np

from anychip.compilers.native.ir import I64, POINTER, Function, Value

LINE = 64
"""Bytes of a counter: a cache line, so that claiming one's own disturbs nobody."""

_HELPED = 4
"""So many others a thread helps at most: with many threads, asking all costs more than it gains."""

KERNEL = llvm.FunctionType(llvm.VoidType(), [POINTER, I64, I64])


def emit_shared(module: llvm.Module, threads: int) -> llvm.Function:
    """`shared(kernel, operands, counters, units, piece, thread)`: on every thread, with the same
    counters (one a thread, LINE bytes apart, zero before the first comes), it runs `kernel` on each
    unit once, on a multiple of `piece` at a time. It may return while others still work.
    """
    pointers = [(name, POINTER) for name in ("kernel", "operands", "counters")]
    numbers = [(name, I64) for name in ("units", "piece", "thread")]
    f = Function(module, "shared", [*pointers, *numbers])
    f.raw.linkage = "internal"
    f.raw.attributes.add("noinline")
    with f, f.loop(0, min(threads, 1 + _HELPED)) as turn:
        _finish(f, (f.arguments["thread"] + turn) % threads, threads)
    return f.raw


def _finish(f: Function, owner: Value, threads: int) -> None:
    """Claim pieces of a thread's part until nothing is left of it. A look comes before each claim:
    lines that are only looked at stay with several threads at once."""
    b, units, piece = f.builder, f.arguments["units"], f.arguments["piece"]
    first, last = ((owner + i) * units // threads for i in (0, 1))
    pieces = (last - first + piece - 1) // piece
    counter = f.arguments["counters"].at(owner * LINE).raw
    look, claim, run, done = (f.raw.append_basic_block(n) for n in ("look", "claim", "run", "done"))

    def left(claims: Any) -> Value:
        number = Value(f, claims)
        return pieces >> f.select(number > 63, f.i64(63), number)  # by more has no meaning

    b.branch(look)
    b.position_at_end(look)
    seen = left(b.load_atomic(counter, "monotonic", 8, typ=I64))
    b.cbranch((seen > 0).raw, claim, done)
    b.position_at_end(claim)
    own = left(b.atomic_rmw("add", counter, I64(1), "monotonic"))
    b.cbranch((own > 0).raw, run, done)
    b.position_at_end(run)
    begin, end = (first + (pieces - rest) * piece for rest in (own, own >> 1))
    end = f.select(end > last, last, end)
    f.call_pointer(f.arguments["kernel"], KERNEL, f.arguments["operands"], begin, end)
    b.branch(look)
    b.position_at_end(done)


def write_shared(
    module: llvm.Module, name: str, kernel: Any, units: int, piece: int, threads: int
) -> None:
    """`name(context, thread)`: the kernel shared out among threads. The context is `counters`, then
    the kernel's operands."""
    shared: Any = module.globals.get("shared") or emit_shared(module, threads)
    f = Function(module, name, [("context", POINTER), ("thread", I64)])
    with f:
        context, thread = f.arguments["context"], f.arguments["thread"]
        numbers = (f.i64(units), f.i64(max(piece, 1)), thread)
        given = (f.plain_pointer(kernel), context.at(8), context.load(POINTER), *numbers)
        f.builder.call(shared, [one.raw for one in given])


def counters(runs: int, threads: int) -> np.ndarray:
    """For so many runs, one after the other; to be zeroed before they are run again."""
    return np.zeros((runs, threads * LINE // 8), np.int64)
