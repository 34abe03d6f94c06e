"""`anychip simulate MODEL --target SYSTEM`: a server under traffic, on a virtual clock."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from anychip.cli.curve import curve
from anychip.cli.model import ModelArgument
from anychip.cli.output import (
    Format,
    FormatOption,
    console,
    print_json,
    progress_console,
    scaled,
    table,
)
from anychip.core import LanguageModel, RunFolder, UsageError, discover
from anychip.core.config import read

BARS = " ▁▂▃▄▅▆▇█"


def register(app: typer.Typer) -> None:
    app.command("simulate")(simulate)


def simulate(
    model: ModelArgument,
    target: Annotated[str, typer.Option(help="A system or a chip: dgx-h100, h100:twin.")],
    requests: Annotated[int, typer.Option(help="How many.")] = 1000,
    rate: Annotated[float | None, typer.Option(help="Arrivals a second (Poisson).")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Users who ask again at once.")] = None,
    input: Annotated[int, typer.Option(help="Tokens in a prompt, in the mean.")] = 1024,
    output: Annotated[int, typer.Option(help="Tokens in an answer, in the mean.")] = 256,
    spread: Annotated[float, typer.Option(help="Lengths vary by this share.")] = 0.1,
    trace: Annotated[
        Path | None, typer.Option(help="CSV with arrival_s, prompt, answer, instead.")
    ] = None,
    stack: Annotated[str, typer.Option(help="tuned, vllm, trtllm or sglang.")] = "tuned",
    chunk: Annotated[int | None, typer.Option(help="Most tokens in a step.")] = None,
    sequences: Annotated[int | None, typer.Option(help="Most answers in flight a copy.")] = None,
    tensor: Annotated[int | None, typer.Option(help="Chips that share one copy.")] = None,
    copies: Annotated[int, typer.Option(help="Copies of the model.")] = 1,
    precision: Annotated[str, typer.Option(help="auto, or bf16, fp8, …")] = "auto",
    speculate: Annotated[
        str | None, typer.Option(help="Chances that a step gives 1, 2, … tokens: 0.3,0.3,0.4.")
    ] = None,
    mtp: Annotated[
        str | None, typer.Option(help="Multi-token prediction: each head's acceptance, 0.85,0.7.")
    ] = None,
    draft: Annotated[
        float | None, typer.Option(help="Cost of a guess over a step's; one layer by default.")
    ] = None,
    disaggregate: Annotated[
        str | None, typer.Option(help="P:D, copies for prompts and for answers.")
    ] = None,
    slo_ttft: Annotated[float, typer.Option(help="Limit of goodput, seconds.")] = 1.0,
    slo_tpot: Annotated[float, typer.Option(help="Limit of goodput, seconds.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the traffic.")] = 0,
    format: FormatOption = Format.table,
) -> None:
    """Serve requests on a chip one need not have: what its users would see. Simulated, not run."""
    import anychip
    from anychip.frontends.llm import PRECISIONS
    from anychip.mapper.deployment import deploy
    from anychip.mapper.traffic import goodput, read_trace, run, timeline, traffic

    if trace is not None:
        if rate is not None or concurrency is not None:
            raise UsageError("a trace has its own arrivals: leave --rate and --concurrency out")
        demand = read_trace(trace)
    else:
        demand = traffic(
            requests, input, output, rate=rate, concurrency=concurrency, spread=spread, seed=seed
        )
    loaded = anychip.load(model)
    if not isinstance(loaded, LanguageModel):
        raise UsageError(f"{model} is no language model; simulate knows prompts and answers only")
    longest = int((demand.prompts + demand.answers).max())
    if longest > loaded.facts.context:
        raise UsageError(f"{longest} tokens, but {model} was made for {loaded.facts.context}")
    if speculate and mtp:
        raise UsageError("--speculate and --mtp both say how guesses are made: give one")
    accepted = chances(speculate) if speculate else heads(mtp) if mtp else None
    prompts, answers = disaggregated(disaggregate) if disaggregate else (0, copies)
    with progress_console.status(f"{model} on {target}: step times, then requests …"):
        placed = deploy(
            loaded,
            target,
            discover(),
            PRECISIONS,
            longest=longest,
            precision=precision,
            tensor=tensor,
            stack=stack,
            step_tokens=chunk,
            sequences=sequences,
        )
        fleet = placed.fleet(
            copies=answers,
            prefill=prompts,
            accepted=accepted,
            draft_share=draft,
        )
        start = time.perf_counter()
        served = run(fleet, demand)
        took = time.perf_counter() - start
    seen = timeline(served, demand.prompts)
    good, share = goodput(served, slo_ttft, slo_tpot)
    room = fleet.pace.cache_tokens * answers
    document: dict[str, Any] = {
        "model": model,
        "kind": "simulated",
        **placed.to_json(),
        "copies": answers,
        "prefill_copies": prompts,
        "chips": placed.chips * (answers + prompts),
        "requests": len(demand.prompts),
        "served_in_s": float(served.ended_s.max() - served.arrived_s.min()),
        "simulated_in_s": took,
        "steps": served.steps,
        "ttft_s": percentiles(served.ttft_s),
        "tpot_s": percentiles(served.tpot_s),
        "e2e_s": percentiles(served.ended_s - served.arrived_s),
        "tok_s": served.tok_s,
        "steady_tok_s": served.steady_tok_s,
        "goodput": {
            "requests_s": good,
            "share": share,
            "slo_ttft_s": slo_ttft,
            "slo_tpot_s": slo_tpot,
        },
        "cache": {
            "room_tokens": room if np.isfinite(room) else None,
            "peak_tokens": float(seen.cache_tokens.max()),
            "peak_share": float(seen.cache_tokens.max() / room),
        },
        "estimates": placed.estimates(served, placed.chips * (answers + prompts)),
        "timeline": {
            "at_s": seen.at_s.tolist(),
            "waiting": seen.waiting.tolist(),
            "streaming": seen.streaming.tolist(),
            "cache_tokens": seen.cache_tokens.tolist(),
        },
    }
    folder = RunFolder.new(read("runs"), "simulate", f"{model}-{target}", datetime.now())
    folder.write("simulate.json", document)
    page = folder.write("simulate.html", _page(f"{model} on {target}", document))
    if format is Format.json:
        print_json({**document, "run": str(folder.path)})
        return
    show(document)
    console.print(f"picture: {page}", soft_wrap=True)


def percentiles(values: np.ndarray) -> dict[str, float | None]:
    """Mean, and the 50th, 90th and 99th percentile; None when there are no values."""
    if not len(values):
        return dict.fromkeys(("mean", "p50", "p90", "p99"))
    named = zip((50, 90, 99), np.percentile(values, (50, 90, 99)), strict=True)
    return {"mean": float(values.mean()), **{f"p{n}": float(value) for n, value in named}}


def disaggregated(text: str) -> tuple[int, int]:
    """ "2:6" as (2, 6). Raises UsageError for anything else."""
    left, _, right = text.partition(":")
    if not (left.isdigit() and right.isdigit() and int(left) and int(right)):
        raise UsageError(f"--disaggregate {text!r}: expected P:D, two numbers of copies, as 2:6")
    return int(left), int(right)


def chances(text: str) -> tuple[float, ...]:
    """ "0.3,0.7" as numbers. Raises UsageError for anything else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r}: expected chances such as 0.3,0.3,0.4") from None


def heads(text: str) -> tuple[float, ...]:
    """Chances of 1, 2, … tokens when each head's guess is taken so often, given that those before
    it were (DeepSeek-V3, arXiv:2412.19437, 5.4.3: 0.85 to 0.9 for one head)."""
    taken = chances(text)
    if not all(0 <= one <= 1 for one in taken):
        raise UsageError(f"--mtp {text!r}: acceptances lie between 0 and 1")
    so_far, made = 1.0, list[float]()
    for one in taken:
        made.append(so_far * (1 - one))
        so_far *= one
    return (*made, so_far)


def show(document: dict[str, Any]) -> None:
    """The result for people: percentiles, throughput, and how full the server was."""
    rows = [
        (name, *(scaled(value, "s") if value is not None else "–" for value in each.values()))
        for name, each in (
            ("time to first token", document["ttft_s"]),
            ("time per token", document["tpot_s"]),
            ("whole request", document["e2e_s"]),
        )
    ]
    apart = document["prefill_copies"]
    copies = f"{document['copies']} x {document['shards']}"
    copies = f"{apart} + {copies} (prompts apart)" if apart else copies
    title = f"{document['model']} on {document['system']}: {copies}, {document['precision']}"
    console.print(table(title, ("", "mean", "p50", "p90", "p99"), rows, right=(1, 2, 3, 4)))
    good, cache, lines = document["goodput"], document["cache"], document["timeline"]
    console.print(
        f"{document['requests']} requests in {scaled(document['served_in_s'], 's')} of simulated "
        f"time: {document['tok_s']:.0f} tok/s, {document['tok_s'] / document['chips']:.0f} a chip"
    )
    console.print(
        f"goodput {good['requests_s']:.2f} requests/s: {good['share']:.0%} had their first token "
        f"in {scaled(good['slo_ttft_s'], 's')} and others every {scaled(good['slo_tpot_s'], 's')}"
    )
    console.print(f"KV cache at most {cache['peak_share']:.0%} full")
    for name in ("waiting", "streaming"):
        console.print(f"{name:<10} {spark(lines[name])} at most {max(lines[name])}")
    console.print(
        f"simulated, not run: {document['stack']}'s scheduler on a virtual clock, "
        f"{document['steps']} steps in {scaled(document['simulated_in_s'], 's')}",
        style="dim",
    )


def spark(values: list[float], width: int = 60) -> str:
    """A line of bars, the tallest of each stretch, the highest of all full."""
    parts = [part.max() for part in np.array_split(np.array(values, float), width) if len(part)]
    most = max(max(parts), 1e-12)
    return "".join(BARS[round(float(part) / most * (len(BARS) - 1))] for part in parts)


def _page(title: str, document: dict[str, Any]) -> str:
    lines = document["timeline"]
    charts = [
        curve(
            [
                (f"{t:.3g} s", value, f"{t:.3g} s: {value:g} {unit}")
                for t, value in zip(lines["at_s"], lines[key], strict=True)
            ],
            title=f"{title}: {name}",
            unit=unit,
        )
        for key, name, unit in (
            ("waiting", "requests that wait for their first token", "requests"),
            ("streaming", "requests whose answers stream", "requests"),
            ("cache_tokens", "KV cache", "tokens"),
        )
    ]
    body = "".join(f"<p>{chart}</p>" for chart in charts)
    return f"<!doctype html><meta charset=utf-8><title>{title}</title>{body}"
