"""Run toolchains that may abort, hang or eat memory in a child process; death is an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from anychip.core.errors import CompileError

# Limits are set by the child itself: a `preexec_fn` would fork a process that has threads, which
# JAX warns of. A thread ends the child, and what it started, once its parent was killed; the alarm
# does where that thread cannot run.
_LAUNCH = """
import os, resource, runpy, signal, sys, threading, time
def follow(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=follow, args=(int(sys.argv[3]),), daemon=True).start()
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if (limit := int(sys.argv[1])) >= 0:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]) + 10)
sys.argv[:] = sys.argv[4:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""

_STOP: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


@contextmanager
def stoppable(stop: threading.Event) -> Generator[None]:
    """Children of this thread end when `stop` is set, as if their time had run out."""
    token = _STOP.set(stop)
    try:
        yield
    finally:
        _STOP.reset(token)


def run_module(
    module: str,
    arguments: Sequence[str],
    *,
    timeout_s: float,
    what: str,
    environment: Mapping[str, str] | None = None,
    memory_bytes: int | None = None,
) -> str:
    """Run `python -m module arguments…` and return what it printed on standard output.

    `what` names the work in errors ("libtpu compile of decode"). `memory_bytes` limits the child's
    address space. Raises CompileError, with the child's standard error as its log, when it runs
    out of time, is stopped (`stoppable`), dies by a signal or exits non-zero.
    """

    limit = -1 if memory_bytes is None else memory_bytes
    numbers = (str(limit), str(timeout_s), str(os.getpid()))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, *numbers, module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # so that a timeout kills the toolchain's own children too
        )
        try:
            code = _awaited(child, timeout_s)
        finally:
            _kill_group(child)
        out.seek(0)
        err.seek(0)
        log = err.read().decode(errors="replace")
        if code is None:
            stop = _STOP.get()
            why = "" if stop and stop.is_set() else f"took more than {timeout_s:g} s and "
            raise CompileError(f"{what} {why}was stopped", log=log)
        if code < 0:
            name = signal.Signals(-code).name
            raise CompileError(f"{what} died by {name}", log=log)
        if code != 0:
            last = log.strip().splitlines()[-1:] or ["no message"]
            raise CompileError(f"{what} exited with {code}: {last[0]}", log=log)
        return out.read().decode(errors="replace")


def _awaited(child: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """The exit code; None when the time is over or the caller wants an end before that."""
    stop, deadline = _STOP.get(), time.monotonic() + timeout_s
    while stop is None or not stop.is_set():
        left = deadline - time.monotonic()
        try:
            return child.wait(max(0.0, left if stop is None else min(left, 0.2)))
        except subprocess.TimeoutExpired:
            if left <= 0 or stop is None:
                return None
    return None


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
