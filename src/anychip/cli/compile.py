"""`anychip compile MODEL --target T`: a verdict per target, with its artifacts in a run folder."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.live import Live

from anychip.cli import unsupported
from anychip.cli.asking import Asked, Limit, ask, interruptible, said, unasked
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
    unless_full,
)
from anychip.cli.record import remember
from anychip.cli.verdict_table import Growing, show
from anychip.cli.verdicts import Inquiry, Verdict
from anychip.core import (
    CompileOptions,
    PluginError,
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
    time_limit: Annotated[
        float | None,
        typer.Option(help="Seconds, loading included, after which no more is asked.", min=0),
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Compile for one or more targets; run and check the numbers where the target can run."""
    limit = Limit(
        seconds=math.inf if time_limit is None else time_limit, start_s=time.perf_counter()
    )
    choice = Step(
        step=step, batch=batch, length=length, context=context, precision=precision, dims=dim or ()
    )
    asks_all = target == ["all"]
    names = _targets(target)
    options = CompileOptions(timeout_s=read("child_timeout"), extra=_extra(option, shards))
    registry = discover()
    answer = _Answer(model, RunFolder.new(read("runs"), "compile", model, datetime.now()))
    with interruptible():
        try:
            loaded = load_module(model, choice)
        except UnsupportedError as error:
            unsupported.refuse(error, model, names, format)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as interruption:
            why = said(interruption)
            asked = Asked(verdicts=[unasked(n, why) for n in names], cut_short=why)
        else:
            answer.module = loaded.module.name
            inquiry = Inquiry(
                loaded=loaded,
                registry=registry,
                folder=answer.folder,
                options=options,
                seed=seed,
                asks_all=asks_all,
                compile=compiler(registry, fallback),
            )
            asked = _asked(inquiry, names, limit, answer)
    answer.keep(asked.verdicts, asked.cut_short)
    if format is Format.json:
        print_json(answer.document(asked.verdicts, asked.cut_short))
    else:
        show(answer.module or model, asked.verdicts, is_all=asks_all)
        if asked.cut_short:
            missing = sum(v.state == "unasked" for v in asked.verdicts)
            console.print(f"{asked.cut_short}: {missing} of {len(names)} not asked", style="yellow")
        console.print(f"artifacts: {answer.folder.path}", style="dim", soft_wrap=True)
    code = _exit_code(asked, asks_all)
    if asked.is_working:  # in a thread of ours, which the interpreter cannot end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


def _exit_code(asked: Asked, asks_all: bool) -> int:
    """A compiler's no, or numbers that differ, are a no; an answer cut short is none."""
    if any(v.is_no for v in asked.verdicts):
        return 1
    if asked.cut_short:
        return 2
    return int(not asks_all and any(v.state != "ok" for v in asked.verdicts))


@dataclass
class _Answer:
    """What was said so far, on disk each time a target has answered."""

    model: str
    folder: RunFolder
    module: str | None = None
    verdicts: list[Verdict] = field(default_factory=list[Verdict])

    def hear(self, verdict: Verdict) -> None:
        """Keep a verdict among the others; nothing is said where there is no room."""
        self.verdicts.append(verdict)
        if verdict.state not in ("ok", "refused"):
            return
        try:
            remember(read("home"), self.model, self.module or "", [verdict])
            self._write(self.verdicts, "not ended")
        except OSError as error:
            if not is_full(error):
                raise

    def keep(self, verdicts: Sequence[Verdict], cut_short: str) -> None:
        """Keep the whole answer, and what `anychip compare` shows; a full disk is said."""
        module = self.module
        if module is not None:
            unless_full(
                "what anychip compare shows",
                lambda: remember(read("home"), self.model, module, verdicts),
            )
        unless_full("compile.json", lambda: self._write(verdicts, cut_short))

    def _write(self, verdicts: Sequence[Verdict], cut_short: str) -> None:
        self.folder.write("compile.json", self.document(verdicts, cut_short))

    def document(self, verdicts: Sequence[Verdict], cut_short: str) -> dict[str, Any]:
        return {
            "model": self.model,
            "module": self.module,
            "verdicts": [vars(v) for v in verdicts],
            "cut_short": cut_short or None,
            "run": str(self.folder.path),
        }


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
    found: list[str] = []
    for name in registry.chips:
        try:
            chip = registry.chip(name)
        except PluginError as error:  # `anychip doctor` has it too
            progress_console.print(f"{name}: left out: {error}", style="yellow", soft_wrap=True)
            continue
        found += [f"{name}:{how}" for how in sorted({*chip.targets, *chip.absent})]
    return found


def _asked(inquiry: Inquiry, names: list[str], limit: Limit, answer: _Answer) -> Asked:
    growing = Growing(inquiry.loaded.module.name, len(names))

    def tell(name: str, verdict: Verdict | None) -> None:
        growing.hear(name, verdict)
        if verdict is not None:
            answer.hear(verdict)

    with Live(growing, console=progress_console, transient=True):
        return ask(inquiry, names, tell, limit=limit)
