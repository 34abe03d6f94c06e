"""Memory in huge pages (2 MB): one page walk for what takes 512 of them in pages of 4 KB.

Weights and KV caches are read from end to end in every step, far more than a CPU's table of
recent pages reaches; inside a virtual machine a walk costs more still. Most systems give huge pages
to those that ask only. Sources: the kernel's transhuge.rst, madvise(2), proc_pid_smaps(5).
"""

from __future__ import annotations

import mmap
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core.config import read

PAGE = 2 << 20
"""Of x86-64, and of AArch64 with base pages of 4 KB."""

SYSTEM = Path("/sys/kernel/mm/transparent_hugepage")
SETTING = str(SYSTEM / "enabled")


def buffer(size: int) -> Any:
    """Anonymous memory, in huge pages where the system gives them and the setting asks for them.

    Private: shared memory, which mmap makes unless told, has huge pages on few systems.
    """
    private = (
        {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    )
    memory = mmap.mmap(-1, max(-(-size // PAGE) * PAGE, PAGE), **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE if read("huge_pages") else mmap.MADV_NOHUGEPAGE)
    return memory


def setting() -> str:
    """`always`, `madvise` (who asks gets them) or `never`; empty where the system does not say."""
    try:
        text = (SYSTEM / "enabled").read_text(encoding="ascii")
    except OSError:
        return ""
    return text.partition("[")[2].partition("]")[0]


def why_not() -> str:
    """Why there are no huge pages to be had here, or nothing."""
    needed = (SYSTEM / "hpage_pmd_size", Path("/proc/self/smaps_rollup"))
    if sys.platform != "linux" or not all(path.exists() for path in needed):
        return "this system has no transparent huge pages"
    if setting() == "never":
        return f"switched off in {SYSTEM / 'enabled'}"
    return ""


def granted() -> bool | None:
    """Whether memory asked for now lies in them; None where the system does not say."""
    memory = np.frombuffer(buffer(2 * PAGE), np.uint8)
    memory[:: 1 << 12] = 1
    found = share(memory.ctypes.data, memory.size)
    return None if found is None else found > 0


def share(address: int, size: int) -> float | None:
    """How much of touched memory from `address` on is in huge pages; None where unknown.

    Of the whole mappings there: the system joins neighbours of one kind.
    """
    try:
        found = [one for one in areas() if one.start < address + size and address < one.end]
    except OSError:
        return None
    resident = sum(one.resident for one in found)
    return sum(one.huge for one in found) / resident if resident else None


@dataclass(frozen=True)
class Area:
    """A mapping of this process, and how many of its bytes are resident, and in huge pages."""

    start: int
    end: int
    resident: int
    huge: int


def areas() -> Iterator[Area]:
    """All mappings, by address. Raises OSError where the system does not list them."""
    found: list[int] = []
    for first, last, word, kilobytes in _SMAPS.findall(Path("/proc/self/smaps").read_bytes()):
        if not word:
            if found:
                yield Area(*found)
            found = [int(first, 16), int(last, 16), 0, 0]
        else:
            found[2 if word == b"Rss" else 3] = int(kilobytes) << 10
    if found:
        yield Area(*found)


_SMAPS = re.compile(rb"^(?:([0-9a-f]+)-([0-9a-f]+) |(Rss|AnonHugePages): +(\d+) kB)", re.MULTILINE)
