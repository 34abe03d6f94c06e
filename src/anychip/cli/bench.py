"""`anychip bench MODEL`: every target that runs here, and the peers called directly, in turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from anychip.cli.bench_peers import peers
from anychip.cli.model import (
    BatchOption,
    ContextOption,
    DimOption,
    InputOption,
    ModelArgument,
    PrecisionOption,
    PromptLengthOption,
    Step,
    StepOption,
    inputs_for,
    load_module,
)
from anychip.cli.output import (
    Format,
    FormatOption,
    console,
    print_json,
    progress_console,
    scaled,
    table,
)
from anychip.compilers.contest import Entrant, Outcome, contest
from anychip.core import AnychipError, CompileOptions, UsageError, discover, machine_name
from anychip.core.config import read


def register(app: typer.Typer) -> None:
    app.command("bench")(bench)


def bench(
    model: ModelArgument,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="chip:how; repeatable. All that run.")
    ] = None,
    step: StepOption = "decode",
    batch: BatchOption = 1,
    context: ContextOption = 512,
    length: PromptLengthOption = 128,
    precision: PrecisionOption = "auto",
    dim: DimOption = None,
    input: InputOption = None,
    seed: Annotated[int, typer.Option(help="Seed of made-up inputs.")] = 0,
    seconds: Annotated[float, typer.Option(help="How long the timed rounds may take.")] = 5.0,
    tolerance: Annotated[
        float, typer.Option(help="Difference over largest value that still counts as equal.")
    ] = 1e-3,
    format: FormatOption = Format.table,
) -> None:
    """Time every target that runs on this host, and what reads the file itself, side by side.

    Beside an .onnx file: ONNX Runtime and OpenVINO; beside a .pt2 file: PyTorch, torch.compile.
    """
    choice = Step(
        step=step, batch=batch, length=length, context=context, precision=precision, dims=dim or ()
    )
    loaded = load_module(model, choice)
    inputs = inputs_for(loaded, input or (), seed)
    refused: dict[str, str] = {}
    entrants: list[Entrant] = []
    for name in target or _running():
        with progress_console.status(f"{name} …"):
            try:
                made = discover().target(name)
                if not made.runs:
                    raise UsageError(f"{name} compiles but does not run here")
                options = CompileOptions(timeout_s=read("child_timeout"))
                entrants.append(Entrant(name, made.compile(loaded.module, options).run))
            except AnychipError as error:
                if target is not None and isinstance(error, UsageError):
                    raise
                refused[name] = str(error).splitlines()[0]
    beside = peers(model, loaded.module, inputs)
    refused |= beside.absent
    for name, make in beside.makers.items():
        with progress_console.status(f"{name} …"):
            entrants.append(Entrant(name, make()))
    with progress_console.status("timing in turns …"):
        outcome = contest(
            entrants,
            inputs,
            reference="cpu:xla",
            tolerance=tolerance,
            seconds=seconds,
            rounds=200,
        )
    _report(model, outcome, refused, format)


def _running() -> list[str]:
    """The host's targets. Twins are left out: the time their `run` takes says nothing."""
    return [f"cpu:{how}" for how in sorted(discover().chip("cpu").targets) if how != "twin"]


def _report(model: str, outcome: Outcome, refused: Mapping[str, str], format: Format) -> None:
    rows = outcome.to_json()
    if format is Format.json:
        print_json(
            {
                "model": model,
                "machine": machine_name(),
                "fastest": outcome.fastest,
                "rows": [{"name": name, **row} for name, row in rows.items()],
                "not_compiled": dict(refused),
            }
        )
        return
    best = rows[outcome.fastest]["median_s"]
    lines: list[list[Any]] = []
    for name, row in sorted(rows.items(), key=lambda r: r[1]["median_s"] or float("inf")):
        timed = row["median_s"]
        lines.append(
            [
                name,
                scaled(timed, "s") if timed else "–",
                f"{timed / best:.2f}×" if timed else "–",
                "–" if row["max_error"] is None else f"{row['max_error']:.1e}",
                row["failure"] or "",
            ]
        )
    lines += [[name, "–", "–", "–", why] for name, why in refused.items()]
    columns = ["what", "median", "of the best", "error", "note"]
    console.print(table(model, columns, lines, right=(1, 2, 3)))
    console.print(f"Measured on {machine_name()}, in turns; error is against cpu:xla.")
