"""`anychip compare MODEL`: the main job. One row per chip, sorted by what matters to you."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from anychip.cli.model import ModelArgument
from anychip.cli.output import (
    Format,
    FormatOption,
    console,
    keep,
    print_json,
    progress_console,
    quantity,
    table,
)
from anychip.cli.record import recalled
from anychip.cli.report import render_report
from anychip.core import RunFolder, discover, machine_name
from anychip.core.config import read

COLUMNS = (
    ("ttft_s", "TTFT", "s"),
    ("tpot_s", "TPOT", "s"),
    ("user_tok_s", "tok/s\nper user", ""),
    ("chip_tok_s", "tok/s\nper chip", ""),
    ("j_per_tok", "J per\ntoken", ""),
    ("usd_per_mtok", "$ per\nMtok", ""),
)


def register(app: typer.Typer) -> None:
    app.command("compare")(compare)


def compare(
    model: ModelArgument,
    prompt: Annotated[int, typer.Option(help="Tokens in the prompt.")] = 1024,
    generate: Annotated[int, typer.Option(help="Tokens to generate.")] = 256,
    batch: Annotated[int, typer.Option(help="Sequences in flight.")] = 1,
    objective: Annotated[
        str, typer.Option(help="latency, throughput, cost or energy.")
    ] = "latency",
    chip: Annotated[list[str] | None, typer.Option(help="Only this chip; repeatable.")] = None,
    precision: Annotated[str, typer.Option(help="auto, or bf16, fp8, int8, q4_0, …")] = "auto",
    measure: Annotated[
        bool, typer.Option(help="Time this host where the model has weights.")
    ] = True,
    why: Annotated[bool, typer.Option("--why", help="Print each row's provenance.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Predict every chip, measure this one, and say what would change the answer."""
    document = comparison(
        model,
        prompt=prompt,
        generate=generate,
        batch=batch,
        chips=chip,
        objective=objective,
        precision=precision,
        measure=measure,
    )
    run = RunFolder.new(read("runs"), "compare", model, datetime.now())
    page = render_report(
        f"{model} on every chip",
        [document],
        machine=machine_name(),
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        command=f"anychip compare {model} --prompt {prompt} --generate {generate} --batch {batch}",
    )
    unkept = keep(run, {"compare.json": document, "report.html": page})
    if format is Format.json:
        print_json({**document, "run": str(run.path), "not_kept": unkept})
    else:
        show(document, why=why)
        if not unkept:
            console.print(f"report: {run.path}/report.html", soft_wrap=True)
    if not any(row["fits"] for row in document["rows"]):
        raise typer.Exit(1)


def comparison(model: str, **options: Any) -> dict[str, Any]:
    """`anychip.compare` with a status line; returns its JSON document.

    Each row also gets what its chip's compilers said of this model when `anychip compile` asked.
    """
    import anychip

    with progress_console.status(f"comparing {model} …") as status:
        result = anychip.compare(
            model, progress=lambda what: status.update(f"{model} on this host: {what} …"), **options
        )
    said = recalled(read("home"), model, discover())
    document = result.to_json()
    for row in document["rows"]:
        row["compilers"] = said.get(row["chip"], [])
    return document


def show(document: Mapping[str, Any], *, why: bool = False) -> None:
    """The comparison as a table, with what does not fit and what would change the answer below."""
    workload = document["workload"]
    fitting = [row for row in document["rows"] if row["fits"]]
    rows = [_cells(row) for row in fitting]
    columns = ("chip", "how", *(name for _, name, _ in COLUMNS))
    title = (
        f"{document['model']}: prompt {workload['prompt']}, generate {workload['generate']}, "
        f"batch {workload['batch']}; best {document['objective']} first"
    )
    console.print(table(title, columns, rows, right=tuple(range(2, 8))))
    console.print(
        Text.assemble(
            ("estimated", "dim"),
            ": closed form with its 80 % interval. ",
            ("simulated", "cyan"),
            ": every step scheduled on the family's machine model, 80 % interval. ",
            ("measured", "bold green"),
            ": median of samples on this machine, 10th–90th percentile.",
        )
    )
    if any(row.get("compilers") for row in document["rows"]):
        console.print("xla, iree, …: what that compiler said when asked here", style="dim")
    else:
        console.print(
            f"No compiler was asked yet: anychip compile {document['model']} --target all",
            style="dim",
        )
    for row in document["rows"]:
        if not row["fits"]:
            console.print(Text(f"{row['chip']}: {row['why_not']}", style="yellow"), soft_wrap=True)
    if document["what_would_change"]:
        console.print("\n[bold]What would change the answer[/bold]")
        for flip in document["what_would_change"]:
            console.print(f"  • {flip['text']}", soft_wrap=True)
    if why:
        for row in fitting:
            number = row["tpot_s"]
            if number and number["kind"] != "measured":
                console.print(
                    f"\n[bold]{row['chip']}[/bold] {number['provenance']}", soft_wrap=True
                )
                for note in row["notes"]:
                    console.print(f"  {note}", soft_wrap=True)
                console.print(f"  falsify: {number['falsify']}", soft_wrap=True)


def _cells(row: Mapping[str, Any]) -> tuple[Any, ...]:
    kind = row["tpot_s"]["kind"] if row["tpot_s"] else "estimated"
    chip = Text(row["chip"], style="bold")
    if row["count"] != 1:
        chip.append(f" ×{row['count']}")
    chip.append(f"\n{row['system']}", style="not bold dim")
    how = Text(f"{row['how']} {row['precision']}", style="bold green" if kind == "measured" else "")
    how.append(f"\n{kind}", style="not bold cyan" if kind == "simulated" else "not bold dim")
    for said in row.get("compilers", ()) if kind != "measured" else ():
        word, style = ("yes", "green") if said["compiled"] else ("no", "red")
        how.append(f"\n{said['how']}: {word}", style=f"not bold {style}")
    return (chip, how, *(quantity(row[key], unit) for key, _, unit in COLUMNS))
