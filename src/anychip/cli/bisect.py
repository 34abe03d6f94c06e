"""`anychip bisect MODEL TARGET`: the first op that is wrong there, or that does not compile."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

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
from anychip.cli.output import Format, FormatOption, console, print_json, progress_console
from anychip.core import CompileOptions, discover, unknown
from anychip.core.config import read
from anychip.debug import bisect as search
from anychip.debug import does_not_compile, is_wrong
from anychip.fallback import compiler

PREDICATES = ("wrong", "does-not-compile")


def register(app: typer.Typer) -> None:
    app.command("bisect")(bisect)


def bisect(
    model: ModelArgument,
    target: Annotated[str, typer.Argument(help="The target to doubt: chip:how.")],
    predicate: Annotated[str, typer.Option(help="wrong or does-not-compile.")] = "wrong",
    against: Annotated[str, typer.Option(help="The reference of wrong.")] = "cpu:xla",
    threshold: Annotated[float, typer.Option(help="Relative error that is wrong.")] = 1e-3,
    fallback: Annotated[
        str, typer.Option(help="Of wrong: where ops run that the target lacks; none to refuse.")
    ] = "cpu:xla",
    step: StepOption = "prefill",
    batch: BatchOption = 1,
    context: ContextOption = 64,
    length: PromptLengthOption = 16,
    precision: PrecisionOption = "auto",
    dim: DimOption = None,
    input: InputOption = None,
    seed: Annotated[int, typer.Option(help="Seed of made-up inputs.")] = 0,
    format: FormatOption = Format.table,
) -> None:
    """Cut the program in halves until the first op is found that is wrong, or does not compile."""
    if predicate not in PREDICATES:
        raise unknown("predicate", predicate, PREDICATES)
    choice = Step(
        step=step, batch=batch, length=length, context=context, precision=precision, dims=dim or ()
    )
    registry = discover()
    doubted = registry.target(target)
    options = CompileOptions(timeout_s=read("child_timeout"))
    with progress_console.status(f"loading {model} …") as status:
        loaded = load_module(model, choice)
        if predicate == "wrong":
            inputs = inputs_for(loaded, input or (), seed)
            asked = is_wrong(
                registry.target(against),
                doubted,
                inputs,
                threshold=threshold,
                options=options,
                compile=compiler(registry, fallback),
            )
        else:
            asked = does_not_compile(doubted, options)
        found = search(loaded.module, asked, lambda what: status.update(f"{target}: {what} …"))
    document = {
        "model": model,
        "target": target,
        "predicate": predicate,
        "against": against if predicate == "wrong" else None,
        "culprit": None if found is None else asdict(found),
    }
    if format is Format.json:
        print_json(document)
    elif found is None:
        console.print(f"{model} on {target}: no op found ({predicate})")
    else:
        console.print(
            f"[bold]{found.op}[/bold] at {found.origin}, op {found.index + 1} of {found.of}: "
            f"{found.why} ({found.trials} trials)",
            soft_wrap=True,
        )
    if found is not None:
        raise typer.Exit(1)
