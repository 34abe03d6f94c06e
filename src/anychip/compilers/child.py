"""Call a function in a child process: a crash, a hang or an empty memory becomes a CompileError.

The function must be importable by name there, and its arguments and result picklable.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anychip.core import AnychipError, CompileError, UsageError
from anychip.core.child import run_module


def run(
    job: Callable[..., Any],
    *arguments: Any,
    timeout_s: float,
    what: str,
    memory_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """`job(*arguments)`, computed in a fresh Python process with this process's module path.

    `what` names the work in errors. `memory_bytes` bounds the child's address space, `environment`
    is added to its variables. An AnychipError raised by the job arrives as it is; any other
    exception, death by a signal, and running longer than `timeout_s` raise CompileError, whose log
    holds what the child wrote to standard error. Raises UsageError for a job that cannot be sent.
    """
    try:
        sent = pickle.dumps((job, arguments))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(f"{what}: the job cannot be sent to a child process: {error}") from None
    with tempfile.TemporaryDirectory(prefix="anychip-") as folder:
        request, answer = Path(folder, "request"), Path(folder, "answer")
        request.write_bytes(pickle.dumps(sys.path) + sent)  # unpickling the job needs the path
        run_module(
            __name__,
            [str(request), str(answer)],
            timeout_s=timeout_s,
            what=what,
            environment=environment,
            memory_bytes=memory_bytes,
        )
        if not answer.exists():
            raise CompileError(f"{what} ended its process without an answer")
        result, error, trail = pickle.loads(answer.read_bytes())
    if isinstance(error, AnychipError):
        raise error
    if error is not None:
        raise CompileError(f"{what} failed: {error}", log=trail)
    return result


def _main(request: str, answer: str) -> None:
    """In the child: read the request, do it, write (result, error, traceback text)."""
    with open(request, "rb") as file:
        sys.path[:] = pickle.load(file)
        job, arguments = pickle.load(file)
    try:
        outcome: tuple[Any, Any, str] = (job(*arguments), None, "")
    except AnychipError as error:
        outcome = (None, error, "")
    except Exception as error:  # whatever a toolchain raises is the parent's to report
        said = str(error).strip()
        if said.startswith("Traceback"):  # a toolchain's own way to hand on another's error
            said = said.splitlines()[-1]
        outcome = (None, f"{type(error).__name__}: {said}", traceback.format_exc())
    Path(answer).write_bytes(pickle.dumps(outcome))


if __name__ == "__main__":
    _main(*sys.argv[1:])
