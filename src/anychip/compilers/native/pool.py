"""Worker threads that wait in native code, and the barrier that a step's threads meet at.

A worker is a Python thread inside one ctypes call: it holds no GIL, spins for a new epoch for some
microseconds, then sleeps on a futex. Linux only. The control block is a row of cache lines, one
word each, so that writers do not disturb each other.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Callable
from functools import cache

import llvmlite.ir as llvm
import numpy as np

from anychip.compilers.native import jit, numa
from anychip.compilers.native.ir import I32, I64, POINTER, Function, Value
from anychip.compilers.native.isa import Isa
from anychip.core import SetupError

_EPOCH, _EPOCH_SLEEPERS, _ARRIVED, _GENERATION, _SLEEPERS, _STOP, _WORK = range(0, 7 * 64, 64)
CONTROL_BYTES = 8 * 64
_SPINS, _YIELD_EVERY = 4096, 64
"""Rounds of `pause` before sleeping, around 100 µs, and after how many to let others run: on a busy
machine the thread that is waited for may be queued on the very core that waits."""

_FUTEX_WAIT, _FUTEX_WAKE = 128, 129  # private to the process (linux/futex.h)
_FUTEX_CALL = {"x86_64": 202, "aarch64": 98}
_EVERYONE = 1 << 30


def emit_barrier(module: llvm.Module, threads: int) -> llvm.Function:
    """`barrier(control)`: returns when all `threads` have called it."""
    f = Function(module, "barrier", [("control", POINTER)])
    f.raw.linkage = "internal"
    f.raw.attributes.add("noinline")
    control = f.arguments["control"]
    with f:
        if threads > 1:
            _meet(f, control, threads)
    return f.raw


def _meet(f: Function, control: Value, threads: int) -> None:
    b = f.builder
    generation = Value(f, b.load_atomic(control.at(_GENERATION).raw, "acquire", 4, typ=I32))
    before = Value(f, b.atomic_rmw("add", control.at(_ARRIVED).raw, I32(1), "seq_cst"))
    with f.either(before.equals(threads - 1)) as (last, other):
        with last:
            b.atomic_rmw("xchg", control.at(_ARRIVED).raw, I32(0), "seq_cst")
            _release(f, control, _GENERATION, _SLEEPERS, generation + 1)
        with other:
            _wait(f, control, _GENERATION, _SLEEPERS, generation)


def _release(f: Function, control: Value, word: int, sleepers: int, value: Value) -> None:
    """Store a word, then wake those who sleep until it changes."""
    b = f.builder
    b.atomic_rmw("xchg", control.at(word).raw, value.raw, "seq_cst")
    asleep = Value(f, b.load_atomic(control.at(sleepers).raw, "seq_cst", 4, typ=I32))
    with f.when(asleep > 0):
        _futex(f, control.at(word), _FUTEX_WAKE, f.constant(I32, _EVERYONE))


def _wait(f: Function, control: Value, word: int, sleepers: int, seen: Value) -> None:
    """Until the word is no longer `seen`: spin, then sleep."""
    b = f.builder
    place = control.at(word).raw
    spin, pause, park, sleep, awake, done = (
        f.raw.append_basic_block(n) for n in ("spin", "pause", "park", "sleep", "awake", "done")
    )
    entry = b.block
    b.branch(spin)
    b.position_at_end(spin)
    round_ = b.phi(I32)
    round_.add_incoming(I32(0), entry)
    now = b.load_atomic(place, "acquire", 4, typ=I32)
    b.cbranch(b.icmp_signed("==", now, seen.raw), pause, done)
    b.position_at_end(pause)
    _pause(f)
    following = b.add(round_, I32(1))
    with b.if_then(b.icmp_signed("==", b.and_(following, I32(_YIELD_EVERY - 1)), I32(0))):
        _yield(f)
    round_.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, I32(_SPINS)), spin, park)
    b.position_at_end(park)
    b.atomic_rmw("add", control.at(sleepers).raw, I32(1), "seq_cst")
    b.branch(sleep)
    b.position_at_end(sleep)
    now = b.load_atomic(place, "seq_cst", 4, typ=I32)
    again = f.raw.append_basic_block("again")
    b.cbranch(b.icmp_signed("==", now, seen.raw), again, awake)
    b.position_at_end(again)
    _futex(f, control.at(word), _FUTEX_WAIT, seen)
    b.branch(sleep)
    b.position_at_end(awake)
    b.atomic_rmw("sub", control.at(sleepers).raw, I32(1), "seq_cst")
    b.branch(done)
    b.position_at_end(done)


def _yield(f: Function) -> None:
    kind = llvm.FunctionType(I32, [])
    known = f.module.globals.get("sched_yield")
    f.builder.call(known or llvm.Function(f.module, kind, "sched_yield"), [])


def _pause(f: Function) -> None:
    if _machine() == "x86_64":
        kind = llvm.FunctionType(llvm.VoidType(), [])
        name = "llvm.x86.sse2.pause"
        known = f.module.globals.get(name) or llvm.Function(f.module, kind, name)
        f.builder.call(known, [])


def _futex(f: Function, word: Value, operation: int, value: Value) -> None:
    known = f.module.globals.get("syscall")
    if known is None:
        kind = llvm.FunctionType(I64, [I64, POINTER, I64, I64, POINTER], var_arg=False)
        known = llvm.Function(f.module, kind, "syscall")
    number = I64(_FUTEX_CALL[_machine()])
    nothing = llvm.Constant(POINTER, None)
    arguments = [number, word.raw, I64(operation), value.unsigned_to(I64).raw, nothing]
    f.builder.call(known, arguments)


def _machine() -> str:
    return os.uname().machine


def check_host() -> None:
    """Raise SetupError where workers cannot wait."""
    if sys.platform != "linux" or _machine() not in _FUTEX_CALL:
        raise SetupError(
            "cpu:native parks its threads with Linux futexes on x86-64 and AArch64; "
            f"this is {sys.platform} on {_machine()}. Use cpu:xla"
        )


@cache
def _code(isa: Isa, threads: int) -> jit.Code:
    """`work(control, id)` for workers; `start(control, step, context)`, `stop(control)`.

    Never unloaded: a worker may be anywhere in it. All threads meet here after a step, so that
    none is still in the step's own code when the caller lets go of that.
    """
    module = llvm.Module("pool")
    barrier = emit_barrier(module, threads)
    _emit_worker(module, barrier)
    _emit_start(module, barrier)
    _emit_stop(module)
    return jit.build(module, ["work", "start", "stop"], isa)


_STEP = llvm.FunctionType(llvm.VoidType(), [POINTER, I64])


def _emit_worker(module: llvm.Module, barrier: llvm.Function) -> None:
    f = Function(module, "work", [("control", POINTER), ("id", I64)])
    control, b = f.arguments["control"], f.builder
    seen = f.cell(f.constant(I32, 0))
    again, go, leave = (f.raw.append_basic_block(n) for n in ("again", "go", "leave"))
    b.branch(again)
    b.position_at_end(again)
    _wait(f, control, _EPOCH, _EPOCH_SLEEPERS, seen.value)
    seen.value = seen.value + 1
    stop = Value(f, b.load_atomic(control.at(_STOP).raw, "acquire", 4, typ=I32))
    b.cbranch((stop > 0).raw, leave, go)
    b.position_at_end(go)
    step = control.at(_WORK).load(POINTER)
    context = control.at(_WORK + 8).load(POINTER)
    f.call_pointer(step, _STEP, context, f.arguments["id"])
    b.call(barrier, [control.raw])
    b.branch(again)
    b.position_at_end(leave)
    b.ret_void()


def _emit_start(module: llvm.Module, barrier: llvm.Function) -> None:
    parameters = [("control", POINTER), ("step", POINTER), ("context", POINTER)]
    f = Function(module, "start", parameters)
    control, step, context = (f.arguments[name] for name, _ in parameters)
    with f:
        control.at(_WORK).store(step)
        control.at(_WORK + 8).store(context)
        epoch = control.at(_EPOCH).load(I32)
        _release(f, control, _EPOCH, _EPOCH_SLEEPERS, epoch + 1)
        f.call_pointer(step, _STEP, context, f.i64(0))
        f.builder.call(barrier, [control.raw])


def _emit_stop(module: llvm.Module) -> None:
    f = Function(module, "stop", [("control", POINTER)])
    with f:
        control = f.arguments["control"]
        f.builder.atomic_rmw("xchg", control.at(_STOP).raw, I32(1), "seq_cst")
        epoch = control.at(_EPOCH).load(I32)
        _release(f, control, _EPOCH, _EPOCH_SLEEPERS, epoch + 1)


class Pool:
    """`threads` - 1 workers and the caller. One step at a time; `run` waits for its turn.

    Where memory has several `nodes`, workers stay on theirs; the caller's thread is left alone.
    Closed by `close`, by garbage collection or at exit.
    """

    def __init__(self, threads: int, isa: Isa, nodes: numa.Nodes | None = None):
        check_host()
        self.threads, self._isa = threads, isa
        self._nodes = nodes or numa.nodes()
        self._turn = threading.Lock()
        self._process = os.getpid()
        memory = np.zeros(CONTROL_BYTES + 64, np.uint8)
        start = -memory.ctypes.data % 64
        self._memory = memory[start : start + CONTROL_BYTES]
        self.control = self._memory.ctypes.data
        code = _code(isa, threads)
        pointer = ctypes.c_void_p
        self._start = ctypes.CFUNCTYPE(None, pointer, pointer, pointer)(code.address("start"))
        self._work = ctypes.CFUNCTYPE(None, pointer, ctypes.c_int64)(code.address("work"))
        self._leave = ctypes.CFUNCTYPE(None, pointer)(code.address("stop"))
        self._workers: list[threading.Thread] = []
        self._hire()
        self._stop = weakref.finalize(self, _stop, self._leave, self._memory, self._workers)

    def _hire(self) -> None:
        for index in range(1, self.threads):
            name = f"anychip-native-{index}"
            arguments = (self.control, index)
            worker = threading.Thread(target=self._work, args=arguments, name=name, daemon=True)
            worker.start()
            self._workers.append(worker)
            if len(self._nodes) > 1 and worker.native_id is not None:
                near = numa.of_thread(index, self.threads, self._nodes)
                os.sched_setaffinity(worker.native_id, near)

    def run(self, step: int, context: int) -> None:
        """Run native code `step(context, thread)` on every thread, until all have returned.

        Where a worker has died since the last step, all are replaced before this one. Raises
        SetupError in a forked child and after `close`.
        """
        with self._turn:
            if self._process != os.getpid():
                raise SetupError(
                    "this process was forked after cpu:native started its threads, which a child "
                    "does not have; compile again in the child, or start it with 'spawn'"
                )
            if not self._stop.alive:
                raise SetupError("the threads of cpu:native were closed; compile again")
            if not all(worker.is_alive() for worker in self._workers):
                _stop(self._leave, self._memory, self._workers)
                self._workers.clear()
                self._memory[:] = 0
                self._hire()
            self._start(self.control, step, context)

    @property
    def is_usable(self) -> bool:
        """Whether `run` would not refuse."""
        return self._stop.alive and self._process == os.getpid()

    def close(self) -> None:
        """Stop the workers and wait until they are gone. Twice is fine."""
        with self._turn:
            self._stop()


def _stop(
    stop: Callable[[int], None], control: np.ndarray, workers: list[threading.Thread]
) -> None:
    """Must not refer to the pool, which this outlives."""
    stop(control.ctypes.data)
    for worker in workers:
        worker.join(timeout=5.0)
