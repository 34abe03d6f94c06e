"""`anychip compile MODEL --target T`: a verdict per target, with its artifacts in a run folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from textwrap import fill
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from anychip.cli import unsupported
from anychip.cli.model import (
    BatchOption,
    ContextOption,
    DimOption,
    ModelArgument,
    PrecisionOption,
    PromptLengthOption,
    Step,
    StepOption,
    load_module,
)
from anychip.cli.output import (
    Format,
    FormatOption,
    console,
    print_json,
    progress_console,
    said_by_the_system,
    scaled,
    table,
)
from anychip.cli.record import remember
from anychip.cli.verdicts import Inquiry, State, Verdict
from anychip.core import (
    CompileOptions,
    Module,
    RunFolder,
    UnsupportedError,
    UsageError,
    discover,
    is_full,
)
from anychip.core.config import read
from anychip.fallback import compiler


def register(app: typer.Typer) -> None:
    app.command("compile")(compile)


def compile(
    model: ModelArgument,
    target: Annotated[
        list[str], typer.Option("--target", "-t", help="chip:how, or all; repeatable.")
    ],
    step: StepOption = "decode",
    batch: BatchOption = 1,
    context: ContextOption = 512,
    length: PromptLengthOption = 128,
    precision: PrecisionOption = "auto",
    dim: DimOption = None,
    seed: Annotated[int, typer.Option(help="Seed of made-up inputs.")] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="The compiler's own, NAME=VALUE; repeatable."),
    ] = None,
    shards: Annotated[
        str | None, typer.Option(help="Spread over devices: 8, tensor=4 or data=2,tensor=4.")
    ] = None,
    fallback: Annotated[
        str, typer.Option(help="Where ops run that the target lacks; none to refuse instead.")
    ] = "cpu:xla",
    format: FormatOption = Format.table,
) -> None:
    """Compile for one or more targets; run and check the numbers where the target can run."""
    choice = Step(
        step=step, batch=batch, length=length, context=context, precision=precision, dims=dim or ()
    )
    asks_all = target == ["all"]
    names = _targets(target)
    options = CompileOptions(timeout_s=read("child_timeout"), extra=_extra(option, shards))
    try:
        loaded = load_module(model, choice)
    except UnsupportedError as error:
        unsupported.refuse(error, model, names, format)
        raise typer.Exit(1) from None
    module = loaded.module
    registry = discover()
    inquiry = Inquiry(
        loaded=loaded,
        registry=registry,
        folder=RunFolder.new(read("runs"), "compile", model, datetime.now()),
        options=options,
        seed=seed,
        asks_all=asks_all,
        compile=compiler(registry, fallback),
    )
    verdicts = _asked(inquiry, names)
    _unless_full(
        "what anychip compare shows", lambda: remember(read("home"), model, module.name, verdicts)
    )
    document = {
        "model": model,
        "module": module.name,
        "verdicts": [vars(v) for v in verdicts],
        "run": str(inquiry.folder.path),
    }
    _unless_full("compile.json", lambda: inquiry.folder.write("compile.json", document))
    if format is Format.json:
        print_json(document)
    else:
        _show(module, verdicts, asks_all)
        console.print(f"artifacts: {inquiry.folder.path}", style="dim", soft_wrap=True)
    if any(v.is_no or (v.state != "ok" and not asks_all) for v in verdicts):
        raise typer.Exit(1)


def _unless_full(what: str, write: Callable[[], object]) -> None:
    """A verdict stands where there is no room to keep it; that is said."""
    try:
        write()
    except OSError as error:
        if not is_full(error):
            raise
        progress_console.print(f"{what}, not kept: {said_by_the_system(error)}", style="yellow")


def _extra(options: list[str] | None, shards: str | None) -> dict[str, str]:
    extra = {} if shards is None else {"shards": shards}
    for text in options or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--option {text!r} should be NAME=VALUE, such as profile=no")
        extra[name] = value
    return extra


def _targets(names: list[str]) -> list[str]:
    registry = discover()
    if "all" not in names:
        for name in names:
            registry.target(name)  # a wrong name is a usage error before any work
        return names
    if names != ["all"]:
        raise UsageError("--target all stands alone")
    broken = registry.broken()
    return [
        f"{name}:{how}"
        for name in registry.chips
        if name not in broken
        for chip in (registry.chip(name),)
        for how in sorted({*chip.targets, *chip.absent})
    ]


def _asked(inquiry: Inquiry, names: list[str]) -> list[Verdict]:
    columns = (
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=progress_console, transient=True) as progress:
        bar = progress.add_task("", total=len(names))
        busy: dict[str, None] = {}

        def tell(name: str, is_done: bool) -> None:
            if is_done:
                busy.pop(name, None)
            else:
                busy[name] = None
            said = ", ".join(list(busy))
            progress.update(bar, advance=1 if is_done else 0, description=said)

        return inquiry.ask(names, tell)


def _show(module: Module, verdicts: list[Verdict], is_all: bool) -> None:
    """Compilers first; when all were asked, twins that say the same and what is absent in short."""
    twins = [v for v in verdicts if is_all and v.target.endswith(":twin")]
    absent = [v for v in verdicts if v.state in ("absent", "missing") and is_all]
    asked = [v for v in verdicts if v not in twins and v not in absent]
    asked.sort(key=lambda v: (not v.ran, not v.compiled))
    rows = [
        (v.target, _yes(v), _outcome(v), scaled(v.seconds, "s"), _short(v.error) or v.summary)
        for v in asked
    ]
    columns = ("target", "compiled", "numbers", "time", "ops, or why not")
    if rows:
        console.print(table(module.name, columns, rows, right=(3,)))
    if twins:
        console.print(table("Twins", ("chips", "ops, or why not"), _grouped(twins)))
    for one in (v for v in verdicts if v.not_kept):
        console.print(f"{one.target}: not kept: {one.not_kept}", style="yellow", soft_wrap=True)
    if absent:
        console.print(table("Not asked", ("targets", "why"), _grouped(absent)))


def _grouped(verdicts: list[Verdict]) -> list[tuple[str, Text]]:
    """(names, what all of them said), the largest group first."""
    groups: dict[tuple[State, str], list[str]] = defaultdict(list)
    for one in verdicts:
        said = one.error or one.summary
        groups[one.state, said].append(one.target.removesuffix(":twin"))
    return [
        (fill(", ".join(names), 48), Text(said, style="red" if state == "refused" else ""))
        for (state, said), names in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _short(error: str | None, limit: int = 240) -> str:
    text = " ".join((error or "").split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _yes(verdict: Verdict) -> Text:
    if verdict.state in ("missing", "absent"):
        return Text("–", style="dim")
    return Text("yes", style="green") if verdict.compiled else Text("no", style="red")


def _outcome(verdict: Verdict) -> Text:
    if verdict.matched is None:
        return Text("compiled, not run" if verdict.compiled else "–", style="dim")
    style = "green" if verdict.matched else "red"
    word = "match" if verdict.matched else "differ"
    if verdict.tolerance is None:
        return Text(f"{word} (max rel {verdict.max_rel_err:.1e})", style=style)
    cell = Text(f"{word} (rel {verdict.rel_err:.1e} of {verdict.tolerance:.1e})", style=style)
    return cell.append(f"\n{verdict.simulated}", style="dim") if verdict.simulated else cell
