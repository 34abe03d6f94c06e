"""Memory of a runtime that was opened in this process, moved into huge pages (Linux 6.1 and later).

Runtimes rarely ask for huge pages themselves. Sources: madvise(2) for MADV_HUGEPAGE and
MADV_COLLAPSE, proc_pid_maps(5).
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from anychip.compilers import hugepages

Spans = list[tuple[int, int]]
"""Address ranges, in order, without overlap."""

_HUGEPAGE, _COLLAPSE = 14, 25
"""Advice for later faults, and for what is resident now. mmap has no name for the second."""


class HugePages:
    """What is mapped while this watches; `move` asks the system for huge pages under it.

    No content changes, so that memory which another thread mapped meanwhile comes to no harm.
    `note` says what came of it, measured over the process.
    """

    def __init__(self, *, wanted: bool = True):
        self.note = "not asked for" if not wanted else hugepages.why_not()
        self._can, self._ours = not self.note, Spans()
        self.note = self.note or "moved after the first run"

    @contextmanager
    def watch(self) -> Iterator[None]:
        before = mappings() if self._can else []
        yield
        if self._can:
            self._ours += without(mappings(), before)

    def move(self) -> None:
        """Once; takes about a second a GB. Later faults in the same memory get huge pages, too."""
        if not self._can:
            return
        self._can = False
        size = int((hugepages.SYSTEM / "hpage_pmd_size").read_text())
        if not _whole(self._ours, size):
            self.note = f"none: no {_mb(size)} MB at one place were mapped"
            return
        libc = ctypes.CDLL(None, use_errno=True)
        start, before = time.perf_counter(), _resident()
        filled = [
            (one.start, one.end)
            for one in hugepages.areas()
            if one.resident > (one.end - one.start) // 2
        ]
        ours = _whole(without(self._ours, without(self._ours, filled)), size)
        for low, high in ours:
            libc.madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), _HUGEPAGE)
            for page in range(low, high, size):
                # one without memory, or unmapped by now, is an error and no harm; asked for the
                # whole range the system would leave off at some of these
                libc.madvise(ctypes.c_void_p(page), ctypes.c_size_t(size), _COLLAPSE)
        took, more = time.perf_counter() - start, _resident() - before
        huge = sum(
            min(one.huge, min(high, one.end) - max(low, one.start))
            for one in hugepages.areas()
            for low, high in ours
            if low < one.end and one.start < high
        )
        asked = sum(high - low for low, high in ours)
        self.note = (
            f"{_mb(huge)} of {_mb(asked)} MB in huge pages after {took:.2g} s, for {_mb(more)} MB "
            "of memory more"
        )


def mappings() -> Spans:
    """This process's private, anonymous, writable memory."""
    found = Spans()
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights == "rw-p" and inode == "0" and (not name or name[0] == "[heap]"):
            low, high = (int(edge, 16) for edge in place.split("-"))
            found.append((low, high))
    return found


def without(now: Sequence[tuple[int, int]], before: Sequence[tuple[int, int]]) -> Spans:
    """The parts of `now` that lie in none of `before`."""
    left = Spans()
    for low, high in now:
        for start, end in before:
            if end <= low or start >= high:
                continue
            if start > low:
                left.append((low, start))
            low = end
        if low < high:
            left.append((low, high))
    return left


def _whole(spans: Spans, size: int) -> Spans:
    """The whole huge pages in them."""
    inside = [(-(-low // size) * size, high // size * size) for low, high in spans]
    return [(low, high) for low, high in inside if low < high]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def _mb(count: int) -> int:
    return round(count / 1e6)
