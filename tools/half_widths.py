"""Half-widths of the closed form's intervals, from what `anychip validate` found.

    anychip validate -f json > validate.json
    python tools/half_widths.py validate.json [--json bench/results/left-out.json]

Prints the constants of `twin/left_out.py` and the coverage with each chip left out in turn; the
JSON keeps every figure's error and its facts' spread, so that a test can count again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anychip.twin.calibrate import half_width
from anychip.twin.left_out import left_out

FEWEST = 8
"""Figures below which a family shares the half-width of all such families."""
ENERGY = ("energy_per_output_token", "system_wall_power")
PREFILL = ("ttft", "ttft_p50", "prefill_tok_s")


def figure(row: dict[str, Any]) -> dict[str, Any]:
    """A row's logarithmic error, and the spread of the facts on the side of the published value:
    what the interval holds beside the closed form's own part when the row was predicted."""
    phase = "prefill" if row["metric"] in PREFILL else "decode"
    error = math.log(row["predicted"] / row["published"])
    end = row["low"] if error > 0 else row["high"]
    side = abs(math.log(row["predicted"] / end))
    own = left_out(row["family"], "ttft_s" if phase == "prefill" else "tpot_s").half_width
    return {
        "id": row["id"],
        "family": row["family"],
        "phase": phase,
        "chip": row["chip"],
        "error": round(error, 6),
        "facts": round(math.sqrt(max(side * side - own * own, 0.0)), 6),
    }


KEPT = ("id", "chip", "error", "facts")
"""Of a figure in the JSON, in this order, under its phase and family."""


def to_json(
    made: Sequence[dict[str, Any]],
    figures: Sequence[dict[str, Any]],
    validated: dict[str, Any] | None = None,
) -> str:
    """A line for each phase and family; first what `anychip validate` summed up."""
    groups: dict[str, list[list[Any]]] = {}
    for one in figures:
        groups.setdefault(f"{one['phase']} {one['family']}", []).append([one[k] for k in KEPT])
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(rows)}" for key, rows in groups.items())
    rest = dict(validated or {})
    listed = {name: rest.pop(name, ()) for name in ("summary", "goals")}
    head = "".join(f"{json.dumps(name)}: [\n {joined(some)}],\n" for name, some in listed.items())
    head += f'"validated": {json.dumps(rest)},\n'
    return f'{{{head}"table": {json.dumps(made)},\n"figures": {{\n{lines}}}}}\n'


def joined(some: Iterable[Any]) -> str:
    """A line each."""
    return ",\n ".join(json.dumps(one) for one in some)


def kept_rows(calibrated: dict[str, Any], spatial: dict[str, Any]) -> dict[str, float]:
    """Logarithms of predicted over published of rows whose system had no part in the fit, by row:
    of `tools/calibrate.py` and of `bench/spatial_error.py --left-out`."""
    found = {
        id: error
        for systems in calibrated["errors"].values()
        for errors in systems.values()
        for id, error in errors.items()
    }
    for one in spatial["left_out"]:
        found |= {id: round(math.log1p(error), 6) for id, error in one["errors"].items()}
    return found


def from_json(text: str) -> list[dict[str, Any]]:
    """The figures that `to_json` kept."""
    figures: list[dict[str, Any]] = []
    for key, rows in json.loads(text)["figures"].items():
        phase, family = key.split()
        figures += [
            {"phase": phase, "family": family, **dict(zip(KEPT, r, strict=True))} for r in rows
        ]
    return figures


def tuned(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Logarithms of the errors of servers whose stack is not told, by metric: all are predicted as
    the tuned stack, which was fitted to none of them."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["how"] == "serving" and not row["stack"] and row["metric"] not in ENERGY:
            error = math.log(row["predicted"] / row["published"])
            found.setdefault(row["metric"], {})[row["id"]] = round(error, 4)
    return found


def scores(figures: Sequence[dict[str, Any]]) -> np.ndarray:
    squares = np.array([one["error"] ** 2 - one["facts"] ** 2 for one in figures])
    return np.expm1(np.sqrt(np.maximum(squares, 0.0)))  # relative, as half_width takes them


def is_inside(one: dict[str, Any], own: float) -> bool:
    return abs(one["error"]) <= math.hypot(one["facts"], own)


def coverage(figures: Sequence[dict[str, Any]]) -> float | None:
    """The share inside when each chip's half-width comes from the other chips; None for one."""
    chips = sorted({one["chip"] for one in figures})
    if len(chips) < 2:
        return None
    inside: list[bool] = []
    for chip in chips:
        own = half_width(scores([one for one in figures if one["chip"] != chip]))
        inside += [is_inside(one, own) for one in figures if one["chip"] == chip]
    return float(np.mean(inside))


def table(figures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By phase and family: figures, half-width, coverage left out; "rare" for the small ones."""
    made: list[dict[str, Any]] = []
    for phase in ("decode", "prefill"):
        mine = [one for one in figures if one["phase"] == phase]
        families = sorted({one["family"] for one in mine})
        of = {name: [one for one in mine if one["family"] == name] for name in families}
        rare = [one for some in of.values() if len(some) < FEWEST for one in some]
        shared = half_width(scores(rare))
        for name, some in (*of.items(), ("rare", rare)):
            own = half_width(scores(some))
            few = len(some) < FEWEST
            made.append(
                {
                    "phase": phase,
                    "family": name,
                    "figures": len(rare) if few and shared >= own else len(some),
                    "from": "rare" if few and shared >= own else name,
                    "half_width": round(max(own, shared) if few else own, 3),
                    "coverage_left_out": coverage(some),
                }
            )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("validated", type=Path)
    parser.add_argument("--json", type=Path, default=Path("bench/results/left-out.json"))
    args = parser.parse_args()
    document = json.loads(args.validated.read_text(encoding="utf-8"))
    rows = document["rows"]
    figures = [
        figure(row) for row in rows if row["how"] == "closed form" and row["metric"] not in ENERGY
    ]
    made = table(figures)
    for line in made:
        print(json.dumps(line))
    validated = {
        "rows": len(rows),
        "not_expressible": len(document["not_expressible"]),
        "energy_left_out": document["energy_left_out"]["metrics"],
        "tuned": tuned(rows),
        "summary": document["summary"],
        "goals": document["goals"],
    }
    args.json.write_text(to_json(made, figures, validated), encoding="utf-8")


if __name__ == "__main__":
    main()
