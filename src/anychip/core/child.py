"""Run toolchains that may abort, hang or eat memory in a child process; death is an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from anychip.core.errors import CompileError

# Limits are set by the child itself: a `preexec_fn` would fork a process that has threads, which
# JAX warns of. The alarm ends a child whose parent was killed and can no longer stop it.
_LAUNCH = """
import resource, runpy, signal, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if (limit := int(sys.argv[1])) >= 0:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]) + 10)
sys.argv[:] = sys.argv[3:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


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

    limit = -1 if memory_bytes is None else memory_bytes
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(limit), str(timeout_s), module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # so that a timeout kills the toolchain's own children too
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
