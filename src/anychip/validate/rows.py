"""Published results from CSV, in either of two layouts: one figure a row, or one serving point."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
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
ORDER = (
    *("id", "model", "precision", "chip", "chips", "batch", "prompt_len", "gen_len"),
    *("metric", "value", "unit"),
)
"""The same as people write them."""
EMPTY = {"chips", "batch", "prompt_len", "gen_len"}
"""Of these, what may be left out of a row."""
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


@cache
def shipped_ids() -> frozenset[str]:
    return frozenset(row.id for path in SHIPPED for row in read(path))


def read(path: Path) -> list[Published]:
    """All figures of a file. Raises InputError that names the file, and the line or the columns."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file)
            found = tuple(lines.fieldnames or ())
            have = set(found)
            if have >= FIGURES:
                return [_figure(path, n, _whole(path, n, row)) for n, row in enumerate(lines, 2)]
            if have >= POINTS:
                each = ((n, _whole(path, n, row)) for n, row in enumerate(lines, 2))
                return [one for n, row in each for one in _point(path, n, row)]
    except FileNotFoundError:
        raise InputError("no such file", path=str(path)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a CSV file: {error}", path=str(path)) from None
    raise InputError(_why_not(found), path=str(path), field="header")


def _why_not(found: Sequence[str]) -> str:
    """What a header that is of neither layout lacks of the nearer one."""
    have = set(found)
    if not have:
        return f"the file is empty; its first line names the columns: {','.join(ORDER)}"
    if len(have) == 1:
        return f"one column, {found[0]!r}: fields are separated by commas"
    nearer, other = sorted((FIGURES, POINTS), key=lambda layout: len(layout - have))
    lacks = sorted(nearer - have)
    near = {
        name: match[0]
        for name in lacks
        if (match := get_close_matches(name, sorted(have - nearer), 1))
    }
    renamed = "".join(f"; is {there!r} meant as {name!r}?" for name, there in near.items())
    optional = ", ".join(sorted(EMPTY & set(lacks)))
    empty = f"; of these, {optional} may stay empty" if optional else ""
    kind = "a figure a row" if nearer is FIGURES else "a serving point a row"
    what = "a serving point" if other is POINTS else "a figure"
    return (
        f"lacks {', '.join(lacks)}{renamed}{empty}. The layout of {kind} has the columns "
        f"{','.join(name for name in (ORDER if nearer is FIGURES else sorted(nearer)))}; "
        f"that of {what} a row begins with {','.join(sorted(other)[:3])}"
    )


def _whole(path: Path, line: int, row: dict[str, str]) -> dict[str, str]:
    """The row, if it has a field for each column. DictReader keeps what is over under None and has
    None for what is missing."""
    missing = [name for name, value in row.items() if value is None]
    if None in row or missing:
        wrong = f"lacks {', '.join(missing)}" if missing else "has fields beyond the last column"
        raise InputError(f"{wrong}; a text with commas stands in quotes", path=f"{path}:{line}")
    return row


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
