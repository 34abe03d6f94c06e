"""A time limit for what cannot be interrupted in this process: it goes on, the caller does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from anychip.core import CompileError

T = TypeVar("T")


def within(timeout_s: float, what: str, job: Callable[[], T], *, instead: str = "") -> T:
    """`job()`, or CompileError when it takes longer, which then also says what to do `instead`."""
    done: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            done.append(job())
        except BaseException as error:  # raised again in the caller's thread
            failed.append(error)

    worker = threading.Thread(target=work, name="anychip-compile", daemon=True)
    worker.start()
    worker.join(timeout_s)
    if worker.is_alive():
        raise CompileError(
            f"{what} took more than {timeout_s:g} s; it goes on in the background until it is done"
            + f". {instead}" * bool(instead)
        )
    if failed:
        raise failed[0]
    return done[0]
