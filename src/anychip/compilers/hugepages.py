"""Memory of a runtime that was opened in this process, moved into huge pages (Linux 6.1 and later).

Walking the page tables costs a program that reads megabytes a run some percent, more so inside a
virtual machine. Runtimes rarely ask for huge pages, and most systems give them to those that ask
only (`madvise` in /sys/kernel/mm/transparent_hugepage/enabled). Sources: madvise(2) for
MADV_HUGEPAGE and MADV_COLLAPSE, proc_pid_maps(5), proc_pid_smaps(5), the kernel's transhuge.rst.
"""

from __future__ import annotations

import ctypes
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Spans = list[tuple[int, int]]
"""Address ranges, in order, without overlap."""

_SYSTEM = Path("/sys/kernel/mm/transparent_hugepage")
_HUGEPAGE, _COLLAPSE = 14, 25
"""Advice for later faults, and for what is resident now. mmap has no name for the second."""


class HugePages:
    """What is mapped while this watches; `move` asks the system for huge pages under it.

    No content changes, so that memory which another thread mapped meanwhile comes to no harm.
    `note` says what came of it, measured over the process.
    """

    def __init__(self, *, wanted: bool = True):
        self.note = "not asked for" if not wanted else why_not()
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
        size = int((_SYSTEM / "hpage_pmd_size").read_text())
        libc = ctypes.CDLL(None, use_errno=True)
        start, before = time.perf_counter(), _resident()
        filled = [one.place for one in _areas() if one.resident > one.bytes // 2]
        ours = [
            (-(-low // size) * size, high // size * size)
            for low, high in without(self._ours, without(self._ours, filled))
            if high // size > -(-low // size)
        ]
        for low, high in ours:
            for advice in (_HUGEPAGE, _COLLAPSE):
                # parts without a page, or unmapped by now, are an error and no harm
                libc.madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), advice)
        took, more = time.perf_counter() - start, _resident() - before
        huge = sum(
            min(one.huge, min(high, one.place[1]) - max(low, one.place[0]))
            for one in _areas()
            for low, high in ours
            if low < one.place[1] and one.place[0] < high
        )
        asked = sum(high - low for low, high in ours)
        self.note = (
            f"{_mb(huge)} of {_mb(asked)} MB in huge pages after {took:.2g} s, for {_mb(more)} MB "
            "of memory more"
        )


def why_not() -> str:
    """Why there are no huge pages to be had here, or nothing."""
    needed = (_SYSTEM / "hpage_pmd_size", Path("/proc/self/smaps_rollup"))
    if sys.platform != "linux" or not all(path.exists() for path in needed):
        return "this system has no transparent huge pages"
    if "[never]" in (_SYSTEM / "enabled").read_text():
        return f"switched off in {_SYSTEM / 'enabled'}"  # MADV_COLLAPSE would not ask
    return ""


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


@dataclass(frozen=True)
class _Area:
    """A mapping: its addresses, how much of it is resident, and how much of that is huge."""

    place: tuple[int, int]
    resident: int
    huge: int

    @property
    def bytes(self) -> int:
        return self.place[1] - self.place[0]


def _areas() -> list[_Area]:
    found: list[_Area] = []
    heads = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ", re.MULTILINE)
    _, *parts = heads.split(Path("/proc/self/smaps").read_text())
    for low, high, rest in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        found.append(
            _Area((int(low, 16), int(high, 16)), _kb(rest, "Rss"), _kb(rest, "AnonHugePages"))
        )
    return found


def _resident() -> int:
    return _kb(Path("/proc/self/smaps_rollup").read_text(), "Rss")


def _kb(text: str, name: str) -> int:
    """The bytes of a line of smaps; none where the kernel has no such line."""
    found = re.search(rf"^{name}: +(\d+) kB", text, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _mb(count: int) -> int:
    return round(count / 1e6)
