"""`anychip pull MODEL`: fetch a real model, with size, checksum and licence shown."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from anychip.cli.output import Format, FormatOption, console, print_json, progress_console, table
from anychip.core.config import read


def register(app: typer.Typer) -> None:
    app.command("pull")(pull)


def pull(
    model: Annotated[
        str | None, typer.Argument(help="What to fetch; the list when left out.")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Fetch a real model into anychip's home folder. The only command that downloads."""
    from anychip.frontends.pull import catalogue

    if model is None:
        rows = [
            (m.name, m.title, f"{m.bytes / 1e6:.0f} MB", m.licence, m.source)
            for m in catalogue().values()
        ]
        if format is Format.json:
            print_json(
                {
                    "models": [
                        {
                            "name": m.name,
                            "bytes": m.bytes,
                            "sha256": m.sha256,
                            "licence": m.licence,
                            "source": m.source,
                        }
                        for m in catalogue().values()
                    ]
                }
            )
        else:
            console.print(
                table(
                    "Models that can be pulled",
                    ("name", "what", "size", "licence", "from"),
                    rows,
                    right=(2,),
                )
            )
        return
    pulled = pull_with_progress(model)
    if format is Format.json:
        print_json(
            {
                "model": pulled.model.name,
                "path": str(pulled.path),
                "bytes": pulled.model.bytes,
                "sha256": pulled.model.sha256,
                "licence": pulled.model.licence,
                "source": pulled.model.source,
                "reused": pulled.reused,
            }
        )
        return
    state = "already here, verified" if pulled.reused else "fetched and verified"
    console.print(f"[bold]{pulled.model.title}[/bold]: {state}")
    console.print(f"  file      {pulled.path}", soft_wrap=True)
    console.print(f"  size      {pulled.model.bytes:,} bytes")
    console.print(f"  sha256    {pulled.model.sha256}")
    console.print(f"  licence   {pulled.model.licence}")
    console.print(f"  from      {pulled.model.source}", soft_wrap=True)


def pull_with_progress(model: str):
    """Pull with a bar on standard error; returns the record of what is there now."""
    from anychip.frontends.pull import pull as fetch

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=progress_console, transient=True) as bar:
        task = bar.add_task(model, total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        return fetch(model, read("home"), show)
