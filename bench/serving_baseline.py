"""How far is a five-parameter roofline from measured serving points, fitted and left out?

    python bench/serving_baseline.py [--data gpu_serving.csv] [-o out.json]

Fits `anychip.twin.baseline` on the TPOT of closed-loop points (those shipped, without --data) and
prints absolute relative errors of TPOT, throughput and TTFT: in sample, and with each chip, serving
stack, or pair of both left out; then a fit for each stack, with each chip and model left out.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from anychip.core import UsageError, discover
from anychip.frontends.llm import PRECISIONS, catalogue
from anychip.twin.baseline import KNOBS
from anychip.twin.calibrate import at_bounds, errors, fit, fits_without, half_width, left_out
from anychip.validate import SHIPPED, Predictor, Published, read
from anychip.validate.baseline import LAWS, Setting, setting

Figure = tuple[Published, Setting]

GROUPS: dict[str, Callable[[Figure], str]] = {
    "chip": lambda one: one[0].chip,
    "stack": lambda one: one[0].stack,
    "chip and stack": lambda one: f"{one[0].chip} {one[0].stack}",
}


def predicted(values: Any, one: Figure) -> float:
    row, at = one
    law, factor = LAWS[row.metric]
    return law(values, at.sizes, at.peaks, at.load) * factor


def published(one: Figure) -> float:
    return one[0].value


def figures(relative: np.ndarray) -> dict[str, float]:
    size = np.abs(relative)
    return {
        "n": len(size),
        "median_abs_error": float(np.median(size)),
        "p90_abs_error": float(np.percentile(size, 90)),
        "median_error": float(np.median(relative)),
        "half_width": half_width(relative),
    }


def read_figures(path: Path) -> dict[str, list[Figure]]:
    """By metric, what of a file the baseline covers."""
    predictor = Predictor(discover(), catalogue.model, PRECISIONS)
    found: dict[str, list[Figure]] = {metric: [] for metric in LAWS}
    for row in read(path):
        at = setting(row, predictor)
        if at is not None:
            found[row.metric].append((row, at))
    if not found["tpot_mean"]:
        raise UsageError(f"{path} has no serving point that the baseline covers")
    return found


def of_one_stack(found: dict[str, list[Figure]], stack: str) -> dict[str, Any]:
    """Fitted on this stack alone, in sample and with each (chip, model) left out: the protocol of
    `tools/calibrate.py`."""
    mine = {m: [x for x in some if x[0].stack == stack] for m, some in found.items()}
    tpot = mine["tpot_mean"]
    values = fit(tpot, predicted, published, KNOBS)
    made: dict[str, Any] = {
        "parameters": values,
        "in_sample": {
            m: figures(errors(values, some, predicted, published)) for m, some in mine.items()
        },
        "left_out": None,  # stays so where a stack was measured on one (chip, model) only
    }
    if len({_system(x) for x in tpot}) > 1:
        fits = fits_without(tpot, predicted, published, KNOBS, _system)
        made["left_out"] = {
            m: figures(left_out(some, predicted, published, fits, _system))
            for m, some in mine.items()
        }
    return made


def _system(one: Figure) -> str:
    return f"{one[0].chip} {one[0].model}"


def report_of(found: dict[str, list[Figure]]) -> dict[str, Any]:
    tpot: Sequence[Figure] = found["tpot_mean"]
    values = fit(tpot, predicted, published, KNOBS)
    left: dict[str, Any] = {}
    for name, group in GROUPS.items():
        fits = fits_without(tpot, predicted, published, KNOBS, group)
        left[name] = {}
        for metric, some in found.items():
            relative = left_out(some, predicted, published, fits, group)
            by = {key: figures(relative[[group(x) == key for x in some]]) for key in fits}
            left[name][metric] = {**figures(relative), "by": by}
    return {
        "parameters": values,
        "undetermined": at_bounds(values, KNOBS),
        "in_sample": {
            metric: figures(errors(values, some, predicted, published))
            for metric, some in found.items()
        },
        "left_out": left,
        "by_stack": {
            stack: of_one_stack(found, stack) for stack in sorted({x[0].stack for x in tpot})
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHIPPED[1])
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    report = json.dumps(report_of(read_figures(args.data)), indent=1)
    if args.output:
        args.output.write_text(report, encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
