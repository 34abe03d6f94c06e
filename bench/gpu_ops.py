"""What do single GPU ops say of the closed form: how far is it off, and which facts would mend it?

    python bench/gpu_ops.py [-o out.json]

The shipped rows of single matmuls (Vidur, LLMCompass: A100 and H100) and all-reduces are predicted
by the closed form, matmuls also by the machine model (twin/simt.py) as it is; then with a few facts
fitted on them: for matmuls the overlap of arithmetic with memory and the matmul efficiency, for
all-reduces the share of the link's datasheet rate and a hop's time. Each source is left out in
turn, then each chip; the specs stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from anychip.core import ChipSpec, UsageError, discover
from anychip.twin import Table
from anychip.twin.calibrate import Knob, at_bounds, errors, fit, fits_without, left_out
from anychip.twin.machine import OVERLAP
from anychip.validate import SHIPPED, Published, read
from anychip.validate.ops import op_seconds

MATMUL = {
    "overlap": Knob(start=0.5, low=0.01, high=1.0),
    "matmul_efficiency": Knob(start=0.7, low=0.2, high=1.0),
}
ALL_REDUCE = {
    "link_efficiency": Knob(start=0.7, low=0.02, high=1.0),
    "hop_s": Knob(start=1e-5, low=1e-6, high=1e-3),
}


def turned(values: Mapping[str, float], spec: ChipSpec) -> dict[str, float]:
    facts: dict[str, float] = {}
    if "overlap" in values:
        facts[OVERLAP] = values["overlap"]
        facts["matmul_efficiency"] = values["matmul_efficiency"]
    if "hop_s" in values and spec.link is not None:
        facts["link.hop_s"] = values["hop_s"]
        facts["link.bytes_per_s"] = spec.link.bytes_per_s.value * values["link_efficiency"]
    return facts


def source(row: Published) -> str:
    """Who measured it: "VD" or "AR-a100" is Vidur, "LC" LLMCompass."""
    return "LLMCompass" if row.id.startswith("LC") else "Vidur"


def figures(relative: np.ndarray) -> dict[str, float]:
    size = np.abs(relative)
    return {
        "n": len(size),
        "median_abs_error": float(np.median(size)),
        "p90_abs_error": float(np.percentile(size, 90)),
        "median_error": float(np.median(relative)),
    }


def judge(rows: list[Published], knobs: Mapping[str, Knob]) -> dict[str, Any]:
    registry, tables = discover(), dict[tuple[int, int, int], Table]()

    def predict(values: Mapping[str, float], row: Published) -> float:
        turn = (lambda spec: turned(values, spec)) if values else None
        return op_seconds(row, registry, turn, tables)[1] * 1e6

    def published(row: Published) -> float:
        return row.value

    def chip(row: Published) -> str:
        return op_seconds(row, registry, None, tables)[0]

    groups: dict[str, Callable[[Published], str]] = {"source": source, "chip": chip}
    values = fit(rows, predict, published, knobs)
    left: dict[str, Any] = {}
    for name, group in groups.items():
        fits = fits_without(rows, predict, published, knobs, group)
        left[name] = {
            "fits": fits,
            **figures(left_out(rows, predict, published, fits, group)),
        }

    def simulated(row: Published) -> float:
        return (
            op_seconds(row, registry, None, tables, is_simulated=True)[1] / (row.value * 1e-6) - 1
        )

    return {
        "as_is": figures(errors({}, rows, predict, published)),
        "machine_model": figures(np.array([simulated(row) for row in rows])),
        "parameters": values,
        "undetermined": at_bounds(values, knobs),
        "in_sample": figures(errors(values, rows, predict, published)),
        "left_out": left,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    ops = [row for row in read(SHIPPED[0]) if row.metric == "op_latency"]
    known: list[Published] = []
    for row in ops:
        try:
            op_seconds(row)
        except UsageError:
            continue
        known.append(row)
    reduces = [row for row in known if "all_reduce" in row.model]
    # Vidur's A100 medians are 5 to 27 times their own minima ("noisy (launch jitter)", its notes).
    steady = [row for row in reduces if not row.id.startswith("AR-a100")]
    report = json.dumps(
        {
            "not_known": len(ops) - len(known),
            "matmul": judge([row for row in known if row not in reduces], MATMUL),
            "all_reduce": judge(reduces, ALL_REDUCE),
            "all_reduce, without Vidur's A100": judge(steady, ALL_REDUCE),
        },
        indent=1,
    )
    if args.output:
        args.output.write_text(report, encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
