"""The roof: the pace at which memory gives its bytes to threads that only add them up.

The sum does what helps this package's products: it asks ahead, and threads claim what they add. On
two cores that makes it 1.13 to 1.16 times as fast as a loop that leaves both out, so shares of this
roof are that much lower than shares of a plain loop's pace.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.ir as llvm
import numpy as np

from anychip.compilers import hugepages
from anychip.compilers.native import jit
from anychip.compilers.native.claims import counters, write_shared
from anychip.compilers.native.ir import I32V, I64, POINTER, Function
from anychip.compilers.native.isa import choose
from anychip.compilers.native.kernels.ahead import ask_ahead
from anychip.compilers.native.pool import Pool

UNIT = 4096
"""Bytes of a unit of the sum; what is beyond whole ones is not read."""


class Roof:
    """Adds up `nbytes` bytes from `address` on a pool's threads whenever it is called.

    `nbytes` becomes what is read: whole units. The memory must outlive this.
    """

    def __init__(self, pool: Pool, address: int, nbytes: int):
        module = llvm.Module("roof")
        write_shared(module, "roof", write_sum(module), nbytes // UNIT, 1, pool.threads)
        self._code, self._pool = jit.build(module, ["roof"], choose()), pool
        self._counters = counters(1, pool.threads)
        self._out = np.zeros(65 * 64, np.uint8)
        out = -(-self._out.ctypes.data // 64) * 64
        self._context = np.array([self._counters.ctypes.data, address, out], np.int64)
        self.nbytes = nbytes // UNIT * UNIT

    def __call__(self) -> None:
        self._counters[:] = 0
        self._pool.run(self._code.address("roof"), self._context.ctypes.data)


def read_sum(nbytes: int, threads: int) -> tuple[Callable[[], None], int]:
    """(run, bytes it reads), over memory of its own in huge pages. Raises SetupError where this
    package's threads do not run."""
    pool = Pool(threads, choose())
    memory = np.frombuffer(hugepages.buffer(nbytes), np.uint8)[:nbytes]
    memory[:] = 1
    roof = Roof(pool, memory.ctypes.data, nbytes)

    def run() -> None:
        assert len(memory)  # kept as long as this
        roof()

    return run, roof.nbytes


def write_sum(module: llvm.Module) -> llvm.Function:
    """A kernel: its operands are memory and room for 64 lines."""
    f = Function(module, "add_up", [("operands", POINTER), ("first", I64), ("last", I64)])
    with f:
        memory, out = (f.arguments["operands"].at(8 * i).load(POINTER) for i in (0, 1))
        first, last = f.arguments["first"], f.arguments["last"]
        sums = [f.cell(f.constant(I32V, 0)) for _ in range(4)]
        with f.loop(first * UNIT, last * UNIT, 64 * len(sums)) as at:
            for i, one in enumerate(sums):
                line = memory.at(at).at(64 * i)
                ask_ahead(f, line)
                one.value = one.value + line.load(I32V, align=64)
        total = sums[0].value + sums[1].value + sums[2].value + sums[3].value
        out.at((first & 63) * 64).store(total)
    return f.raw
