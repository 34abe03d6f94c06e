"""`anychip trace MODEL --target T -o FILE`: one run as a Perfetto file, and its longest ops."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

from anychip.cli.model import (
    BatchOption,
    ContextOption,
    DimOption,
    InputOption,
    ModelArgument,
    PipelineOption,
    PrecisionOption,
    PromptLengthOption,
    Step,
    StepOption,
    TargetOption,
    TensorOption,
    inputs_for,
    load_module,
    twin_options,
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
from anychip.core import (
    CompileOptions,
    Target,
    Trace,
    UsageError,
    discover,
    simulates,
    write_atomically,
)
from anychip.core.config import read


def register(app: typer.Typer) -> None:
    app.command("trace")(trace)


def trace(
    model: ModelArgument,
    target: TargetOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Trace Event JSON for Perfetto.")],
    step: StepOption = "decode",
    batch: BatchOption = 1,
    context: ContextOption = 512,
    length: PromptLengthOption = 128,
    precision: PrecisionOption = "auto",
    dim: DimOption = None,
    input: InputOption = None,
    tensor: TensorOption = None,
    pipeline: PipelineOption = None,
    seed: Annotated[int, typer.Option(help="Seed of made-up inputs.")] = 0,
    top: Annotated[int, typer.Option(help="How many of the longest ops to list.")] = 12,
    format: FormatOption = Format.table,
) -> None:
    """Trace one run (or one predicted run) and write a file that ui.perfetto.dev opens."""
    choice = Step(
        step=step, batch=batch, length=length, context=context, precision=precision, dims=dim or ()
    )
    chosen = discover().target(target)
    loaded = load_module(model, choice)
    module = loaded.module
    with progress_console.status(f"{target}: compiling and tracing …"):
        options = CompileOptions(
            timeout_s=read("child_timeout"), extra=twin_options(tensor, pipeline)
        )
        executable = chosen.compile(module, options)
        is_predicted = _needs_none(chosen)
        if is_predicted and input:
            raise UsageError(f"{target} predicts its trace and looks at no inputs: drop --input")
        inputs = () if is_predicted else inputs_for(loaded, input or (), seed)
        made = executable.trace(*inputs)
    write_atomically(output, made.to_perfetto())
    longest = _longest(made, top)
    if format is Format.json:
        print_json(
            {
                "model": model,
                "target": target,
                "kind": made.kind,
                "seconds": made.seconds,
                "spans": len(made.spans),
                "note": made.note,
                "file": str(output),
                "longest": longest,
            }
        )
        return
    rows = [
        (
            f"{row['op']} on {row['unit']}" if row["unit"] else row["op"],
            row["count"],
            scaled(float(str(row["seconds"])), "s"),
            f"{row['share']:.1%}",
            row["where"],
        )
        for row in longest
    ]
    took = f"{scaled(made.seconds, 's')} {made.kind}"
    title = f"{module.name} on {target}: {took}, {len(made.spans)} spans"
    console.print(table(title, ("op", "times", "in all", "share", "where"), rows, right=(1, 2, 3)))
    if made.note:
        console.print(made.note, style="dim")
    console.print(f"{output}: open it in ui.perfetto.dev", soft_wrap=True)


def _longest(made: Trace, top: int) -> list[dict[str, object]]:
    """Spans grouped by op, unit where places have several, and layer kind (numbers in paths become
    *), longest first."""
    import re

    seconds: dict[tuple[str, str, str], float] = defaultdict(float)
    counts: dict[tuple[str, str, str], int] = defaultdict(int)
    for span in made.spans:
        place, _, unit = span.resource.rpartition("/")
        where = re.sub(r"\d+", "*", span.origin.layer) or span.origin.source
        key = (span.op, unit if place else "", where)
        seconds[key] += span.seconds
        counts[key] += 1
    total = sum(seconds.values()) or 1.0
    ordered = sorted(seconds, key=lambda key: -seconds[key])[:top]
    return [
        {
            "op": key[0],
            "unit": key[1],
            "where": key[2],
            "count": counts[key],
            "seconds": seconds[key],
            "share": seconds[key] / total,
        }
        for key in ordered
    ]


def _needs_none(target: Target) -> bool:
    """Whether a trace is a prediction, which looks at no inputs."""
    return not target.runs or bool(simulates(target))
