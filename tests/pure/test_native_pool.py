"""Worker threads: all of them run each step, they meet at barriers, and they go away."""

import gc
import multiprocessing
import threading
import time

import llvmlite.ir as llvm
import numpy as np
import pytest

from anychip.compilers.native import jit
from anychip.compilers.native.ir import I64, POINTER, Function
from anychip.compilers.native.isa import choose
from anychip.compilers.native.pool import Pool, emit_barrier
from anychip.core import SetupError

ROUNDS = 50


def counting_step(threads: int) -> jit.Code:
    """Each thread, in each of ROUNDS rounds, writes its slot from its neighbour's last value.

    Without a barrier between reading and writing, or without all threads, the numbers differ.
    """
    module = llvm.Module("count")
    barrier = emit_barrier(module, threads)
    f = Function(module, "step", [("context", POINTER), ("thread", I64)])
    with f:
        context, thread = f.arguments["context"], f.arguments["thread"]
        control = context.load(POINTER)
        slots = context.at(8).load(POINTER)
        neighbour = (thread + 1) % threads
        with f.loop(0, ROUNDS):
            value = slots.at(neighbour * 64).load(I64)
            f.builder.call(barrier, [control.raw])
            slots.at(thread * 64).store(value + 1)
            f.builder.call(barrier, [control.raw])
    return jit.build(module, ["step"], choose("generic"))


def run(pool: Pool, code: jit.Code) -> list[int]:
    slots = np.zeros((pool.threads, 8), np.int64)
    slots[:, 0] = np.arange(pool.threads)
    context = np.array([pool.control, slots.ctypes.data], np.int64)
    pool.run(code.address("step"), context.ctypes.data)
    return slots[:, 0].tolist()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_meet_in_every_round(threads):
    pool, code = Pool(threads, choose("generic")), counting_step(threads)
    want = [(index + ROUNDS) % threads + ROUNDS for index in range(threads)]
    for _ in range(5):
        assert run(pool, code) == want
    time.sleep(0.05)  # long enough for the workers to have gone to sleep
    assert run(pool, code) == want
    pool.close()


def workers() -> int:
    return sum(t.name.startswith("anychip-native") for t in threading.enumerate())


def test_closing_ends_the_threads_and_later_runs_say_so():
    before = workers()
    pool = Pool(3, choose("generic"))
    assert workers() == before + 2
    pool.close()
    pool.close()
    assert workers() == before
    with pytest.raises(SetupError, match="closed"):
        pool.run(0, 0)


def test_a_forgotten_pool_leaves_no_threads():
    before = workers()
    pool = Pool(2, choose("generic"))
    assert workers() == before + 1
    del pool
    gc.collect()
    assert workers() == before


def test_dead_workers_are_replaced_before_the_next_step():
    pool, code = Pool(3, choose("generic")), counting_step(3)
    want = run(pool, code)
    dead = list(pool._workers)
    pool._leave(pool.control)  # they go home, as if they had died
    for worker in dead:
        worker.join(timeout=30)
    assert run(pool, code) == want
    assert run(pool, code) == want
    assert not set(dead) & set(pool._workers)
    pool.close()


def _in_child(pool: Pool, answers) -> None:
    try:
        pool.run(0, 0)
    except SetupError as error:
        answers.put(str(error))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")
def test_a_forked_child_is_told_that_its_threads_are_gone():
    pool = Pool(2, choose("generic"))
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_in_child, args=(pool, answers))
    child.start()
    assert "forked" in answers.get(timeout=30)
    child.join(timeout=30)
    assert child.exitcode == 0
    pool.close()
