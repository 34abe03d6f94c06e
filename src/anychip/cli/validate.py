"""`anychip validate`: how far the twins are from published results, with a table and a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from anychip.cli.output import (
    Format,
    FormatOption,
    console,
    keep,
    print_json,
    progress_console,
    table,
)
from anychip.cli.scatter import scatter_page
from anychip.core import RunFolder, discover
from anychip.core.config import read as setting


def register(app: typer.Typer) -> None:
    app.command("validate")(validate)


def validate(
    data: Annotated[
        list[Path] | None,
        typer.Option(help="CSV of published results or serving points; repeatable."),
    ] = None,
    chip: Annotated[list[str] | None, typer.Option(help="Only this chip; repeatable.")] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Print every row.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Predict every published result that can be expressed, and say how far off each is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from anychip.frontends.llm import PRECISIONS, catalogue
    from anychip.validate import SHIPPED, Predictor, read
    from anychip.validate import validate as check

    registry = discover()
    for name in chip or ():
        registry.chip(name)  # raises, and says which there are

    files = data or list(SHIPPED)
    published = [row for path in files for row in read(path)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=progress_console, transient=True) as progress:
        task = progress.add_task("predicting", total=len(published))
        report = check(
            published,
            Predictor(registry, catalogue.model, PRECISIONS),
            lambda _: progress.advance(task),
            chips=chip,
        )
    document = {"data": [str(path.name) for path in files], **report.to_json()}
    run = RunFolder.new(setting("runs"), "validate", "published", datetime.now())
    unkept = keep(run, {"validate.json": document, "validate.html": scatter_page(document)})
    if format is Format.json:
        print_json({**document, "run": str(run.path), "not_kept": unkept})
        return
    if rows:
        _print_rows(document["rows"])
    _print_summary(document)
    print_goals(document)
    if not unkept:
        console.print(f"Chart (open it in a browser): {run.path}/validate.html", soft_wrap=True)


def _print_summary(document: Mapping[str, Any]) -> None:
    shown = [
        (
            one["family"],
            one["metric"],
            str(one["n"]),
            f"{one['median_abs_error']:.0%}",
            f"{one['p90_abs_error']:.0%}",
            f"{one['median_error']:+.0%}",
            f"{one['coverage']:.0%}",
        )
        for one in document["summary"]
    ]
    names = ("family", "metric", "rows", "median |error|", "90th pct.", "bias", "in interval")
    title = "Predicted against published, all rows: those that stood behind a figure too"
    console.print(table(title, names, shown, right=(2, 3, 4, 5, 6)))
    _print_left_out(document["left_out"])
    _print_energy(document["energy_left_out"])
    reasons: dict[str, list[str]] = {}
    for one in document["not_expressible"]:
        reasons.setdefault(one["why"], []).append(one["id"])
    left = len(document["not_expressible"])
    ends = ":" if left else ""
    console.print(f"{len(document['rows'])} rows predicted, {left} cannot be expressed{ends}")
    for why, ids in sorted(reasons.items(), key=lambda item: -len(item[1]))[:12]:
        rest = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        console.print(f"  {len(ids):>3} × {why} ({', '.join(ids[:3])}{rest})", soft_wrap=True)
    if len(reasons) > 12:
        console.print(f"  and {len(reasons) - 12} other reasons (validate.json has them all)")


def _print_left_out(left: Sequence[Mapping[str, Any]]) -> None:
    """Errors on systems left out of every fit, and the five-parameter roofline's on those it
    covers, fitted to all of them."""
    shown = [
        (
            one["family"],
            one["metric"],
            str(one["n"]),
            _pair(one),
            _share(one["coverage"]),
            *_beside(one["baseline"]),
        )
        for one in left
    ]
    if not shown:
        return
    heads = ("family", "metric", "rows", "median / 90th", "in interval", "roofline", "nearer")
    title = "On systems left out of every fit, and a five-parameter roofline fitted to all"
    console.print(table(title, heads, shown, right=(2, 3, 4, 5)))


def _pair(one: Mapping[str, Any]) -> str:
    return f"{one['median_abs_error']:.1%} / {one['p90_abs_error']:.0%}"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _beside(found: Mapping[str, Any] | None) -> tuple[str, str]:
    """The roofline's errors, and which of the two is nearer, where not by both counts."""
    if found is None:
        return ("–", "")
    nearer = [
        found["twin_" + name] <= found[name] for name in ("median_abs_error", "p90_abs_error")
    ]
    said = {(True, True): "twin", (False, False): "roofline"}
    return (_pair(found), said.get((nearer[0], nearer[1]), "twin" if nearer[0] else "roofline *"))


def print_goals(document: Mapping[str, Any]) -> None:
    """Each goal with what was reached, part by part, then why what is not reached is not."""
    shown: list[tuple[str, ...]] = []
    for goal in document["goals"]:
        asked = goal["asked"]
        limit = f"{asked['median_abs_error']:.0%}"
        limit += f" / {asked['p90_abs_error']:.0%}" if asked["p90_abs_error"] else ""
        shown.append((goal["goal"], limit, *_reached(goal)))
        shown += [(f"  {part['part']}", "", *_reached(part)) for part in goal["parts"]]
    heads = ("goal", "asked", "rows", "median / 90th", "reached", "in 80 % interval", "roofline")
    title = "Goals, on systems left out"
    console.print(table(title, heads, shown, right=(1, 2, 3, 5, 6)))
    for goal in document["goals"]:
        for name, one in ((goal["goal"], goal), *((p["part"], p) for p in goal["parts"])):
            if one["reached"] is False:
                where = name if name == goal["goal"] else f"{goal['goal']}, {name}"
                console.print(f"{where}: {_why(one)}", soft_wrap=True)


def _reached(one: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    if not one["n"]:
        return ("0", "no row", "–", "–", "–")
    outside = "" if one["coverage_reached"] is not False else " (75–90 asked)"
    said = "yes" if one["reached"] else "no"
    return (
        str(one["n"]),
        _pair(one),
        said,
        _share(one["coverage"]) + outside,
        *_beside(one["baseline"])[:1],
    )


def _why(one: Mapping[str, Any]) -> str:
    rows = ", ".join(
        f"{_short(row['id'].rpartition(':')[0] or row['id'])} {row['error']:+.0%}"
        for row in one["worst"]
    )
    bias = f"bias {one['median_error']:+.0%}; farthest off {rows}"
    return f"not reached ({bias}). {one['why']}".rstrip()


def _print_energy(found: Mapping[str, Any] | None) -> None:
    """How far energy is off where a model was left out of its fit."""
    if found is None:
        return
    for metric, one in found["metrics"].items():
        console.print(
            f"{metric} with each of {len(found['share_without'])} models left out of the fit: "
            f"median {one['median_abs_error']:.0%}, worst {one['max_abs_error']:.0%} "
            f"({one['n']} rows)"
        )


def _print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    shown = [
        (
            _short(one["id"].removesuffix(f":{one['metric']}")),
            one["chip"],
            one["metric"],
            f"{one['published']:.4g}",
            f"{one['predicted']:.4g}",
            f"{one['low']:.4g}–{one['high']:.4g}",
            f"{one['error']:+.0%}",
        )
        for one in sorted(rows, key=lambda row: -abs(row["error"]))
    ]
    names = ("id", "chip", "metric", "published", "predicted", "80 % interval", "error")
    console.print(table("Rows, worst first", names, shown, right=(3, 4, 5, 6)))


def _short(id: str, most: int = 34) -> str:
    """Long names without their middle, so that the columns beside them have room."""
    if len(id) <= most:
        return id
    return f"{id[:8]}…{id[len(id) - most + 9 :]}"
