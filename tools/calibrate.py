"""Fit the serving stacks of `mapper/stacks.py`, and say how far off they are on systems left out.

    python tools/calibrate.py [--data FILE.csv] [--json FILE]

Three figures a stack (time of the host a step, time a sequence, slowness of prompts) minimise the
mean absolute logarithm of predicted over published, of TPOT and with a tenth of its weight of TTFT
(which hangs on how the load was made); the same for every chip, model, shard and load. Then each
(chip, model) is left out in turn, the rest fitted, and the left-out rows predicted.
Nothing is random; minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from anychip.core import discover
from anychip.frontends.llm import PRECISIONS, catalogue
from anychip.mapper.serving import Stack
from anychip.mapper.stacks import STACKS
from anychip.validate import SHIPPED, Predictor, Published, Skip, read

START = ((1e-3, 2e-5, 0.1), (4e-3, 2e-5, 0.1), (1e-3, 6e-5, 0.1), (1e-3, 2e-5, 0.5))
"""First guesses: host_s, token_s, prompt_slower - 1."""


def stacked(stack: Stack, guess: Sequence[float]) -> Stack:
    host, token, slower = np.abs(guess)
    return replace(
        stack, host_s=float(host), token_s=float(token), prompt_slower=1.0 + float(slower)
    )


def errors(predictor: Predictor, stack: Stack, rows: Sequence[Published]) -> np.ndarray:
    """Logarithm of predicted over published, for each row that is expressible."""
    made = replace(predictor, stacks={stack.name: stack})
    found: list[float] = []
    for row in rows:
        try:
            found.append(float(np.log(made.predict(row).value / row.value)))
        except Skip:
            continue
    return np.array(found)


def fit(predictor: Predictor, stack: Stack, rows: Sequence[Published]) -> Stack:
    """The stack with its three figures fitted to the rows (Nelder and Mead, 1965)."""
    from scipy.optimize import minimize

    tpot, ttft = ([row for row in rows if row.metric == name] for name in ("tpot_mean", "ttft"))

    def loss(guess: np.ndarray) -> float:
        tried = stacked(stack, guess * START[0])
        each = (np.abs(errors(predictor, tried, some)).mean() for some in (tpot, ttft))
        return float(np.dot((1.0, 0.1), list(each)))

    simplex = np.array(START) / np.array(START[0])
    found = minimize(
        loss,
        simplex[0],
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "maxfev": 45},
    )
    return stacked(stack, found.x * START[0])


def figures(found: np.ndarray) -> dict[str, float]:
    relative = np.abs(np.expm1(found))
    return {
        "n": len(found),
        "median_abs_error": float(np.median(relative)),
        "p90_abs_error": float(np.percentile(relative, 90)),
        "p80_log": float(np.percentile(np.abs(found), 80)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHIPPED[1])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    points = read(args.data)
    report: dict[str, Any] = {}
    left: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for name, stack in STACKS.items():
        rows = [row for row in points if row.stack == name]
        if not rows:
            continue
        predictor = Predictor(discover(), catalogue.model, PRECISIONS)
        best = fit(predictor, stack, rows)
        entry: dict[str, Any] = {
            "host_s": best.host_s,
            "token_s": best.token_s,
            "prompt_slower": best.prompt_slower,
            "in_sample": {},
            "left_out": {},
        }
        metrics = sorted({row.metric for row in rows})
        for metric in metrics:
            mine = [row for row in rows if row.metric == metric]
            entry["in_sample"][metric] = figures(errors(predictor, best, mine))
        systems = sorted({(row.chip, row.model) for row in rows})
        for system in systems if len(systems) > 1 else ():
            others = [row for row in rows if (row.chip, row.model) != system]
            without = fit(predictor, stack, others)
            for metric in metrics:
                mine = [r for r in rows if (r.chip, r.model) == system and r.metric == metric]
                left[name, metric].append(errors(predictor, without, mine))
        for metric in metrics:
            if left[name, metric]:
                entry["left_out"][metric] = figures(np.concatenate(left[name, metric]))
        report[name] = entry
        print(json.dumps({name: entry}, indent=1), flush=True)
    together = {
        metric: figures(
            np.concatenate([e for (_, m), es in left.items() if m == metric for e in es])
        )
        for metric in sorted({m for _, m in left})
    }
    print(json.dumps({"left out, all stacks": together}, indent=1))
    if args.json:
        args.json.write_text(json.dumps({"stacks": report, "left_out": together}, indent=1))


if __name__ == "__main__":
    main()
