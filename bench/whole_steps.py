"""Whole steps of GPUs and systolic chips, in three ways, beside published figures.

    python bench/whole_steps.py [-o out.json]

Every published figure of one batch in step (`anychip validate`'s rows of the closed form) is
predicted by the closed form and, with the same plan, by the machine model (twin/simt.py,
twin/systolic.py), and by both: prompts in closed form and tokens simulated; none with a serving
stack. The closed form's constants were fitted on such
figures, the machine models' on single ops. Three minutes.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from anychip.core import AnychipError, discover
from anychip.frontends.llm import PRECISIONS, catalogue
from anychip.mapper.predict import predict
from anychip.twin import machine, step_cost
from anychip.validate import SHIPPED, Predictor, Published, Skip, read
from anychip.validate.names import CHIPS, Build, lookup, rebuilt
from anychip.validate.predict import METRICS

RESULTS = Path(__file__).parent / "results"
FAMILIES = ("simt", "systolic")
DIRECT = ("tok_s_user", "tpot_mean", "tpot_p50", "ttft", "ttft_p50", "e2e_latency")
"""Metrics that are a prediction's quantity times a factor."""


def three(row: Published, predictor: Predictor) -> tuple[float, float, float, str, str] | None:
    """(closed form, machine model, prompts by the one and tokens by the other, chip, family) in the
    row's unit; None where one says nothing."""
    build = lookup(CHIPS, row.chip)
    if not isinstance(build, Build) or row.metric not in DIRECT or row.stack:
        return None
    spec = rebuilt(predictor.registry.chip(build.chip).spec, build)
    if spec.family not in FAMILIES or "TTFT probably included" in row.notes:
        return None
    try:
        value = predictor.predict(row)
        if value.how != "closed form":
            return None
        found, _ = predictor.plan_of(row, build, spec)
    except (Skip, AnychipError):
        return None
    option = found.option
    one = machine(spec, option.system)
    work, tables, shards = found.plan.workload, option.tables, option.shards
    quantity, factor = METRICS[row.metric]
    fill = step_cost(tables.prefill, one, shards, option.placement)
    mixed = {"prefill": (fill.seconds, fill.stage_s)}
    made = [predict(tables, one, shards, work, simulated=some) for some in ({}, mixed)]
    again = [each.values()[quantity] for each in made]
    if again[0] is None or again[1] is None:
        return None
    return value.value, again[0] * factor, again[1] * factor, build.chip, spec.family


def figures(relative: list[float]) -> dict[str, float]:
    size = np.abs(relative)
    return {
        "median_abs_error": float(np.median(size)),
        "p90_abs_error": float(np.percentile(size, 90)),
        "median_error": float(np.median(relative)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "whole-steps.json")
    args = parser.parse_args()
    predictor = Predictor(discover(), catalogue.model, PRECISIONS)
    rows: list[dict[str, Any]] = []
    for row in read(SHIPPED[0]):
        found = three(row, predictor)
        if found is not None:
            closed, machined, mixed, chip, family = found
            rows.append(
                {
                    "id": row.id,
                    "chip": chip,
                    "family": family,
                    "metric": row.metric,
                    "closed_form_error": round(closed / row.value - 1, 5),
                    "machine_model_error": round(machined / row.value - 1, 5),
                    "mixed_error": round(mixed / row.value - 1, 5),
                }
            )
    summary: list[dict[str, Any]] = []
    for family, metric in sorted({(row["family"], row["metric"]) for row in rows}):
        some = [row for row in rows if (row["family"], row["metric"]) == (family, metric)]
        summary.append(
            {
                "family": family,
                "metric": metric,
                "n": len(some),
                "closed_form": figures([row["closed_form_error"] for row in some]),
                "machine_model": figures([row["machine_model_error"] for row in some]),
                "mixed": figures([row["mixed_error"] for row in some]),
            }
        )
    print(json.dumps(summary, indent=1))
    lines = ",\n ".join(json.dumps(row) for row in rows)
    sums = ",\n ".join(json.dumps(one) for one in summary)
    text = f'{{"summary": [\n {sums}],\n"rows": [\n {lines}]}}\n'
    args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
