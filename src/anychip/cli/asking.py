"""Put one question to many targets side by side; what is answered is kept whatever ends the rest.

Two threads drive compilers of absent chips, which live in child processes; a third does in turn
what runs here, and the twins. The calling thread only waits: so a time limit or a signal is
answered at once, even while a compiler inside this process is at work.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from anychip.cli.verdicts import Inquiry, Verdict
from anychip.core import Target
from anychip.core.child import stoppable

Tell = Callable[[str, Verdict | None], None]
"""Hears each target twice: with None when its work begins, and with its verdict."""
_GRACE_S = 1.5
"""How long a stopped child's thread may take to clean up behind it."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """When to stop asking: `seconds` after `start_s`, a `time.perf_counter()`."""

    seconds: float = math.inf
    start_s: float = 0.0

    @property
    def left_s(self) -> float:
        return self.start_s + self.seconds - time.perf_counter()

    def __str__(self) -> str:
        return f"time limit of {self.seconds:g} s"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A verdict for each name, in order. `cut_short` says what ended the asking before its time.

    When `is_working`, a compiler in this process is still at work and cannot be stopped; the
    process should be left by `os._exit`.
    """

    verdicts: list[Verdict]
    cut_short: str = ""
    is_working: bool = False


@contextmanager
def interruptible() -> Generator[None]:
    """SIGTERM interrupts the calling thread, the main one, as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears signals
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def said(interruption: KeyboardInterrupt) -> str:
    """What ended the asking, for its document."""
    return f"interrupted by {interruption}" if interruption.args else "interrupted"


def unasked(name: str, why: str, worked_s: float = 0.0) -> Verdict:
    """Of a target that did not come to answer."""
    if not worked_s:
        return Verdict(target=name, state="unasked", error=f"not asked: {why}")
    return Verdict(
        target=name,
        state="unasked",
        seconds=worked_s,
        error=f"not finished: {why}, {worked_s:.0f} s into its work",
    )


def ask(
    inquiry: Inquiry,
    names: Sequence[str],
    tell: Tell,
    *,
    limit: Limit = Limit(),
    workers: int = 2,
) -> Asked:
    """Every target's verdict, or why there is none; `tell` hears them as they come.

    What a target raises where all are not asked is raised here, once the others have stopped.
    """
    verdicts: dict[str, Verdict] = {}
    targets: dict[str, Target] = {}
    stop, heard = threading.Event(), SimpleQueue[tuple[str, Verdict | BaseException | None]]()
    threads: list[threading.Thread] = []
    begun: dict[str, float] = {}
    cut_short, failure = "", None
    try:
        for name in names:
            made = inquiry.target(name)
            if isinstance(made, Verdict):
                verdicts[name] = made
                tell(name, made)
            else:
                targets[name] = made
        here = deque(sorted((n for n in targets if _is_here(n, targets[n])), key=_late))
        elsewhere = deque(n for n in targets if n not in here)
        if limit.left_s <= 0:
            here, elsewhere = deque[str](), deque[str]()
        for queue in (here, *[elsewhere] * workers):
            work = (inquiry, targets, queue, stop, heard)
            threads.append(threading.Thread(target=_work, args=work, daemon=True))
            threads[-1].start()
        while len(verdicts) < len(names) and not failure:
            if limit.left_s <= 0:
                cut_short = str(limit)
                break
            try:
                name, what = heard.get(timeout=min(limit.left_s, 3600.0))
            except Empty:
                continue
            if isinstance(what, BaseException):
                failure = what
            elif what is None:
                begun[name] = time.perf_counter()
                tell(name, None)
            else:
                verdicts[name] = what
                tell(name, what)
    except KeyboardInterrupt as interruption:
        cut_short = said(interruption)
    finally:
        stop.set()
    if failure:
        for thread in threads:
            thread.join()
        raise failure
    deadline = time.perf_counter() + (_GRACE_S if cut_short else math.inf)
    for thread in threads:
        thread.join(max(0.0, min(deadline - time.perf_counter(), threading.TIMEOUT_MAX)))
    while not heard.empty():
        name, what = heard.get()
        if isinstance(what, Verdict):
            verdicts[name] = what
    now = time.perf_counter()
    return Asked(
        verdicts=[
            verdicts.get(n) or unasked(n, cut_short, now - begun[n] if n in begun else 0.0)
            for n in names
        ],
        cut_short=cut_short,
        is_working=any(thread.is_alive() for thread in threads),
    )


def _is_here(name: str, target: Target) -> bool:
    return target.runs or name.endswith(":twin")


def _late(name: str) -> int:
    """IREE takes a child longer than others take here, and auto compiles with each of them: what
    is theirs is in the caches by then."""
    return {"iree": 1, "auto": 2}.get(name.partition(":")[2], 0)


def _work(
    inquiry: Inquiry,
    targets: dict[str, Target],
    names: deque[str],
    stop: threading.Event,
    heard: SimpleQueue[tuple[str, Verdict | BaseException | None]],
) -> None:
    """One target after another, until none is left or the asking ends."""
    with stoppable(stop):
        while names and not stop.is_set():
            try:
                name = names.popleft()
            except IndexError:  # another thread took the last
                return
            heard.put((name, None))
            try:
                verdict = inquiry.judge(name, targets[name])
            except BaseException as error:  # raised again by the thread that asks
                heard.put((name, error))
                return
            if not (stop.is_set() and verdict.is_no):  # a stopped child's no is none
                heard.put((name, verdict))
