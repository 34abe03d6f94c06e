"""What a model asks that cannot be expressed: every op with layer, line, count and remedy, written
to a run folder and shown as a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from anychip.cli.output import Format, console, keep, print_json, table
from anychip.cli.verdicts import Verdict
from anychip.core import OpCoverage, RunFolder, UnsupportedError
from anychip.core.config import read


def rows(report: Sequence[OpCoverage]) -> list[dict[str, Any]]:
    """JSON rows, one an op, line and reason, most frequent first."""
    merged: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in report:
        place = row.origin
        made = merged.setdefault(
            (row.op, place.source, row.why),
            {
                "op": row.op,
                "count": 0,
                "layer": place.layer,
                "source": place.source,
                "why": row.why,
            },
        )
        made["count"] += row.count
    return sorted(merged.values(), key=lambda one: -one["count"])


def write(error: UnsupportedError, model: str, run: RunFolder | None = None) -> Path:
    """Write `unsupported.json` and `unsupported.md`, in a folder of its own unless given one."""
    run = run or RunFolder.new(read("runs"), "unsupported", model, datetime.now())
    listed = rows(error.report)
    lines = [
        f"# What {model} asks that cannot be expressed",
        "",
        "| op | count | layer | line | why, and what would work |",
        "|---|---|---|---|---|",
    ]
    lines += [
        "| " + " | ".join(str(row[key]).replace("|", "/") for key in row) + " |" for row in listed
    ]
    document = {"model": model, "error": str(error), "unsupported": listed}
    keep(run, {"unsupported.json": document, "unsupported.md": "\n".join(lines) + "\n"})
    return run.path


def refuse(error: UnsupportedError, model: str, targets: Sequence[str], format: Format) -> None:
    """The model did not even come in: the verdict is no on every target, for the same reasons."""
    run = RunFolder.new(read("runs"), "compile", model, datetime.now())
    write(error, model, run)
    if format is Format.json:
        verdicts = [vars(Verdict(target=t, error=str(error), state="refused")) for t in targets]
        listed = rows(error.report)
        print_json(
            {"model": model, "verdicts": verdicts, "unsupported": listed, "run": str(run.path)}
        )
        return
    if error.report:
        console.print(as_table(error, model))
    else:
        console.print(f"{model} cannot be expressed: {error}", soft_wrap=True)
    console.print(f"report: {run.path}/unsupported.md", style="dim", soft_wrap=True)


def as_table(error: UnsupportedError, model: str) -> Any:
    """The rows for people."""
    columns = ("op", "count", "layer", "line", "why, and what would work")
    cells = [tuple(str(value) for value in row.values()) for row in rows(error.report)]
    return table(f"{model} cannot be expressed", columns, cells, right=(1,))
