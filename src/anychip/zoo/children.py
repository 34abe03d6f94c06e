"""Each model in a child process of its own, with a limit on its time and its memory.

Children are forked from a server that has the frameworks imported, so a model costs its own work
only. A child that dies, hangs or grows too large becomes a row that says so.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from anychip.core import UsageError
from anychip.zoo.child import work
from anychip.zoo.lists import Entry
from anychip.zoo.row import Row

_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Limits:
    """`jobs` models at a time; seconds and bytes of resident memory each may take."""

    jobs: int = 1
    timeout_s: float = 300.0
    memory_bytes: int | None = 6 << 30

    def __post_init__(self):
        if self.jobs < 1 or self.timeout_s <= 0:
            raise UsageError(f"jobs and timeout must be positive, got {self}")
        if self.memory_bytes is not None and not Path("/proc/self/status").exists():
            raise UsageError("this system has no /proc to watch memory in; pass --memory 0")


@dataclass
class _Running:
    entry: Entry
    process: Any
    pipe: Any
    log: Path
    since_s: float


def run(
    entries: Sequence[Entry], targets: Sequence[str], limits: Limits, logs: Path
) -> Generator[Row, None, None]:
    """The rows of these models, in the order they end.

    What a child printed stays in `logs` when it fails. Closing the iterator ends the children.
    """
    context = _context(entries)
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running = list(entries), []
    try:
        while waiting or running:
            while waiting and len(running) < limits.jobs:
                running.append(_start(context, waiting.pop(0), targets, logs))
            for child in list(running):
                row = _ended(child, limits)
                if row is not None:
                    running.remove(child)
                    _finish(row, child)
                    yield row
            time.sleep(_POLL_S)
    finally:
        for child in running:
            _kill(child.process)


def _context(entries: Sequence[Entry]) -> Any:
    """A fork server with the lists' preloads, which it finds beside their builders.

    The server ignores the parent's module path while it preloads (CPython through 3.11), and
    passes over what it cannot import: hence the environment.
    """
    for folder in dict.fromkeys(str(e.builder.parent) for e in entries):
        if folder not in sys.path:
            sys.path.append(folder)  # the children get this path
    context = multiprocessing.get_context("forkserver")
    names = dict.fromkeys(name for e in entries for name in e.preload)
    context.set_forkserver_preload([*names, "anychip.zoo.child"])
    kept = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if kept is not None:
            os.environ["PYTHONPATH"] = kept
    return context


def _start(context: Any, entry: Entry, targets: Sequence[str], logs: Path) -> _Running:
    ours, theirs = context.Pipe(duplex=False)
    log = logs / f"{entry.list}-{entry.name.replace('/', '-')}.txt"
    process = context.Process(target=work, args=(entry, tuple(targets), theirs, log))
    process.start()
    theirs.close()
    return _Running(entry, process, ours, log, time.monotonic())


def _ended(child: _Running, limits: Limits) -> Row | None:
    """The child's row; one made here when it died or broke a limit; None while it runs."""
    if child.pipe.poll():
        try:
            row = child.pipe.recv()
        except EOFError:
            child.process.join()
            return _broken(child, f"the process died: {_cause(child.process.exitcode)}")
        child.process.join(10)  # exiting; frameworks take their time
        _kill(child.process)
        return row
    if time.monotonic() - child.since_s > limits.timeout_s:
        _kill(child.process)
        return _broken(child, f"took longer than {limits.timeout_s:g} s")
    if limits.memory_bytes is not None:
        used = _resident_bytes(child.process.pid)
        if used > limits.memory_bytes:
            _kill(child.process)
            return _broken(
                child, f"took {used >> 20} MiB of memory, {limits.memory_bytes >> 20} are allowed"
            )
    return None


def _broken(child: _Running, error: str) -> Row:
    row = Row(child.entry.key, error=error, limit=child.entry.limit)
    row.seconds = round(time.monotonic() - child.since_s, 1)
    return row


def _cause(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _finish(row: Row, child: _Running) -> None:
    """A declared limit that turns out to work is an error; the log of a model that passed goes."""
    if row.error is None and row.limit:
        row.error = f"passes, although its list says: {row.limit}"
        row.stage, row.limit = "list", ""
    if row.error is None:
        child.log.unlink(missing_ok=True)


def _kill(process: Any) -> None:
    """The child and what it started: it leads its own group once it has begun."""
    if process.is_alive():
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not made its group yet
            process.kill()
    process.join()


def _resident_bytes(pid: int) -> int:
    """Of a process and all it started; 0 for one that has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        threads = [p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = [int(line.split()[1]) << 10 for line in status.splitlines() if line[:6] == "VmRSS:"]
    return sum(own) + sum(_resident_bytes(int(p)) for text in threads for p in text.split())
