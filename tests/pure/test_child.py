"""Children that abort, hang, exit, run out of memory or answer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anychip.compilers import child
from anychip.core import CompileError, InputError, UsageError
from anychip.core.child import run_module
from anychip.core.ir import tensor_type


def test_answer_comes_back():
    assert child.run(divmod, 17, 5, timeout_s=60, what="division") == (3, 2)


def test_abort_is_a_compile_error_naming_the_signal():
    with pytest.raises(CompileError, match="toy compiler died by SIGABRT"):
        child.run(os.abort, timeout_s=60, what="toy compiler")


def test_hang_is_stopped_with_its_own_children(tmp_path):
    mark = tmp_path / "pid"
    script = f"sleep 300 & echo $! > {mark}; wait"
    with pytest.raises(CompileError, match=r"toy compiler took more than 2 s"):
        child.run(subprocess.call, ["sh", "-c", script], timeout_s=2, what="toy compiler")
    grandchild = int(mark.read_text())
    for _ in range(100):
        if not _is_running(grandchild):
            break
        time.sleep(0.05)
    assert not _is_running(grandchild)


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_out_of_memory_is_a_compile_error():
    with pytest.raises(CompileError, match="toy compiler failed: MemoryError"):
        child.run(bytearray, 1 << 34, timeout_s=60, what="toy compiler", memory_bytes=1 << 32)


def test_error_of_ours_arrives_as_it_is():
    with pytest.raises(InputError, match="x is not a tensor type") as caught:
        child.run(tensor_type, "x", timeout_s=60, what="parse")
    assert isinstance(caught.value, UsageError)


def test_other_exception_carries_its_traceback_as_log():
    with pytest.raises(CompileError, match="sum failed: TypeError") as caught:
        child.run(sum, 3, timeout_s=60, what="sum")
    assert "Traceback" in caught.value.log


def test_what_the_child_wrote_is_the_log():
    script = "import sys, os; sys.stderr.write('internal check failed'); sys.stderr.flush(); "
    with pytest.raises(CompileError) as caught:
        child.run(exec, script + "os.abort()", {}, timeout_s=60, what="toy compiler")
    assert caught.value.log == "internal check failed"


def test_exit_code_is_a_compile_error():
    with pytest.raises(CompileError, match="toy compiler exited with 3"):
        child.run(sys.exit, 3, timeout_s=60, what="toy compiler")


def test_silent_exit_without_an_answer_is_a_compile_error():
    with pytest.raises(CompileError, match="ended its process without an answer"):
        child.run(sys.exit, 0, timeout_s=60, what="toy compiler")


def test_job_that_cannot_be_pickled_is_refused():
    with pytest.raises(UsageError, match="cannot be sent"):
        child.run(lambda: 1, timeout_s=60, what="lambda")


def test_module_prints_its_answer():
    text = run_module("platform", [], timeout_s=60, what="platform")
    assert text.strip()


def test_environment_is_added():
    job = ("ANYCHIP_TOY",)
    added = {"ANYCHIP_TOY": "yes"}
    assert child.run(os.getenv, *job, timeout_s=60, what="getenv", environment=added) == "yes"


def test_no_fork_of_a_threaded_parent():
    """JAX warns when a process with its thread pools forks; a warning is an error here."""
    import jax

    jax.devices()
    assert child.run(abs, -1, timeout_s=60, what="abs") == 1


def test_an_error_that_quotes_a_traceback_is_told_by_its_last_line():
    quoted = "Traceback (most recent call last):\n  File x\nTypeError: Clip takes no mix of types"
    with pytest.raises(CompileError, match="failed: ValueError: TypeError: Clip takes no mix"):
        child.run(exec, f"raise ValueError({quoted!r})", timeout_s=60, what="a compile")


def test_a_killed_parent_takes_its_child_along(tmp_path):
    said = tmp_path / "pid"
    child = f"import os, time; open({str(said)!r}, 'w').write(str(os.getpid())); time.sleep(50)"
    code = (
        "from anychip.core.child import run_module\n"
        f"run_module('timeit', ['-n1', '-r1', {child!r}], timeout_s=50, what='a long compile')"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while not (said.exists() and said.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    pid = int(said.read_text())
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
