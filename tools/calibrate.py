"""Fit the serving stacks of `mapper/stacks.py`, and say how far off they are on systems left out.

    python tools/calibrate.py [--data FILE.csv] [--json FILE] [--stack NAME] [--jobs 2]

Six figures a stack (time of the host a step, time a sequence, slowness of prompts, a layer that is
launched without a graph, a token handed out, a request taken in) minimise the mean absolute
logarithm of predicted over published, of TPOT and with a third of its weight of TTFT (which hangs
on how the load was made); the same for every chip, model, shard and load. Then each system (chip,
model, number of chips) is left out in turn, the rest fitted from the first guesses again (where the
first fit ended knows the system), and the left-out rows predicted. The logarithms of all left-out
rows go into the JSON: intervals come from them.
Nothing is random; a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from anychip.core import discover
from anychip.frontends.llm import PRECISIONS, catalogue
from anychip.mapper.serving import Stack
from anychip.mapper.stacks import STACKS
from anychip.twin.calibrate import half_width
from anychip.validate import SHIPPED, Predictor, Published, Skip, read

START = (1e-3, 2e-5, 0.1, 3e-4, 5e-5, 5e-3)
"""First guesses: host_s, token_s, prompt_slower - 1, eager_layer_s, stream_s, request_s."""
STEPS = tuple(
    tuple(step if i == place else 1.0 for i in range(6))
    for place, step in enumerate((3.0, 2.0, 3.0, 0.3, 2.0, 4.0))
)
"""The other corners of the first simplex, over the guesses."""
TTFT_WEIGHT = 0.33
CALLS = {"sglang": 200}
"""Predictions of all rows that a fit may take, by stack; 120 elsewhere."""


def stacked(stack: Stack, guess: Sequence[float]) -> Stack:
    host, token, slower, eager, stream, request = (float(x) for x in np.abs(guess))
    return replace(
        stack,
        host_s=host,
        token_s=token,
        prompt_slower=1.0 + slower,
        eager_layer_s=eager,
        stream_s=stream,
        request_s=request,
    )


def guess_of(stack: Stack) -> np.ndarray:
    own = (stack.host_s, stack.token_s, stack.prompt_slower - 1)
    return np.array([*own, stack.eager_layer_s, stack.stream_s, stack.request_s])


def errors(predictor: Predictor, stack: Stack, rows: Sequence[Published]) -> dict[str, float]:
    """Logarithm of predicted over published by row id, for each row that is expressible."""
    made = replace(predictor, stacks={row.stack: stack for row in rows})
    found: dict[str, float] = {}
    for row in rows:
        try:
            found[row.id] = float(np.log(made.predict(row).value / row.value))
        except Skip:
            continue
    return found


def fit(
    predictor: Predictor, stack: Stack, rows: Sequence[Published], start: np.ndarray, most: int
) -> Stack:
    """The stack with its six figures fitted to the rows (Nelder and Mead, 1965)."""
    from scipy.optimize import minimize

    asked = [row for row in rows if row.metric in ("tpot_mean", "ttft")]

    def loss(guess: np.ndarray) -> float:
        found = errors(predictor, stacked(stack, guess * start), asked)
        sizes = [
            np.mean([abs(e) for id, e in found.items() if id.endswith(metric)])
            for metric in (":tpot_mean", ":ttft")
        ]
        return float(np.dot((1.0, TTFT_WEIGHT), sizes))

    simplex = np.array([(1.0,) * 6, *STEPS])
    options = {"initial_simplex": simplex, "maxfev": most}
    found = minimize(loss, simplex[0], method="Nelder-Mead", options=options)
    return stacked(stack, found.x * start)


def figures(found: Sequence[float]) -> dict[str, float]:
    relative = np.expm1(np.array(found))
    return {
        "n": len(found),
        "median_abs_error": float(np.median(np.abs(relative))),
        "p90_abs_error": float(np.percentile(np.abs(relative), 90)),
        "half_width": half_width(relative),
    }


def by_metric(found: dict[str, float]) -> dict[str, dict[str, float]]:
    metrics = sorted({id.rsplit(":", 1)[1] for id in found})
    return {
        metric: figures([e for id, e in found.items() if id.endswith(":" + metric)])
        for metric in metrics
    }


def judge(name: str, data: Path) -> tuple[dict[str, Any], dict[str, dict[str, float]]] | None:
    """A stack's fit with its errors in sample and left out, and every left-out row's logarithm by
    system; None when no row is of that stack."""
    predictor = Predictor(discover(), catalogue.model, PRECISIONS)
    rows = [row for row in read(data) if predictor.stack_of(row).name == name]
    if not rows:
        return None
    best = fit(predictor, STACKS[name], rows, np.array(START), CALLS.get(name, 120))
    left: dict[str, dict[str, float]] = {}
    systems = sorted({system_of(row) for row in rows})
    for system in systems if len(systems) > 1 else ():
        inside = [row for row in rows if system_of(row) == system]
        others = [row for row in rows if system_of(row) != system]
        without = fit(predictor, STACKS[name], others, np.array(START), CALLS.get(name, 120))
        found = errors(predictor, without, inside)
        left[system] = {id: round(error, 6) for id, error in found.items()}
    entry = {
        **dict(zip(NAMES, guess_of(best).tolist(), strict=True)),
        "in_sample": by_metric(errors(predictor, best, rows)),
        "left_out": by_metric(joined(left.values())),
    }
    print(json.dumps({name: entry}, indent=1), flush=True)
    return entry, left


def joined(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    return {id: error for part in parts for id, error in part.items()}


def system_of(row: Published) -> str:
    return f"{row.model} on {row.tensor} {row.chip}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHIPPED[1])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stack", action="append", choices=list(STACKS), help="only this one")
    parser.add_argument("--jobs", type=int, default=2, help="stacks fitted side by side")
    args = parser.parse_args()
    names = args.stack or list(STACKS)
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        judged = dict(zip(names, pool.map(judge, names, [args.data] * len(names)), strict=True))
    left = {name: one[1] for name, one in judged.items() if one}
    together = by_metric(joined(part for systems in left.values() for part in systems.values()))
    print(json.dumps({"left out, all stacks": together}, indent=1))
    if args.json:
        stacks = {name: one[0] for name, one in judged.items() if one}
        parts = {"stacks": stacks, "left_out": together, "errors": left}
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(part)}" for key, part in parts.items())
        args.json.write_text(f"{{{lines}}}\n", encoding="utf-8")


NAMES = (
    "host_s",
    "token_s",
    "prompt_slower_less_1",
    "eager_layer_s",
    "stream_s",
    "request_s",
)


if __name__ == "__main__":
    main()
