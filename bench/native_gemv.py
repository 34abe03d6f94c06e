"""How near cpu:native's products of one token come to the memory's pace, by format and shape.

    python bench/native_gemv.py [--quick] [--json FILE] [--svg FILE] [--threads N]

Matrices follow each other through memory far larger than the caches near a core, as a model's do.
A sum over the same bytes on the same threads (roof.py) is taken in every round; a ratio is the
median of the rounds' ratios, its spread their quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import llvmlite.ir as llvm
import numpy as np

from anychip.compilers import hugepages
from anychip.compilers.native import jit
from anychip.compilers.native.claims import counters, write_shared
from anychip.compilers.native.isa import Isa, choose
from anychip.compilers.native.kernels.layout import LAYOUTS
from anychip.compilers.native.kernels.matmul_block import BlockMatmul
from anychip.compilers.native.kernels.matmul_dense import DenseMatmul
from anychip.compilers.native.kernels.quantize import record_bytes
from anychip.compilers.native.pool import Pool
from anychip.compilers.native.roof import UNIT, write_sum
from anychip.compilers.native.step import write_kernel
from anychip.core import SetupError

SHAPES = {"576×1536": (1536, 576), "2048×2048": (2048, 2048), "8192×2048": (2048, 8192)}
"""Columns × rows: SmolLM2-135M's gate, and two of a 1B model."""
TOTAL = 192 << 20


class Product:
    """A kernel on every thread, matrix after matrix; or the sum of the same bytes."""

    def __init__(self, kernel: Any, pool: Pool, isa: Isa, memory: np.ndarray):
        self.bytes = kernel.packed_bytes
        self.count = len(memory) // self.bytes
        self._pool, self._memory = pool, memory
        module = llvm.Module("gemv")
        code, total = write_kernel(module, kernel, isa), write_sum(module)
        write_shared(module, "product", code, kernel.units, kernel.piece, pool.threads)
        write_shared(module, "sum", total, self.bytes // UNIT, 1, pool.threads)
        self._code = jit.build(module, ["product", "sum"], isa)
        self._counters = counters(self.count, pool.threads)
        depth = max(kernel.depth, 64)
        self._x = np.full(max(4 * depth, record_bytes(depth)) + 64, 0x3C, np.uint8)
        self._out = np.zeros(max(4 * kernel.rows, 64 * 64) + 64, np.uint8)

    def seconds(self, what: str) -> float:
        """Of one pass over all matrices."""
        x, out = (-(-a.ctypes.data // 64) * 64 for a in (self._x, self._out))
        at = self._memory.ctypes.data + self.bytes * np.arange(self.count)
        self._counters[:] = 0
        own = self._counters.ctypes.data + self._counters.strides[0] * np.arange(self.count)
        operands = [at, np.full(self.count, out)]
        if what == "product":
            operands.insert(1, np.full(self.count, x))
        rows = np.ascontiguousarray(np.stack([own, *operands], axis=1), np.int64)
        address, step = self._code.address(what), rows.strides[0]
        started = time.perf_counter()
        for i in range(self.count):
            self._pool.run(address, rows.ctypes.data + i * step)
        seconds = time.perf_counter() - started
        return seconds * (self.bytes / (self.bytes // UNIT * UNIT) if what == "sum" else 1)


def kernels(rows: int, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {form: BlockMatmul(form, rows, depth, 1) for form in LAYOUTS}
    for element in ("f16", "bf16", "f32"):
        found[element] = DenseMatmul(element, rows, depth, 1, depth)
    return found


def measure(threads: int, rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    isa = choose()
    pool = Pool(threads, isa)
    memory = np.frombuffer(hugepages.buffer(TOTAL), np.uint8)[:TOTAL]
    memory[:] = 0x3C  # small numbers in every format
    rows: list[dict[str, Any]] = []
    for shape, (outputs, depth) in SHAPES.items():
        for form, kernel in kernels(outputs, depth).items():
            if isinstance(kernel, BlockMatmul) and LAYOUTS[form].is_nested and depth % 256:
                continue
            product = Product(kernel, pool, isa, memory)
            times = [(product.seconds("sum"), product.seconds("product")) for _ in range(rounds)]
            size = product.bytes * product.count
            ratios = [bare / ours for bare, ours in times[1:]]
            low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
            row = {
                "format": form,
                "shape": shape,
                "threads": threads,
                "gb_s": size / statistics.median(t for _, t in times[1:]) / 1e9,
                "bandwidth_gb_s": size / statistics.median(t for t, _ in times[1:]) / 1e9,
                "ratio": ratio,
                "ratio_low": low,
                "ratio_high": high,
            }
            rows.append(row)
            say(
                f"{shape:>10} {form:>5} {row['gb_s']:6.1f} of {row['bandwidth_gb_s']:5.1f} GB/s, "
                f"ratio {ratio:.2f} ({low:.2f}–{high:.2f})"
            )
    return rows


def chart(rows: list[dict[str, Any]]) -> str:
    """Bars of GB/s, shape by shape; over each its roof, the sum's pace in the same rounds, and its
    share of that."""
    each, gap, left, top, tall = 34, 26, 46, 46, 240
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    width = left + each * len(rows) + gap * len(shapes) + 10
    most = max(max(r["gb_s"], r["bandwidth_gb_s"]) for r in rows) * 1.08
    bottom = top + tall

    def y(rate: float) -> float:
        return bottom - rate / most * tall

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom + 64}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="16">Bar: GB/s of packed weights through a product of one token, '
        f"{rows[0]['threads']} threads.</text>",
        f'<text x="{left}" y="31" fill="#c03020">Line: its roof, a sum over the same bytes '
        "in the same rounds; the number is the bar's share of it (median of rounds).</text>",
    ]
    for tick in range(0, int(most) + 1, 5):
        parts.append(f'<text x="{left - 6}" y="{y(tick) + 4:.0f}" text-anchor="end">{tick}</text>')
        line = f'x1="{left}" x2="{width - 10}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"'
        parts.append(f'<line {line} stroke="#ddd"/>')
    x = left
    for shape in shapes:
        x += gap // 2
        start = x
        for row in (r for r in rows if r["shape"] == shape):
            bar, roof, middle = y(row["gb_s"]), y(row["bandwidth_gb_s"]), x + each // 2
            parts.append(
                f'<rect x="{x + 4}" y="{bar:.1f}" width="{each - 8}" height="{bottom - bar:.1f}" '
                'fill="#4878a8"/>'
                f'<line x1="{x + 1}" x2="{x + each - 1}" y1="{roof:.1f}" y2="{roof:.1f}" '
                'stroke="#c03020" stroke-width="2"/>'
                f'<text x="{middle}" y="{min(bar, roof) - 5:.1f}" text-anchor="middle" '
                f'font-size="10">{row["ratio"]:.2f}</text>'
                f'<text x="{middle}" y="{bottom + 16}" text-anchor="middle">{row["format"]}</text>'
            )
            x += each
        middle = (start + x) / 2
        label = f"columns × rows: {shape}"
        parts.append(f'<text x="{middle}" y="{bottom + 36}" text-anchor="middle">{label}</text>')
        x += gap // 2
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    try:
        rows = measure(options.threads, 4 if options.quick else 25, print)
    except SetupError as error:
        parser.exit(2, f"{error}\n")
    if options.json:
        report = {"isa": choose().name, "load": os.getloadavg()[0], "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1))
    if options.svg:
        options.svg.write_text(chart(rows))


if __name__ == "__main__":
    main()
