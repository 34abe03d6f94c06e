"""`anychip run MODEL --target T`: a language model answers a prompt; any other model runs once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from anychip.cli.model import (
    DimOption,
    InputOption,
    Loaded,
    ModelArgument,
    PrecisionOption,
    inputs_for,
    precision_of,
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
from anychip.core import CompileOptions, LanguageModel, Module, UsageError, discover, simulates
from anychip.core.config import read

NOT_ITS_TIME = "times are this host's, computing what the chip would; the chip's are `trace`'s"


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    model: ModelArgument,
    target: Annotated[str, typer.Option("--target", "-t", help="chip:how.")] = "cpu:xla",
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Text to continue.")] = None,
    chat: Annotated[bool, typer.Option(help="Ask through the model's chat template.")] = False,
    max_new: Annotated[int, typer.Option(help="Tokens to generate at most.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest that sum to p.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of sampling, or of made-up inputs.")] = 0,
    precision: PrecisionOption = "f32",
    dim: DimOption = None,
    input: InputOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the results to this .npz.")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Run a model on a target that can run."""
    from anychip.api import load

    chosen = discover().target(target)
    if not chosen.runs:
        raise UsageError(f"{target} predicts or compiles only; run on one such as cpu:xla")
    loaded = load(model)
    if isinstance(loaded, Module):
        if prompt is not None or chat:
            raise UsageError(f"{model} is no language model; it takes --input, not --prompt")
        _run_once(loaded, model, target, dim or (), input or (), seed, output, format)
        return
    if dim or input or output:
        raise UsageError(
            "a language model takes --prompt; --dim, --input and --output do not apply"
        )
    if prompt is None:
        raise UsageError("a language model needs --prompt TEXT")
    answer = answer_prompt(
        loaded,
        target,
        prompt,
        chat=chat,
        max_new=max_new,
        precision=precision,
        sampling={"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed},
        stream=format is Format.table,
    )
    if format is Format.json:
        print_json({"model": model, **answer})
    else:
        figures = ", ".join(f"{k} {v}" for k, v in answer["figures"].items())
        console.print(f"\n[dim]{figures}[/dim]", soft_wrap=True)
        if answer["simulated"]:
            console.print(f"[dim]{answer['simulated']}: {NOT_ITS_TIME}[/dim]", soft_wrap=True)


def answer_prompt(
    model: LanguageModel,
    target: str,
    prompt: str,
    *,
    chat: bool,
    max_new: int,
    precision: str,
    sampling: dict[str, Any],
    stream: bool,
) -> dict[str, Any]:
    """Compile, generate and (with `stream`) print tokens as they come; returns what happened."""
    from anychip.llm import Sampling, chat_ids, compile_runner, prompt_ids

    drawn = Sampling(**sampling)
    if chat:
        ids = chat_ids(model, [{"role": "user", "content": prompt}])
    else:
        ids = prompt_ids(model, prompt)
    with progress_console.status(f"compiling {model.name} for {target} …"):
        runner = compile_runner(
            model,
            discover().target(target),
            prompt_tokens=len(ids),
            max_new=max_new,
            precision=precision_of(model, precision),
            options=CompileOptions(threads=read("threads")),
        )
        for _ in runner.generate(ids[:2], max_new=1):
            pass  # the first call places the weights; it is not part of the timing
    if stream and not chat:
        console.print(prompt, end="", style="dim", markup=False)
    pieces: list[Any] = []
    for piece in runner.generate(ids, max_new=max_new, sampling=drawn):
        pieces.append(piece)
        if stream:
            print(piece.text, end="", flush=True)
    if stream:
        print()
    seconds = [p.seconds for p in pieces]
    steps = np.diff(seconds)
    figures = {"prompt": f"{len(ids)} tokens", "TTFT": scaled(seconds[0], "s")}
    if len(steps):
        figures["TPOT"] = f"{scaled(float(np.median(steps)), 's')} (median of {len(steps)})"
        figures["speed"] = f"{1 / float(np.median(steps)):.1f} tok/s"
    figures["end"] = pieces[-1].finish
    return {
        "target": target,
        "precision": precision,
        "prompt": prompt,
        "answer": "".join(p.text for p in pieces),
        "tokens": [p.token for p in pieces],
        "seconds": seconds,
        "finish": pieces[-1].finish,
        "simulated": simulates(discover().target(target)),
        "figures": figures,
    }


def _run_once(
    module: Module,
    name: str,
    target: str,
    dims: Any,
    files: Any,
    seed: int,
    output: Path | None,
    format: Format,
) -> None:
    from anychip.cli.model import parse_dims

    module = module.specialise(parse_dims(dims))
    with progress_console.status(f"compiling {name} for {target} …"):
        executable = discover().target(target).compile(module, CompileOptions())
    inputs = inputs_for(Loaded(module, {}), files, seed)
    results = [np.array(r) for r in executable.run(*inputs)]
    if output is not None:
        named = {r.name: a for r, a in zip(module.signature.results, results, strict=True)}
        np.savez(output, allow_pickle=False, **named)
    rows: list[dict[str, Any]] = []
    for result, array in zip(module.signature.results, results, strict=True):
        numbers = array.astype(np.float64) if array.dtype.kind not in "c" else np.abs(array)
        has_any = numbers.size > 0
        rows.append(
            {
                "result": result.name,
                "type": f"{result.dtype}{list(array.shape)}",
                "min": float(numbers.min()) if has_any else None,
                "mean": float(numbers.mean()) if has_any else None,
                "max": float(numbers.max()) if has_any else None,
            }
        )
    if format is Format.json:
        print_json({"model": name, "target": target, "results": rows})
        return
    cells = [
        (
            r["result"],
            r["type"],
            *("–" if r[k] is None else f"{r[k]:.5g}" for k in ("min", "mean", "max")),
        )
        for r in rows
    ]
    columns = ("result", "type", "min", "mean", "max")
    console.print(table(f"{module.name} on {target}", columns, cells, right=(2, 3, 4)))
    console.print(executable.coverage.summary(), style="dim")
