"""`anychip cache`: what compilers have left on disk, and dropping the longest unused of it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated

import typer

from anychip.cli.output import Format, FormatOption, console, print_json, scaled, table
from anychip.compilers.cache import CACHES, Cache
from anychip.core import UsageError, unknown
from anychip.core.config import read, size_in_bytes


def register(app: typer.Typer) -> None:
    app.command("cache")(cache)


def cache(
    name: Annotated[
        str | None, typer.Argument(help="A compiler's cache; all of them when left out.")
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option(help="Drop the longest unused until each takes at most this: 500M, 2G, 0."),
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """List what the compilers keep between runs, with --prune after making it smaller."""
    if name is not None and name not in CACHES:
        raise unknown("cache", name, CACHES)
    limit = None if prune is None else _size(prune)
    rows: list[dict[str, object]] = []
    for one in CACHES if name is None else (name,):
        kept = Cache.under_home(one)
        freed = 0 if limit is None else kept.prune(limit)
        entries = sorted(kept.entries())
        rows.append(
            {
                "cache": one,
                "folder": str(kept.folder),
                "max_bytes": kept.max_bytes,
                "bytes": sum(size for _, size, _ in entries),
                "freed_bytes": freed,
                "entries": [
                    {
                        "key": path.name,
                        "bytes": size,
                        "used": datetime.fromtimestamp(used).isoformat(timespec="seconds"),
                    }
                    for used, size, path in entries
                ],
                "oldest_use_s": time.time() - entries[0][0] if entries else None,
            }
        )
    if format is Format.json:
        print_json({"caches": rows})
        return
    cells = [
        (
            row["cache"],
            str(len(row["entries"])),  # type: ignore[arg-type]
            scaled(float(str(row["bytes"])), "B"),
            _ago(row["oldest_use_s"]),
            scaled(float(str(row["freed_bytes"])), "B") if limit is not None else "",
        )
        for row in rows
    ]
    columns = ("cache", "entries", "size", "oldest use", "freed")
    console.print(table(str(read("home")), columns, cells, right=(1, 2, 3, 4)))


def _size(text: str) -> int:
    try:
        return size_in_bytes(text)
    except ValueError:
        raise UsageError(f"--prune {text!r} is no size; write 500M, 2G or 0") from None


def _ago(seconds: object) -> str:
    if not isinstance(seconds, float):
        return "–"
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
