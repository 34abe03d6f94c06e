"""Tasks merged where one can do the other's work on its way: a sum behind a product, arithmetic
before rounding to 8 bits.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anychip.compilers.native.kernels.matmul_block import BlockMatmul
from anychip.compilers.native.kernels.matmul_dense import DenseMatmul
from anychip.compilers.native.kernels.pointwise import Pointwise
from anychip.compilers.native.kernels.quantize import Quantize
from anychip.compilers.native.plan import Buffer, Operand, Task


def fuse_sums(tasks: Sequence[Task]) -> list[Task]:
    """`add(a, product)` becomes a product that starts from `a`, when nothing else reads it."""
    kept: list[Task | None] = list(tasks)
    uses = _Uses(tasks)
    for index, task in enumerate(tasks):
        if not _is_plain_sum(task.kernel):
            continue
        for one, other in ((0, 1), (1, 0)):
            product, term = task.operands[one], task.operands[other]
            at = uses.only_maker(product, index)
            if at is None or uses.last_write(term, index) >= at or term.place is product.place:
                continue
            merged = tasks[at]
            kernel: Any = merged.kernel
            if not isinstance(kernel, BlockMatmul | DenseMatmul) or kernel.has_residual:
                continue
            uses.writers[id(product.place)].remove(at)
            insort(uses.writers[id(task.written.place)], at)
            insort(uses.readers[id(term.place)], at)
            merged.kernel = replace(kernel, has_residual=True)
            merged.operands = [*merged.operands[:-1], term, task.written]
            written = task.written.place
            assert isinstance(written, Buffer)
            written.private = False
            kept[index] = None
            break
    return [task for task in kept if task is not None]


def fuse_rounding(tasks: Sequence[Task]) -> list[Task]:
    """`quantize(made)` becomes one kernel that makes its numbers, when nothing else reads them."""
    kept: list[Task | None] = list(tasks)
    uses = _Uses(tasks)
    for index, task in enumerate(tasks):
        kernel: Any = task.kernel
        at = uses.only_maker(task.operands[0], index) if isinstance(kernel, Quantize) else None
        if at is None:
            continue
        maker = tasks[at]
        made: Any = maker.kernel
        if not isinstance(made, Pointwise) or not made.row_local or made.element != "f32":
            continue
        rows = (made.units, made.shape[-1], made.shape[-1], maker.each)
        if rows != (kernel.tokens, kernel.depth, kernel.stride, task.each):
            continue
        if any(uses.last_write(one, index) >= at for one in maker.reads):
            continue
        task.kernel = replace(kernel, made=made)
        task.operands = [*maker.reads, task.written]
        kept[at] = None
    return [task for task in kept if task is not None]


def _is_plain_sum(kernel: Any) -> bool:
    if not isinstance(kernel, Pointwise) or kernel.formula != "add" or kernel.element != "f32":
        return False
    return kernel.row_local and all(source.element == "f32" for source in kernel.sources)


class _Uses:
    """Which tasks write and read each place, by their numbers in order."""

    def __init__(self, tasks: Sequence[Task]):
        self.writers: defaultdict[int, list[int]] = defaultdict(list)
        self.readers: defaultdict[int, list[int]] = defaultdict(list)
        for index, task in enumerate(tasks):
            self.writers[id(task.written.place)].append(index)
            for place in {id(operand.place) for operand in task.reads}:
                self.readers[place].append(index)

    def only_maker(self, operand: Operand, reader: int) -> int | None:
        """The task that writes a buffer which `reader` alone reads, all of it."""
        if not isinstance(operand.place, Buffer) or operand.offset:
            return None
        makers, readers = (uses[id(operand.place)] for uses in (self.writers, self.readers))
        return makers[0] if len(makers) == 1 and readers == [reader] else None

    def last_write(self, operand: Operand, before: int) -> int:
        """The last task before `before` that writes this place; -1 for none."""
        writers = self.writers[id(operand.place)]
        at = bisect_left(writers, before)
        return writers[at - 1] if at else -1
