"""How results look: numbers with unit and interval, tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anychip.core import RunFolder, is_full
from anychip.core.config import read


class Format(StrEnum):
    """`-f table` or `-f json`."""

    table = "table"
    json = "json"


FormatOption = Annotated[
    Format, typer.Option("--format", "-f", help="A table for people, JSON for programs.")
]

PIPE_WIDTH = 120
"""Columns when the output is no terminal, where nobody can say how wide it is."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
progress_console = Console(stderr=True, highlight=False)

_PREFIXES = (
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
    (1e-12, "p"),
)


def print_json(value: object) -> None:
    """Write one JSON document to standard output."""
    print(json.dumps(value, indent=1))


def scaled(value: float, unit: str, digits: int = 3) -> str:
    """`0.0123` seconds as `12.3 ms`: an SI prefix and three significant digits."""
    factor, prefix = _prefix(value)
    return f"{_significant(value / factor, digits)} {prefix}{unit}".strip()


def _prefix(value: float) -> tuple[float, str]:
    size = abs(value)
    for factor, prefix in _PREFIXES:
        if size >= factor * 0.9995:
            return factor, prefix
    return _PREFIXES[-1] if size else (1.0, "")


def _significant(value: float, digits: int = 3) -> str:
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e" in text else text


def quantity(number: Mapping[str, Any] | None, unit: str) -> Text:
    """A cell: the value, and its interval below it. Measured values stand out."""
    if number is None:
        return Text("–", style="dim")
    is_measured = number["kind"] == "measured"
    if unit == "s":
        factor, prefix = _prefix(number["value"])
        main = f"{_significant(number['value'] / factor)} {prefix}s"
    else:
        factor, main = 1.0, _plain(number["value"])
    low, high = (_plain(number[k] / factor) for k in ("low", "high"))
    cell = Text(main, style="bold green" if is_measured else "")
    cell.append(f"\n{low}–{high}", style="dim")
    return cell


def _plain(value: float) -> str:
    if abs(value) >= 1e5:
        return scaled(value, "").replace(" ", "")
    return _significant(value)


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[int] = ()
) -> Table:
    """A table with `columns`; those whose index is in `right` are right-aligned."""
    made = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        min_width=min(len(title), console.width),  # or a long title is folded
    )
    for index, name in enumerate(columns):
        made.add_column(
            name,
            justify="right" if index in right else "left",
            overflow="fold",
            no_wrap=index == 0 or index in right,
        )
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made


def keep(run: RunFolder, files: Mapping[str, str | bytes | object]) -> str:
    """Write the files of an answer, `unless_full`."""

    def write() -> None:
        for name, content in files.items():
            run.write(name, content)

    return unless_full(", ".join(files), write)


def unless_full(what: str, write: Callable[[], object]) -> str:
    """Where the disk is full the answer stands all the same: why `what` is not kept is said on
    standard error, and returned."""
    try:
        write()
    except OSError as error:
        if not is_full(error):
            raise
        why = f"{what} not kept: {said_by_the_system(error)}"
        progress_console.print(why, style="yellow", soft_wrap=True)
        return why
    return ""


def said_by_the_system(error: OSError) -> str:
    """A file that cannot be had, or a full disk: not ours to mend, so what the user can do."""
    if not is_full(error):
        return f"the system says no: {error}"
    return (
        f"{error.strerror}{f': {error.filename}' * bool(error.filename)}. Free some space where "
        f"temporary files, run folders ({read('runs')}) and caches ({read('home')}) are, or set "
        "TMPDIR, ANYCHIP_RUNS or ANYCHIP_HOME to another disk"
    )
