"""Published results from CSV, in either of two layouts: one figure a row, or one serving point."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anychip.core import InputError
from anychip.validate.units import normalised

DATA = Path(__file__).parent / "data"
SHIPPED = (DATA / "published.csv", DATA / "serving.csv")
"""Figures with their sources, and H100/H200 serving points of NVIDIA aiconfigurator 0.12.0
(silicon_sample.csv, Apache-2.0)."""

FIGURES = {
    "id",
    "model",
    "precision",
    "chip",
    "chips",
    "batch",
    "prompt_len",
    "gen_len",
    "metric",
    "value",
    "unit",
}
"""Columns of the first layout; `speculative`, `who`, `source`, `notes` and others may stand by."""
POINTS = {
    "id",
    "backend",
    "model_path",
    "system",
    "precision",
    "isl",
    "osl",
    "tp_size",
    "concurrency",
    "silicon_ttft_ms",
    "silicon_tpot_ms",
}
"""Columns of the second: closed loop, mean TTFT and TPOT."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published figure. Texts are as published, the unit is its metric's; `stack` is the
    serving software of a serving point and `version` its version where it is told, `tensor` how
    many chips share its model (0: not said)."""

    id: str
    model: str
    precision: str
    chip: str
    chips: str
    batch: str
    prompt: str
    generate: str
    metric: str
    value: float
    unit: str
    speculative: str = "no"
    who: str = ""
    source: str = ""
    notes: str = ""
    stack: str = ""
    version: str = ""
    tensor: int = 0


def read(path: Path) -> list[Published]:
    """All figures of a file. Raises InputError that names the file, and the line or the columns."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file)
            have = set(lines.fieldnames or ())
            if have >= FIGURES:
                return [_figure(path, n, row) for n, row in enumerate(lines, 2)]
            if have >= POINTS:
                return [one for n, row in enumerate(lines, 2) for one in _point(path, n, row)]
    except FileNotFoundError:
        raise InputError("no such file", path=str(path)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a CSV file: {error}", path=str(path)) from None
    raise InputError(
        f"expected columns {sorted(FIGURES)} (it lacks {sorted(FIGURES - have)}) or "
        f"{sorted(POINTS)} (it lacks {sorted(POINTS - have)})",
        path=str(path),
        field="header",
    )


def _number(path: Path, line: int, row: dict[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise InputError(
            f"expected a number above 0, got {row[name]!r}", path=str(path), field=f"{name}:{line}"
        )
    return value


def _figure(path: Path, line: int, row: dict[str, str]) -> Published:
    value, unit = normalised(row["metric"], _number(path, line, row, "value"), row["unit"])
    return Published(
        id=row["id"],
        model=row["model"],
        precision=row["precision"],
        chip=row["chip"],
        chips=row["chips"],
        batch=row["batch"],
        prompt=row["prompt_len"],
        generate=row["gen_len"],
        metric=row["metric"],
        value=value,
        unit=unit,
        speculative=row.get("speculative") or "no",
        who=row.get("who") or "",
        source=row.get("source") or "",
        notes=row.get("notes") or "",
    )


def _point(path: Path, line: int, row: dict[str, str]) -> Iterator[Published]:
    """TTFT, TPOT, and the throughput that follows from both: each of `concurrency` users gets
    `osl` tokens in TTFT + (osl - 1) TPOT."""
    ttft, tpot = (_number(path, line, row, f"silicon_{name}_ms") for name in ("ttft", "tpot"))
    users, answer, chips = (
        _number(path, line, row, name) for name in ("concurrency", "osl", "tp_size")
    )
    rate = users * answer / ((ttft + (answer - 1) * tpot) * 1e-3) / chips
    for metric, value, unit in (
        ("ttft", ttft, "ms"),
        ("tpot_mean", tpot, "ms"),
        ("throughput_output_per_gpu", rate, "tok/s"),
    ):
        yield Published(
            id=f"{row['id']}:{metric}",
            model=row["model_path"].split("/")[-1],
            precision=row["precision"] or "bf16",
            chip=row["system"],
            chips=row["tp_size"],
            batch=row["concurrency"],
            prompt=row["isl"],
            generate=row["osl"],
            metric=metric,
            value=value,
            unit=unit,
            who=row["backend"],
            source=row.get("source") or "",
            stack=row["backend"],
            version=row.get("backend_version") or "",
            tensor=int(chips),
            notes="derived from TTFT and TPOT" if metric.startswith("throughput") else "",
        )
