"""`anychip simulate MODEL --target SYSTEM`: a server under traffic, on a virtual clock."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from anychip.cli.lines import lines, shares
from anychip.cli.model import ModelArgument
from anychip.cli.output import (
    Format,
    FormatOption,
    console,
    keep,
    print_json,
    progress_console,
    quantity,
    scaled,
    table,
)
from anychip.core import LanguageModel, RunFolder, UsageError, discover
from anychip.core.config import read

if TYPE_CHECKING:
    from anychip.mapper.deployment import Deployment
    from anychip.mapper.serving import Demand, Served

BARS = " ▁▂▃▄▅▆▇█"
TIMES = (
    ("ttft_s", "time to first token"),
    ("tpot_s", "time per token"),
    ("e2e_s", "whole request"),
)
PERCENTILES = ("p10", "p50", "p90", "p99")
RATES = (
    ("tok_s", "tokens a second, all copies"),
    ("chip_tok_s", "tokens a second and chip"),
    ("user_tok_s", "tokens a second and user"),
    ("requests_s", "requests a second"),
    ("goodput_requests_s", "… within both limits"),
    ("mean_batch", "answers in a decode step"),
    ("cache_peak_share", "KV cache, fullest (1 is all)"),
    ("j_per_tok", "J a token, at the wall"),
    ("wall_w", "W at the wall, all chips"),
    ("usd_per_mtok", "USD a million tokens"),
)


def register(app: typer.Typer) -> None:
    app.command("simulate")(simulate)


def simulate(
    context: typer.Context,
    model: ModelArgument,
    target: Annotated[str, typer.Option(help="A system or a chip: dgx-h100, h100:twin.")],
    requests: Annotated[int, typer.Option(help="How many.")] = 1000,
    rate: Annotated[float | None, typer.Option(help="Arrivals a second (Poisson).")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Users who ask again at once.")] = None,
    prompt: Annotated[
        str, typer.Option(help="Tokens: 1024, uniform:A,B, normal:M,S, lognormal:M,SIGMA, …")
    ] = "1024",
    generate: Annotated[str, typer.Option(help="Tokens of an answer, likewise.")] = "256",
    spread: Annotated[float, typer.Option(help="Plain lengths vary by this share.")] = 0.1,
    trace: Annotated[
        Path | None, typer.Option(help="CSV with arrival, prompt, generate, instead.")
    ] = None,
    stack: Annotated[str, typer.Option(help="tuned, vllm, tensorrt-llm, sglang, …")] = "tuned",
    chunk: Annotated[int | None, typer.Option(help="Most tokens in a step.")] = None,
    sequences: Annotated[int | None, typer.Option(help="Most answers in flight a copy.")] = None,
    tensor: Annotated[int | None, typer.Option(help="Chips that share one copy.")] = None,
    pipeline: Annotated[
        int | None, typer.Option(help="Stages of a copy, one after another.")
    ] = None,
    copies: Annotated[int, typer.Option(help="Copies of the model.")] = 1,
    precision: Annotated[str, typer.Option(help="auto, or bf16, fp8, …")] = "auto",
    accept: Annotated[
        str | None,
        typer.Option(help="Guesses taken, by position (0.8,0.6), or tokens a step (2.4)."),
    ] = None,
    guesses: Annotated[int | None, typer.Option(help="Guesses a step, for a mean.")] = None,
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
    from anychip.mapper.accept import accepted
    from anychip.mapper.deployment import deploy
    from anychip.mapper.figures import Limits, figures
    from anychip.mapper.traffic import goodput, read_trace, run, timeline, traffic

    if trace is not None:
        if rate is not None or concurrency is not None:
            raise UsageError("a trace has its own arrivals: leave --rate and --concurrency out")
        for name in ("requests", "prompt", "generate", "spread", "seed"):
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise UsageError(f"a trace has its own requests: leave --{name} out")
        demand = read_trace(trace)
    else:
        demand = traffic(
            requests, prompt, generate, rate=rate, concurrency=concurrency, spread=spread, seed=seed
        )
    if guesses is not None and accept is None:
        raise UsageError("--guesses are those of --accept")
    taken = accepted(accept, guesses) if accept else None
    if disaggregate and copies != 1:
        raise UsageError("--disaggregate P:D says how many copies there are: leave --copies out")
    prompts, answers = disaggregated(disaggregate) if disaggregate else (0, copies)
    loaded = anychip.load(model)
    if not isinstance(loaded, LanguageModel):
        raise UsageError(f"{model} is no language model; simulate knows prompts and answers only")
    longest = int((demand.prompts + demand.answers).max())
    if longest > loaded.facts.context:
        raise UsageError(
            f"a request of {longest} tokens, but {model} was made for {loaded.facts.context}"
        )
    with progress_console.status(f"{model} on {target}: step times, then requests …"):
        placed = deploy(
            loaded,
            target,
            discover(),
            PRECISIONS,
            longest=longest,
            precision=precision,
            tensor=tensor,
            pipeline=pipeline,
            stack=stack,
            step_tokens=chunk,
            sequences=sequences,
        )
        fleet = placed.fleet(copies=answers, prefill=prompts, accepted=taken, draft_share=draft)
        start = time.perf_counter()
        served = run(fleet, demand)
        took = time.perf_counter() - start
        limits = Limits(ttft_s=slo_ttft, tpot_s=slo_tpot)
        proof = falsify(placed, demand, prompts)
        estimates = figures(placed, fleet, demand, served, limits, proof)
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
        "prompt_tokens": float(demand.prompts.mean()),
        "answer_tokens": float(demand.answers.mean()),
        "accepted": list(taken) if taken else None,
        "served_in_s": float(served.ended_s.max() - served.arrived_s.min()),
        "simulated_in_s": took,
        "steps": served.steps,
        **{name: percentiles(values) for name, values in _times(served).items()},
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
        "estimates": {name: one.to_json() for name, one in estimates.items()},
        "timeline": {
            "at_s": seen.at_s.tolist(),
            "waiting": seen.waiting.tolist(),
            "streaming": seen.streaming.tolist(),
            "cache_tokens": seen.cache_tokens.tolist(),
        },
    }
    folder = RunFolder.new(read("runs"), "simulate", f"{model}-{target}", datetime.now())
    page = _page(f"{model} on {target}", document, served)
    unkept = keep(folder, {"simulate.json": document, "simulate.html": page})
    if format is Format.json:
        print_json({**document, "run": str(folder.path), "not_kept": unkept})
        return
    show(document)
    if not unkept:
        console.print(f"picture: {folder.path}/simulate.html", soft_wrap=True)


def _times(served: Served) -> dict[str, np.ndarray]:
    whole = served.ended_s - served.arrived_s
    return {"ttft_s": served.ttft_s, "tpot_s": served.tpot_s, "e2e_s": whole}


def percentiles(values: np.ndarray) -> dict[str, float | None]:
    """Mean, and the 10th, 50th, 90th and 99th percentile; None when there are no values."""
    if not len(values):
        return dict.fromkeys(("mean", *PERCENTILES))
    at = [float(name[1:]) for name in PERCENTILES]
    named = zip(PERCENTILES, np.percentile(values, at), strict=True)
    return {"mean": float(values.mean()), **{name: float(value) for name, value in named}}


def falsify(placed: Deployment, demand: Demand, prefill: int) -> str:
    """The load generator's command that would prove it wrong, for who has the chips. A trace's
    arrivals are stood in for by their rate, lengths by their means."""
    model = placed.model
    name = model.source if re.fullmatch(r"[\w.-]+/[\w.-]+", model.source) else model.name
    from anychip.mapper.stacks import OWN

    if placed.stack.name == OWN.name and placed.chip == "cpu" and demand.arrivals_s is None:
        words = ["python", "bench/engine_twin.py", "--model", model.name]
        words += ["--precision", placed.precision.name, "--users", str(demand.concurrency)]
        words += ["--prompt", f"{demand.prompts.mean():.0f}"]
        words += ["--generate", f"{demand.answers.mean():.0f}"]
        return shlex.join([*words, "--requests", str(len(demand.prompts))])
    words = ["vllm", "bench", "serve", "--model", name, "--dataset-name", "random"]
    words += ["--random-input-len", f"{demand.prompts.mean():.0f}"]
    words += ["--random-output-len", f"{demand.answers.mean():.0f}", "--ignore-eos"]
    words += ["--num-prompts", str(len(demand.prompts))]
    if demand.arrivals_s is None:
        words += ["--max-concurrency", str(demand.concurrency)]
    else:
        span = float(demand.arrivals_s.max()) or 1.0
        words += ["--request-rate", f"{len(demand.prompts) / span:.6g}"]
    words += ["--percentile-metrics", "ttft,tpot,e2el", "--metric-percentiles", "10,50,90,99"]
    apart = f", {prefill} {'copy' if prefill == 1 else 'copies'} for prompts" if prefill else ""
    return f"{shlex.join(words)}  # against {placed.stack.name} on {placed.system.name}{apart}"


def disaggregated(text: str) -> tuple[int, int]:
    """ "2:6" as (2, 6). Raises UsageError for anything else."""
    left, _, right = text.partition(":")
    if not (left.isdigit() and right.isdigit() and int(left) and int(right)):
        raise UsageError(f"--disaggregate {text!r}: expected P:D, two numbers of copies, as 2:6")
    return int(left), int(right)


def show(document: Mapping[str, Any]) -> None:
    """The result for people: percentiles and rates with intervals, and how full the server was."""
    found, apart = document["estimates"], document["prefill_copies"]
    rows = [
        (label, *(quantity(found.get(f"{key}.{name}"), "s") for name in PERCENTILES))
        for key, label in TIMES
    ]
    copies = f"{document['copies']} x {document['shards']}"
    copies = f"{apart} + {copies} (prompts apart)" if apart else copies
    title = f"{document['model']} on {document['system']}: {copies}, {document['precision']}"
    heads = ("", "p10", "median", "p90", "p99")
    console.print(table(title, heads, rows, right=(1, 2, 3, 4)))
    rates = [(label, quantity(found[key], "")) for key, label in RATES if key in found]
    console.print(table("", ("", "mean"), rates, right=(1,)))
    good, seen = document["goodput"], document["timeline"]
    console.print(
        f"{document['requests']} requests in {scaled(document['served_in_s'], 's')} of simulated "
        f"time; {good['share']:.1%} had their first token in {scaled(good['slo_ttft_s'], 's')} and "
        f"others every {scaled(good['slo_tpot_s'], 's')}"
    )
    for name in ("waiting", "streaming"):
        console.print(f"{name:<10} {spark(seen[name])} at most {max(seen[name])}")
    console.print(
        f"simulated, not run: {document['stack']}'s scheduler on a virtual clock, "
        f"{document['steps']} steps in {scaled(document['simulated_in_s'], 's')}; "
        "below each figure its 80 % interval",
        style="dim",
    )
    console.print(f"falsify: {found['ttft_s']['falsify']}", style="dim", soft_wrap=True)


def _labelled(found: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(what it is in words, its unit, the figure) of every figure."""
    names = {key: (label, "s") for key, label in TIMES} | {key: (label, "") for key, label in RATES}
    rows: list[tuple[str, str, Mapping[str, Any]]] = []
    for key, one in found.items():
        base, _, part = key.partition(".")
        label, unit = names.get(base, (base, ""))
        of = {"": ", mean" if unit else "", "p50": ", median"}.get(part, f", {part[1:]} % below")
        rows.append((label + of, unit, one))
    return rows


def _said(value: float, unit: str) -> str:
    return scaled(value, unit) if unit else f"{value:,.3g}" if value < 100 else f"{value:,.0f}"


def spark(values: list[float], width: int = 60) -> str:
    """A line of bars, the tallest of each stretch, the highest of all full."""
    parts = [part.max() for part in np.array_split(np.array(values, float), width) if len(part)]
    most = max(max(parts), 1e-12)
    return "".join(BARS[round(float(part) / most * (len(BARS) - 1))] for part in parts)


def _page(title: str, document: Mapping[str, Any], served: Served) -> str:
    """Distributions of the three times, and the server over time."""
    limits = {
        "ttft_s": document["goodput"]["slo_ttft_s"],
        "tpot_s": document["goodput"]["slo_tpot_s"],
    }
    charts = [
        lines(
            [("", *shares(values))],
            title=f"{label}: share of requests",
            x="seconds",
            y="share",
            limit=limits.get(key),
        )
        for key, label in TIMES
        if len(values := _times(served)[key])
    ]
    seen = document["timeline"]
    charts += [
        lines([(key, seen["at_s"], seen[key]) for key in keys], title=name, x="seconds", y=unit)
        for keys, name, unit in (
            (("waiting", "streaming"), "requests in flight", "requests"),
            (("cache_tokens",), "KV cache in use, all copies", "tokens"),
        )
    ]
    said = "".join(
        f"<tr><td>{escape(label)}</td>"
        + "".join(f"<td>{_said(one[end], unit)}</td>" for end in ("value", "low", "high"))
        + "</tr>"
        for label, unit, one in _labelled(document["estimates"])
    )
    heads = "<tr><th></th><th>value</th><th>low</th><th>high</th></tr>"
    head = document["estimates"]["ttft_s"]
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<title>{escape(title)}</title><style>body {{ font: 15px/1.5 system-ui, sans-serif; "
        "margin: 2rem auto; max-width: 1180px } td, th { padding: 0 1rem; text-align: right } "
        "td:first-child { text-align: left }</style>"
        f"<h1>{escape(title)}, simulated</h1><p>{escape(head['provenance'])}. Dashed: the limits "
        f"of goodput.</p>{''.join(charts)}<h2>Figures and their 80 % intervals</h2>"
        f"<table>{heads}{said}</table>"
        f"<p>To prove it wrong: <code>{escape(head['falsify'])}</code></p></html>"
    )
