"""How far is a five-parameter roofline from measured serving points, fitted and left out?

    python bench/serving_baseline.py gpu_serving.csv [-o out.json]

Reads closed-loop points (columns backend, model_path, system, precision, isl, osl, tp_size,
concurrency, silicon_ttft_ms, silicon_tpot_ms), fits `anychip.twin.baseline` on TPOT, and prints
absolute relative errors of TPOT, throughput and TTFT: in sample, and with each chip, serving
stack, or pair of both left out of the fit.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anychip.api import load as load_model
from anychip.core import LanguageModel, discover
from anychip.twin import machine
from anychip.twin.baseline import KNOBS, Load, Peaks, Sizes, chip_tok_s, peaks, tpot_s, ttft_s
from anychip.twin.calibrate import at_bounds, errors, fit, fits_without, half_width, left_out

MODELS = {
    "Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "Llama-3.1-8B": "llama-3.1-8b",
    "Llama-3.1-70B-Instruct": "llama-3.1-70b",
    "Llama-3.1-70B": "llama-3.1-70b",
}
FORMATS = {"": ("bf16", 2.0), "bf16": ("bf16", 2.0), "fp8": ("f8E4M3FN", 1.0)}
"""Published precision → (matrix unit's format, bytes of a weight); an empty one means bf16."""
CACHE_WIDTH = 2 * 8 * 128
"""Keys and values of 8 heads of 128: Llama 3.1 8B and 70B alike (src/anychip/models)."""
CACHE_BYTES = 2.0
"""Assumed: caches stay in bf16, the stacks' default; the points do not tell."""


@dataclass(frozen=True)
class Point:
    chip: str
    stack: str
    sizes: Sizes
    peaks: Peaks
    load: Load
    ttft_s: float
    tpot_s: float

    @property
    def chip_tok_s(self) -> float:
        whole = self.ttft_s + (self.load.answer - 1) * self.tpot_s
        return self.load.users * self.load.answer / whole / self.load.chips


def sizes_of(model: LanguageModel, weight_bytes: float) -> Sizes:
    facts = model.facts
    return Sizes(
        parameters=facts.active_parameters,
        layers=facts.layers,
        hidden=facts.hidden,
        cache_width=CACHE_WIDTH,
        weight_bytes=weight_bytes,
        cache_bytes=CACHE_BYTES,
    )


def read(path: Path) -> list[Point]:
    registry, models = discover(), {}
    points: list[Point] = []
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = MODELS[row["model_path"].split("/")[-1]]
            if name not in models:
                models[name] = load_model(name)
            chip = row["system"].removesuffix("_sxm")
            matmul, weight = FORMATS[row["precision"]]
            points.append(
                Point(
                    chip=chip,
                    stack=row["backend"],
                    sizes=sizes_of(models[name], weight),
                    peaks=peaks(machine(registry.chip(chip).spec), matmul),
                    load=Load(
                        prompt=int(row["isl"]),
                        answer=int(row["osl"]),
                        users=int(row["concurrency"]),
                        chips=int(row["tp_size"]),
                    ),
                    ttft_s=float(row["silicon_ttft_ms"]) * 1e-3,
                    tpot_s=float(row["silicon_tpot_ms"]) * 1e-3,
                )
            )
    return points


def figures(relative: np.ndarray) -> dict[str, float]:
    size = np.abs(relative)
    return {
        "n": len(size),
        "median_abs_error": float(np.median(size)),
        "p90_abs_error": float(np.percentile(size, 90)),
        "median_error": float(np.median(relative)),
    }


GROUPS: dict[str, Callable[[Point], str]] = {
    "chip": lambda p: p.chip,
    "stack": lambda p: p.stack,
    "chip and stack": lambda p: f"{p.chip} {p.stack}",
}
LAWS: dict[str, tuple[Callable[..., float], Callable[[Point], float]]] = {
    "tpot_mean": (lambda v, p: tpot_s(v, p.sizes, p.peaks, p.load), lambda p: p.tpot_s),
    "throughput_output_per_gpu": (
        lambda v, p: chip_tok_s(v, p.sizes, p.peaks, p.load),
        lambda p: p.chip_tok_s,
    ),
    "ttft": (lambda v, p: ttft_s(v, p.sizes, p.peaks, p.load), lambda p: p.ttft_s),
}


def report_of(points: list[Point]) -> dict[str, Any]:
    tpot, published = LAWS["tpot_mean"]
    values = fit(points, tpot, published, KNOBS)
    left: dict[str, Any] = {}
    for name, group in GROUPS.items():
        fits = fits_without(points, tpot, published, KNOBS, group)
        left[name] = {}
        for metric, (law, truth) in LAWS.items():
            relative = left_out(points, law, truth, fits, group)
            left[name][metric] = {**figures(relative), "half_width": half_width(relative)}
            left[name][metric]["by"] = {
                key: figures(relative[[group(p) == key for p in points]]) for key in fits
            }
    return {
        "parameters": values,
        "undetermined": at_bounds(values, KNOBS),
        "in_sample": {
            metric: figures(errors(values, points, law, truth))
            for metric, (law, truth) in LAWS.items()
        },
        "left_out": left,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("points", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    report = json.dumps(report_of(read(args.points)), indent=1)
    if args.output:
        args.output.write_text(report, encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
