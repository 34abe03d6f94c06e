"""Memory in huge pages (2 MB): a page walk for what takes 512 of them in pages of 4 KB.

Weights and KV caches are read from end to end in every step, far more than a CPU's table of
recent pages reaches.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np

PAGE = 2 << 20
"""Of x86-64, and of AArch64 with base pages of 4 KB."""

SETTING = "/sys/kernel/mm/transparent_hugepage/enabled"


def buffer(size: int) -> Any:
    """Anonymous memory, in huge pages where the system gives them.

    Private: shared memory, which mmap makes unless told, has huge pages on few systems.
    """
    private = (
        {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    )
    memory = mmap.mmap(-1, max(-(-size // PAGE) * PAGE, PAGE), **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def setting() -> str:
    """`always`, `madvise` (who asks gets them) or `never`; empty where the system does not say."""
    try:
        with open(SETTING, encoding="ascii") as file:
            return file.read().partition("[")[2].partition("]")[0]
    except OSError:
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
    resident = huge = 0
    try:
        for start, end, sizes in _mappings():
            if start < address + size and address < end:
                resident += sizes["Rss:"]
                huge += sizes["AnonHugePages:"]
    except (OSError, KeyError):
        return None
    return huge / resident if resident else None


def _mappings() -> Iterator[tuple[int, int, dict[str, int]]]:
    """(start, end, sizes in KB) of this process's (proc_pid_smaps(5))."""
    start = end = 0
    sizes: dict[str, int] = {}
    with open("/proc/self/smaps", encoding="utf-8") as file:
        for line in file:
            word, *rest = line.split()
            if word.endswith(":"):
                if rest[-1] == "kB":
                    sizes[word] = int(rest[0])
                continue
            if end:
                yield start, end, sizes
            first, _, last = word.partition("-")
            start, end, sizes = int(first, 16), int(last, 16), {}
    if end:
        yield start, end, sizes
