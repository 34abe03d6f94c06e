"""`anychip demo`: what `make run` does. A real small model, every chip, an answer, and a report."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from anychip.cli.answer import Ask, answer_prompts, fastest, why_not_native
from anychip.cli.compare import comparison, show
from anychip.cli.output import console, keep
from anychip.cli.pull import pull_with_progress
from anychip.cli.report import render_report
from anychip.core import LanguageModel, RunFolder, machine_name
from anychip.core.config import read

SMALL, LARGE = "smollm2-135m", "llama-3.1-70b"


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to ask.")] = (
        "What is the capital of France, and what is it known for?"
    ),
) -> None:
    """Pull a small real model, compare it and a large one on every chip, and answer a prompt."""
    import anychip

    run = RunFolder.new(read("runs"), "demo", SMALL, datetime.now())
    console.rule(f"1. A real small model: {SMALL}")
    pulled = pull_with_progress(SMALL)
    state = "already here" if pulled.reused else "fetched"
    console.print(
        f"{pulled.model.title}: {state} and verified, {pulled.model.bytes / 1e6:.0f} MB, "
        f"licence {pulled.model.licence}"
    )
    why, target = why_not_native(), fastest()
    console.rule(f"2. It answers, on this host, through {target}")
    if why:
        console.print(f"[dim]{why}[/dim]")
    model = anychip.load(SMALL)
    assert isinstance(model, LanguageModel)
    ask = Ask(max_new=80, chat=True)
    answer = answer_prompts(model, target, [prompt], ask, stream=True)
    keep(run, {"answer.json": answer})
    console.print("[dim]" + ", ".join(f"{k} {v}" for k, v in answer["figures"].items()) + "[/dim]")
    console.rule("3. The same model on every chip; this host measured")
    small = comparison(SMALL, prompt=256, generate=64, batch=1, objective="latency")
    keep(run, {f"compare-{SMALL}.json": small})
    show(small)
    console.rule(f"4. A model that does not fit here: {LARGE}, by shape only")
    large = comparison(LARGE, prompt=1024, generate=256, batch=8, objective="cost")
    keep(run, {f"compare-{LARGE}.json": large})
    show(large)
    page = render_report(
        "anychip: one model, every chip",
        [small, large],
        transcript={**answer, "model": SMALL},
        machine=machine_name(),
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        command="make run",
    )
    unkept = keep(run, {"report.html": page})
    console.rule("Done")
    if not unkept:
        report = (run.path / "report.html").resolve()
        console.print(f"Report (open it in a browser): {report}", soft_wrap=True)
