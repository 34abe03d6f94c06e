"""`anychip zoo [LIST …]`: a table of models × stages; it goes on where its run folder stands."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from anychip.cli.output import (
    Format,
    FormatOption,
    console,
    print_json,
    progress_console,
    table,
)
from anychip.core import RunFolder, UsageError, discover
from anychip.core.config import read


def register(app: typer.Typer) -> None:
    app.command("zoo")(zoo)


def zoo(
    lists: Annotated[
        list[str] | None, typer.Argument(help="Names of lists, or paths of .toml files; all.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A pattern of model names; repeatable.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="chip:how, or host: all that run here; repeatable."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Models at a time.")] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds a model may take.")] = 300.0,
    memory: Annotated[float, typer.Option(help="GiB a model may take; 0: no limit.")] = 6.0,
    shard: Annotated[str, typer.Option(help="I/N: part I of N of the models.")] = "1/1",
    retry: Annotated[bool, typer.Option("--retry", help="Run again what failed.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Run folder; models with a result there are not run again.")
    ] = None,
    where: Annotated[Path, typer.Option("--lists", help="The folder of the lists.")] = Path("zoo"),
    format: FormatOption = Format.table,
) -> None:
    """Bring every model of the lists in, run it, and hold it against its own framework."""
    from anychip import zoo as library

    targets = _targets(target or ["cpu:xla"])
    limits = library.Limits(
        jobs=jobs, timeout_s=timeout, memory_bytes=int(memory * (1 << 30)) or None
    )
    everything = library.read_lists(lists or (), folder=where, only=only or ())
    subject = "-".join(lists or ["all"])
    run = RunFolder(folder) if folder else RunFolder.new(read("runs"), "zoo", subject, _now())
    results = run.path / "results.jsonl"
    done = library.stored(results)
    waiting = [
        entry
        for entry in library.shard(everything, shard)
        if _is_open(done.get(entry.key), targets, retry)
    ]
    run.path.mkdir(parents=True, exist_ok=True)
    left = len(waiting)
    try:
        with (
            _ended_by_sigterm(),
            closing(library.run(waiting, targets, limits, run.path / "logs")) as rows,
            open(results, "a") as file,
            _progress() as progress,
        ):
            task = progress.add_task("zoo", total=len(waiting))
            for row in rows:
                done[row.model] = _merged(done.get(row.model), row.to_json())
                file.write(json.dumps(done[row.model]) + "\n")
                file.flush()  # whoever stops us loses no model
                left -= 1
                progress.console.print(_line(done[row.model]), style="dim", soft_wrap=True)
                progress.update(task, advance=1, description=row.model)
    except (KeyboardInterrupt, SystemExit):
        told = f"stopped with {left} of {len(waiting)} models to go; --folder {run.path} goes on"
        progress_console.print(told, soft_wrap=True)
        raise
    shown = [done[e.key] for e in everything if e.key in done]
    command = shlex.join(["anychip", *sys.argv[1:]])
    made = library.document(shown, f"{_now():%Y-%m-%d}", everything) | {"run": str(run.path)}
    run.write("zoo.json", made)
    run.write("zoo.md", library.markdown(made, command))
    run.write("summary.md", library.markdown(made, command, with_models=False))
    if format is Format.json:
        print_json(made)
    else:
        _show(made, run.path)
    if any(r["error"] is not None and not r["limit"] for r in shown):
        raise typer.Exit(1)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let a polite kill end the children too, as an interrupt does."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _now() -> datetime:
    return datetime.now()


def _targets(names: list[str]) -> list[str]:
    registry = discover()
    if "host" not in names:
        for name in names:
            if not registry.target(name).runs:
                raise UsageError(f"{name} compiles but does not run here; the zoo compares numbers")
        return names
    if names != ["host"]:
        raise UsageError("--target host stands alone")
    hows = sorted(registry.chip("cpu").targets)
    return [f"cpu:{how}" for how in hows if registry.target(f"cpu:{how}").runs]


def _is_open(result: dict[str, Any] | None, targets: list[str], retry: bool) -> bool:
    """Whether a model has yet to run: it has no result, none for these targets, or a bad one."""
    if result is None:
        return True
    if result["error"] is not None:
        return retry
    return not set(targets) <= set(result["targets"])


def _merged(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The new result, with the cells of targets it was not asked for."""
    return {**new, "targets": {**(old["targets"] if old else {}), **new["targets"]}}


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=progress_console,
        disable=not sys.stderr.isatty(),
    )


def _line(result: dict[str, Any]) -> str:
    errors = [c["max_rel_err"] for c in result["targets"].values()]
    numbers = " ".join("–" if e is None else f"{e:.1e}" for e in errors)
    told = f"ok {numbers}" if result["error"] is None else f"{result['stage']}: {result['error']}"
    return f"{result['model']:45} {result['seconds']:6.1f} s  {told.splitlines()[0][:220]}"


def _show(made: dict[str, Any], path: Path) -> None:
    rows = [
        (
            row["list"],
            f"{row['models']} of {row['listed']}",
            str(row["passed"]),
            f"{row['passed'] / row['models']:.1%}",
            str(row["explained"]),
            "–" if row["max_rel_err"] is None else f"{row['max_rel_err']:.1e}",
        )
        for row in made["summary"]
    ]
    columns = ("list", "models", "pass", "rate", "known limits", "largest error")
    console.print(table("zoo", columns, rows, right=(1, 2, 3, 4, 5)))
    failed = [r for r in made["results"] if r["error"] is not None]
    if failed:
        lines = [
            (r["model"], r["stage"], Text(r["limit"] or r["error"].splitlines()[0][:300]))
            for r in failed
        ]
        console.print(table("what does not pass", ("model", "stops at", "why"), lines))
    console.print(f"report: {path}/zoo.md", style="dim", soft_wrap=True)
