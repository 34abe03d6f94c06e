"""`anychip bench-llm MODEL`: tokens a second on this host, beside its memory's own pace."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from anychip.cli.answer import Ask, fastest, precision_for
from anychip.cli.model import ModelArgument, PrecisionOption, require_values
from anychip.cli.output import (
    Format,
    FormatOption,
    console,
    print_json,
    progress_console,
    quantity,
    table,
)
from anychip.core import CompileOptions, LanguageModel, SetupError, Target, UsageError, discover
from anychip.core.config import read

POWERCAP = Path("/sys/class/powercap")


def register(app: typer.Typer) -> None:
    app.command("bench-llm")(bench_llm)


def _threads(target: Target) -> int:
    """How many threads the target takes when nobody says."""
    choice = getattr(target, "thread_choice", None)
    return choice().threads if choice else len(os.sched_getaffinity(0))


def _read_sum(threads: int) -> tuple[Callable[[], object], float, str]:
    """A sum over 256 MB on so many threads: (run, bytes, whose sum it is). XLA's is the slower one,
    for where cpu:native's threads do not run."""
    from anychip.chips.cpu.measure import read_sum
    from anychip.compilers.native import roof

    try:
        return *roof.read_sum(1 << 28, threads), "cpu:native's sum"
    except SetupError:
        return *read_sum(1 << 28, threads), "XLA's sum"


def bench_llm(
    model: ModelArgument,
    target: Annotated[
        str, typer.Option("--target", "-t", help="chip:how; auto: the fastest that runs here.")
    ] = "auto",
    batch: Annotated[int, typer.Option(help="Sequences side by side.")] = 1,
    context: Annotated[int, typer.Option(help="Tokens cached when decoding begins.")] = 64,
    prompt: Annotated[int, typer.Option(help="Tokens of a prompt.")] = 512,
    rounds: Annotated[int, typer.Option(help="Rounds to take the median of.")] = 5,
    precision: PrecisionOption = "",
    quantize: Annotated[str, typer.Option(help="Block format of the weights.")] = "",
    format: FormatOption = Format.table,
) -> None:
    """Time decoding and prefill; memory is read on the same threads in the same rounds."""
    from anychip.api import load
    from anychip.chips.cpu.power import power_meter
    from anychip.llm.throughput import Bench

    loaded = load(model)
    if not isinstance(loaded, LanguageModel):
        raise UsageError(f"{model} is no language model")
    require_values(loaded)
    name = fastest() if target == "auto" else target
    chosen = discover().target(name)
    held = precision_for(loaded, name, Ask(precision=precision, quantize=quantize))
    threads = read("threads") or _threads(chosen)
    with progress_console.status(f"{model} on {name} …") as status:
        bench = Bench(
            loaded,
            chosen,
            held,
            CompileOptions(threads=threads),
            batch=batch,
            context=context,
            prompt=prompt,
            progress=lambda what: status.update(f"{model} on {name}: {what} …"),
        )
        sweep, nbytes, whose = _read_sum(threads)
        found = bench.run(sweep, nbytes, rounds=rounds)
        meter = power_meter(POWERCAP)
        j_per_tok = None
        if meter is not None:
            steps = 64
            watts, seconds = meter.watts_of(lambda: bench.decode(steps))
            j_per_tok = watts * seconds / (steps * batch)
    why = "" if meter else f"no readable energy counters (RAPL) under {POWERCAP}"
    result: dict[str, Any] = {
        "engine": f"anychip {name}",
        "model": model,
        "precision": held.name,
        "threads": threads,
        "batch": batch,
        "context": context,
        "prompt": prompt,
        "decode_tok_s": found.decode_tok_s.value,
        "prefill_tok_s": found.prefill_tok_s.value,
        "gb_s": found.bytes_per_s.value / 1e9,
        "bandwidth_by": whose,
        "bandwidth_gb_s": found.beside_bytes_per_s.value / 1e9,
        "ratio": found.ratio.value,
        "step_bytes": found.step_bytes,
        "j_per_tok": j_per_tok,
        "j_per_tok_why_not": why,
        "samples": {
            key: getattr(found, key).to_json()
            for key in ("decode_tok_s", "prefill_tok_s", "bytes_per_s", "ratio")
        },
    }
    if format is Format.json:
        print_json(result)
        return
    rows = [
        ("decode", quantity(result["samples"]["decode_tok_s"], ""), "tok/s"),
        ("prefill", quantity(result["samples"]["prefill_tok_s"], ""), "tok/s"),
        ("read while decoding", f"{result['gb_s']:.2f}", "GB/s"),
        (f"{whose} beside it", f"{result['bandwidth_gb_s']:.2f}", "GB/s"),
        ("ratio", quantity(result["samples"]["ratio"], ""), "of these two; above 1, caches help"),
        ("energy", f"{j_per_tok:.3g}" if j_per_tok else "–", "J/token" if j_per_tok else why),
    ]
    title = f"{model} on {name}, {held.name}, {threads} threads, batch {batch}, context {context}"
    console.print(table(title, ("what", "value", "unit"), rows, right=(1,)))
