"""Units that threads claim while a task runs: each is done once, and a held-up thread is helped."""

import llvmlite.ir as llvm
import numpy as np
import pytest

from anychip.compilers.native import jit
from anychip.compilers.native.claims import LINE, emit_shared
from anychip.compilers.native.ir import I64, POINTER, Function, Value
from anychip.compilers.native.isa import choose
from anychip.compilers.native.pool import Pool

LONG = 1 << 31
"""Rounds of a loop that should have ended: many seconds."""


def shared_step(threads: int, kernel) -> jit.Code:
    """`step(context, thread)`; the context is counters, units, piece, then the kernel's memory."""
    module = llvm.Module("claims")
    work = Function(module, "work", [("operands", POINTER), ("first", I64), ("last", I64)])
    with work:
        kernel(work, work.arguments["operands"].load(POINTER))
    shared = emit_shared(module, threads)
    f = Function(module, "step", [("context", POINTER), ("thread", I64)])
    with f:
        context, thread = f.arguments["context"], f.arguments["thread"]
        counters = context.load(POINTER)
        units, piece = (context.at(8 * i).load(I64) for i in (1, 2))
        given = (f.plain_pointer(work.raw), context.at(24), counters, units, piece, thread)
        f.builder.call(shared, [one.raw for one in given])
    return jit.build(module, ["step"], choose("generic"))


def run(threads: int, kernel, units: int, piece: int, rounds: int = 1) -> np.ndarray:
    """The kernel's memory, i64[units + 1], after some rounds."""
    pool, code = Pool(threads, choose("generic")), shared_step(threads, kernel)
    counters = np.zeros((threads, LINE // 8), np.int64)
    memory = np.zeros(units + 1, np.int64)
    context = np.array([counters.ctypes.data, units, piece, memory.ctypes.data], np.int64)
    for _ in range(rounds):
        counters[:] = 0
        pool.run(code.address("step"), context.ctypes.data)
    pool.close()
    return memory


def count(f: Function, memory):
    """Each unit counts how often it was done."""
    with f.loop(f.arguments["first"], f.arguments["last"]) as unit:
        f.builder.atomic_rmw("add", memory.at(unit * 8).raw, I64(1), "monotonic")


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize(("units", "piece"), [(1, 1), (6, 1), (64, 1), (97, 12), (1000, 7), (5, 8)])
def test_every_unit_is_done_once(threads, units, piece):
    done = run(threads, count, units, piece, rounds=20)
    assert done[:-1].tolist() == [20] * units
    assert done[-1] == 0


def test_pieces_are_whole_multiples_but_the_last():
    def kernel(f: Function, memory):
        memory.at(f.arguments["first"] * 8).store(f.arguments["last"] - f.arguments["first"])

    sizes = run(1, kernel, 100, 8)[:-1]
    assert sizes[sizes > 0].tolist() == [56, 24, 16, 4]  # halves of 13 pieces: 7, 3, 2, 1


def test_a_thread_that_is_held_up_is_helped():
    """The first piece waits until all units outside it are done, which the thread that has it could
    never do itself."""
    units = 64

    def kernel(f: Function, memory):
        first, last = f.arguments["first"], f.arguments["last"]
        total = memory.at(8 * units)
        with f.when(first.equals(0)):
            memory.store(held(f, total, f.i64(units) - last))
        with f.loop(first, last) as unit:
            with f.when(unit > 0):
                memory.at(unit * 8).store(f.i64(1))
            f.builder.atomic_rmw("add", total.raw, I64(1), "release")

    assert run(2, kernel, units, 1).tolist() == [1] * units + [units]


def held(f: Function, total: Value, outside: Value) -> Value:
    """1 once the total is `outside`, or 0 after very long."""
    b = f.builder
    before, wait, done = b.block, *(f.raw.append_basic_block(n) for n in ("wait", "done"))
    b.branch(wait)
    b.position_at_end(wait)
    rounds = b.phi(I64)
    rounds.add_incoming(I64(0), before)
    following = b.add(rounds, I64(1))
    rounds.add_incoming(following, wait)
    is_done = b.icmp_signed(">=", b.load_atomic(total.raw, "acquire", 8, typ=I64), outside.raw)
    is_late = b.icmp_signed(">=", following, I64(LONG))
    b.cbranch(b.or_(is_done, is_late), done, wait)
    b.position_at_end(done)
    return Value(f, b.zext(is_done, I64))
