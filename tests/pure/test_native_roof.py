"""The read pace that benches compare with: it reads all there is to read."""

import numpy as np

from anychip.compilers.native import roof
from anychip.compilers.native.isa import choose
from anychip.compilers.native.pool import Pool


def test_the_sum_reads_every_whole_unit():
    numbers = np.arange(8 * roof.UNIT // 4 + 100, dtype=np.int32)
    memory = np.zeros(numbers.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    memory[start : start + numbers.nbytes] = numbers.view(np.uint8)
    pool = Pool(2, choose())
    total = roof.Roof(pool, memory.ctypes.data + start, numbers.nbytes)
    for _ in range(2):
        total()
        sums = total._out[-total._out.ctypes.data % 64 :][: 64 * 64].view(np.int32)
        assert sums.sum() == numbers[: 8 * roof.UNIT // 4].sum()
    assert total.nbytes == 8 * roof.UNIT
    pool.close()


def test_a_sum_brings_its_own_memory():
    run, nbytes = roof.read_sum(1 << 20, 2)
    run()
    assert nbytes == 1 << 20
