"""Where buffers lie and where threads must meet: liveness over the task list, first fit, and a
barrier wherever a task touches bytes that another thread may still be writing or reading.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from anychip.compilers.native.plan import Buffer, Foreign, Operand, Outside, Task

_LINE = 64
_LINGER, _SMALL = 8, 1 << 20
"""Small buffers keep their place for some tasks after their last use: reusing it at once would
make threads wait for each other."""


@dataclass(frozen=True)
class Layout:
    offsets: dict[Buffer, int]
    shared_bytes: int
    private_bytes: int


def place(tasks: Sequence[Task]) -> Layout:
    """Offsets such that buffers alive at the same time do not overlap.

    A buffer is alive from the task that first writes it to the last that touches it. Each has a
    line of slack behind it, since kernels may write a whole vector at its end.
    """
    lives: dict[Buffer, tuple[int, int]] = {}
    for index, task in enumerate(tasks):
        for operand in task.operands:
            if isinstance(operand.place, Buffer) and not operand.place.result:
                start, _ = lives.get(operand.place, (index, index))
                linger = _LINGER if operand.place.nbytes <= _SMALL else 0
                lives[operand.place] = (start, index + linger)
    offsets: dict[Buffer, int] = {}
    ends = {False: 0, True: 0}
    for private in (False, True):
        placed: list[tuple[int, int, tuple[int, int]]] = []
        for buffer, life in lives.items():
            if buffer.private != private:
                continue
            size = -(-buffer.nbytes // _LINE) * _LINE + _LINE
            at = 0
            for start, end, other in placed:
                if other[1] < life[0] or life[1] < other[0]:
                    continue
                if start - at >= size:
                    break
                at = max(at, end)
            offsets[buffer] = at
            insort(placed, (at, at + size, life))
            ends[private] = max(ends[private], at + size)
    return Layout(offsets, ends[False], ends[True])


def barriers(
    tasks: Sequence[Task], layout: Layout, claimed: Collection[int] = ()
) -> frozenset[int]:
    """The tasks that must wait for all threads to finish what came before.

    Private memory never conflicts. Two row-local tasks with the same number of units give each
    thread the same rows, so through one buffer, taken whole by both, a thread follows only itself.
    Each thread clears its counters first, so all meet before the first of the `claimed` tasks.
    """
    needed: set[int] = set()
    since: list[Task] = []
    clear = False
    for index, task in enumerate(tasks):
        if isinstance(task.kernel, Foreign):  # the threads stop before it and start after it
            since, clear = [], False
            continue
        is_first = index in claimed and not clear
        if is_first or any(_conflict(task, before, layout) for before in since):
            needed.add(index)
            since, clear = [], True
        since.append(task)
    return frozenset(needed)


def _conflict(task: Task, before: Task, layout: Layout) -> bool:
    pairs = [(task.written, before.written)]
    pairs += [(read, before.written) for read in task.reads]
    pairs += [(task.written, read) for read in before.reads]
    aligned = (
        task.kernel.row_local
        and before.kernel.row_local
        and task.kernel.units == before.kernel.units
        and not task.kernel.piece  # claimed units are anybody's
        and not before.kernel.piece
        and not task.each
        and not before.each
    )
    for one, other in pairs:
        if aligned and one.place is other.place and one.whole and other.whole:
            continue
        if _overlap(one, other, layout):
            return True
    return False


def _overlap(one: Operand, other: Operand, layout: Layout) -> bool:
    a, b = one.place, other.place
    if isinstance(a, Outside) and isinstance(b, Outside):
        return a.argument.name == b.argument.name
    if not (isinstance(a, Buffer) and isinstance(b, Buffer)):
        return False
    if a.result or b.result:
        return a is b
    if a.private or b.private:
        return False
    first, second = layout.offsets[a], layout.offsets[b]
    return first < second + b.nbytes + _LINE and second < first + a.nbytes + _LINE
