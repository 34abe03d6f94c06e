"""How many threads a token step uses: measured once for a host, kept, and explained.

A step reads weights, and from some number of threads on reading gets no faster. The number is the
fewest that read 4-bit weights through our own kernel within 3 % of the best.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.ir as llvm
import numpy as np

from anychip.compilers.cache import cpu_features, keep
from anychip.compilers.native import jit
from anychip.compilers.native.claims import counters, write_shared
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels.matmul_block import BlockMatmul
from anychip.compilers.native.kernels.quantize import record_bytes
from anychip.compilers.native.pool import Pool
from anychip.compilers.native.step import write_kernel

VERSION = 2
"""Goes up when the measurement changes."""

NEAR, BUSY, AGAIN_S = 0.97, 0.1, 600.0
"""Share of the best pace that is enough; share of the CPUs taken by others from which a measurement
is not trusted; and after how long it is then taken again."""

_ROWS, _DEPTH, _BYTES, _ROUNDS = 2048, 2048, 96 << 20, 6


@dataclass(frozen=True)
class Choice:
    """`rates`: bytes of weights a second by number of threads; none when nothing was measured."""

    threads: int
    why: str
    rates: Mapping[int, float] = field(default_factory=dict[int, float])


Rates = Mapping[int, float]


def choose_threads(
    folder: Path | None,
    isa: Isa,
    cpus: int,
    measure: Callable[[Isa, list[int]], tuple[Rates, float]] | None = None,
) -> Choice:
    """For `cpus` CPUs. What was measured is kept in `folder`; without one, all CPUs are used.

    A file of another CPU or version, or one that cannot be read, is measured anew. `measure` stands
    in for the real one in tests: (rates by count, the share of the CPUs others took).
    """
    if cpus == 1:
        return Choice(1, "the only CPU")
    if folder is None:
        return Choice(cpus, "all CPUs: there is no folder to keep a measurement in")
    path = folder / "threads.json"
    key = [VERSION, isa.name, cpus, cpu_features(), version("llvmlite")]
    record, kept = _stored(path, key), ""
    if record is None:
        rates, busy = (measure or _measure)(isa, counts(cpus))
        by_count = {str(n): rate for n, rate in rates.items()}
        record = {"key": key, "at_s": time.time(), "busy": busy, "rates": by_count}
        kept = keep(path, json.dumps(record, indent=1), folder)
    choice = _chosen({int(n): rate for n, rate in record["rates"].items()}, record["busy"], cpus)
    return replace(choice, why=f"{choice.why}; not kept: {kept}") if kept else choice


def counts(cpus: int) -> list[int]:
    """The powers of two, and all."""
    return sorted({*(1 << i for i in range(cpus.bit_length()) if 1 << i <= cpus), cpus})


def _stored(path: Path, key: list[Any]) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["key"] != key or not record["rates"]:
            return None
        if record["busy"] > BUSY and time.time() - record["at_s"] > AGAIN_S:
            return None
        _chosen({int(n): float(rate) for n, rate in record["rates"].items()}, record["busy"], 1)
        return record
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # what cannot be read is measured again


def _chosen(rates: Rates, busy: float, cpus: int) -> Choice:
    paces = ", ".join(f"{n}: {rate / 1e9:.1f}" for n, rate in sorted(rates.items()))
    told = f"GB/s of 4-bit weights by threads: {paces}"
    if busy > BUSY:
        why = f"all CPUs: other programs took {busy:.0%} of them while this was measured; {told}"
        return Choice(cpus, why, rates)
    enough = NEAR * max(rates.values())
    fewest = min(n for n, rate in rates.items() if rate >= enough)
    return Choice(fewest, f"the fewest within {1 - NEAR:.0%} of the best; {told}", rates)


def _measure(isa: Isa, wanted: list[int]) -> tuple[Rates, float]:
    """The best of some rounds, the counts in turns: others only ever slow a round down."""
    before = _ticks()
    kernel = BlockMatmul("q4_0", _ROWS, _DEPTH, 1)
    whole = np.full(_BYTES + 64, 0x3C, np.uint8)  # small numbers in each field
    memory = whole[-whole.ctypes.data % 64 :][:_BYTES]
    x = np.full(record_bytes(_DEPTH) + 64, 0x3C, np.uint8)
    out = np.zeros(4 * _ROWS + 64, np.uint8)
    places = [-(-a.ctypes.data // 64) * 64 for a in (x, out)]
    starts = range(0, _BYTES - kernel.packed_bytes + 1, kernel.packed_bytes)
    rows = np.array([[0, memory.ctypes.data + at, *places] for at in starts], np.int64)
    pools = {n: Pool(n, isa) for n in wanted}
    codes = {n: _code(kernel, n, isa) for n in wanted}
    rates = dict.fromkeys(wanted, 0.0)
    try:
        for _ in range(_ROUNDS):
            for n in wanted:
                address = codes[n].address("product")
                own = counters(len(rows), n)
                rows[:, 0] = own.ctypes.data + own.strides[0] * np.arange(len(rows))
                started = time.perf_counter()
                for row in rows:
                    pools[n].run(address, row.ctypes.data)
                seconds = time.perf_counter() - started
                rates[n] = max(rates[n], len(rows) * kernel.packed_bytes / seconds)
    finally:
        for pool in pools.values():
            pool.close()
    available, others = (b - a for a, b in zip(before, _ticks(), strict=True))
    return rates, max(0.0, others / available) if available else 0.0


def _code(kernel: BlockMatmul, threads: int, isa: Isa) -> jit.Code:
    """`product(context, thread)`: one matrix, shared out as in a step."""
    module = llvm.Module("threads")
    code = write_kernel(module, kernel, isa)
    write_shared(module, "product", code, kernel.units, kernel.piece, threads)
    return jit.build(module, ["product"], isa)


def _ticks() -> tuple[float, float]:
    """Seconds of all CPUs since the system started: available, and used by other processes."""
    with open("/proc/stat", encoding="utf-8") as file:
        ticks = [int(n) / os.sysconf("SC_CLK_TCK") for n in file.readline().split()[1:9]]
    own = os.times()
    used = sum(ticks) - ticks[3] - ticks[4]  # idle, waiting for a disk
    return sum(ticks), used - own.user - own.system
