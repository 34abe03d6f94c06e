"""Memory nodes: which CPUs are near which memory, and work done on each of them.

Linux puts a page on the node of the thread that touches it first. So each node's threads read their
own share of the weights into memory, and workers stay on their node. Written for hosts of several
sockets and tried on one of a single node with its CPUs taken for two; never timed on a real one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Nodes = tuple[frozenset[int], ...]
"""The CPUs of each memory node that this process may use."""


def nodes(root: Path = Path("/sys/devices/system/node")) -> Nodes:
    """In the system's order, those without a usable CPU left out; one of all CPUs where it does not
    tell."""
    mine = os.sched_getaffinity(0)
    numbered = {int(p.parent.name[4:]): p for p in root.glob("node[0-9]*/cpulist")}
    found = [_cpus(numbered[n].read_text()) & mine for n in sorted(numbered)]
    return tuple(frozenset(one) for one in found if one) or (frozenset(mine),)


def _cpus(text: str) -> set[int]:
    """Of a list such as 0-3,8."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found |= set(range(int(first), int(last or first) + 1))
    return found


def of_thread(index: int, threads: int, where: Nodes) -> frozenset[int]:
    """The node of a thread: neighbours share one, as they share neighbouring rows."""
    return where[index * len(where) // threads]


def spans(places: Sequence[tuple[int, int]], where: Nodes) -> list[list[tuple[int, int]]]:
    """For each node the (start, end) of its share of every (start, bytes)."""
    count = len(where)
    return [
        [(start + size * k // count, start + size * (k + 1) // count) for start, size in places]
        for k in range(count)
    ]


def on_each(where: Nodes, work: Callable[[int], None]) -> None:
    """`work(node)` on a thread of each node, until all are done; raises what one of them raised."""
    if len(where) == 1:
        work(0)
        return

    def there(node: int) -> None:
        os.sched_setaffinity(0, where[node])  # of this thread alone
        work(node)

    with ThreadPoolExecutor(len(where), "anychip-node") as threads:
        list(threads.map(there, range(len(where))))
