"""Run toolchains that may abort, hang or eat memory in a child process, and turn death into an error."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from anychip.core.errors import CompileError


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
    out of time, dies by a signal or exits non-zero.
    """

    def limits() -> None:
        os.setsid()  # so that a timeout kills the toolchain's own children too
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **(environment or {})},
            preexec_fn=limits,
        )
        timed_out = False
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            timed_out, code = True, 0
        finally:
            _kill_group(child)
        out.seek(0)
        err.seek(0)
        log = err.read().decode(errors="replace")
        if timed_out:
            raise CompileError(f"{what} took more than {timeout_s:g} s and was stopped", log=log)
        if code < 0:
            name = signal.Signals(-code).name
            raise CompileError(f"{what} died by {name}", log=log)
        if code != 0:
            last = log.strip().splitlines()[-1:] or ["no message"]
            raise CompileError(f"{what} exited with {code}: {last[0]}", log=log)
        return out.read().decode(errors="replace")


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
