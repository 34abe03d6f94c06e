"""How fast does this host read memory, and how much does the way of asking matter?

Prints one row a method and thread count: numpy reductions beside XLA's, over an array larger than
the last-level cache. The chip `cpu` uses the XLA sum. `--json FILE` writes the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from anychip.chips.cpu.measure import matvec, read_sum, timed
from anychip.chips.cpu.system import busy_share, this_host


def methods(nbytes: int, threads: int) -> Iterator[tuple[str, Callable[[], object], float]]:
    """(name, what to time, bytes it reads)."""
    array = np.ones(nbytes // 4, np.float32)
    for name, view, reduce in (
        ("numpy sum f32", array, np.add.reduce),
        ("numpy max f32", array, np.maximum.reduce),
        ("numpy max i32", array.view(np.int32), np.maximum.reduce),
        ("numpy or i64", array.view(np.int64), np.bitwise_or.reduce),
    ):
        parts = np.array_split(view, threads)
        with ThreadPoolExecutor(threads) as pool:
            yield name, lambda p=parts, r=reduce, e=pool: list(e.map(r, p)), float(array.nbytes)
    yield "XLA sum f32", *read_sum(nbytes, threads)
    for element in ("f32", "bf16"):
        run, read = matvec(nbytes, element, threads)
        yield f"XLA matrix-vector {element}", run, read


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="fewer repetitions")
    options.add_argument("--json", type=Path, help="write the rows here")
    given = options.parse_args()
    host = this_host()
    nbytes = min(max(4 * host.cache_bytes, 256 << 20), host.memory_bytes // 8)
    rows: list[dict[str, object]] = []
    for threads in sorted({1, host.cores}):
        for name, run, read in methods(nbytes, threads):
            rates = sorted(read / s for s in timed(run, 0.1 if given.quick else 0.5))
            rows.append(
                {
                    "method": name,
                    "threads": threads,
                    "best_gb_s": rates[-1] / 1e9,
                    "median_gb_s": statistics.median(rates) / 1e9,
                    "samples": len(rates),
                }
            )
    report = {"machine": host.machine, "bytes": nbytes, "busy": busy_share(), "rows": rows}
    print(
        f"{host.machine}; {nbytes >> 20} MiB; other programs use {report['busy']:.0%} of the CPUs"
    )
    for row in rows:
        print(
            f"{row['method']:24} {row['threads']:3} threads  "
            f"best {row['best_gb_s']:6.1f}  median {row['median_gb_s']:6.1f} GB/s"
        )
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
