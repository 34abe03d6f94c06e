"""`anychip run MODEL --target T`: a language model answers a prompt; any other model runs once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from anychip.cli.answer import Ask, answer_prompts, fastest
from anychip.cli.model import (
    DimOption,
    InputOption,
    Loaded,
    ModelArgument,
    PrecisionOption,
    inputs_for,
    load_sized,
    require_values,
)
from anychip.cli.output import (
    Format,
    FormatOption,
    console,
    print_json,
    progress_console,
    table,
)
from anychip.core import (
    AnychipError,
    CompileOptions,
    InputError,
    Module,
    UnsupportedError,
    UsageError,
    discover,
)

NOT_ITS_TIME = "times are this host's, computing what the chip would; the chip's are `trace`'s"


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    model: ModelArgument,
    target: Annotated[
        str, typer.Option("--target", "-t", help="chip:how; auto: the fastest that runs here.")
    ] = "auto",
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="Text to continue; repeatable.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="A file with one prompt a line.")
    ] = None,
    chat: Annotated[bool, typer.Option(help="Ask through the model's chat template.")] = False,
    max_new: Annotated[int, typer.Option(help="Tokens to generate at most.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest that sum to p.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Keep those p times as likely as the best.")] = 0.0,
    repetition: Annotated[float, typer.Option(help="Divides logits of tokens seen.")] = 1.0,
    presence: Annotated[float, typer.Option(help="Taken off logits of tokens given.")] = 0.0,
    frequency: Annotated[float, typer.Option(help="The same, for each time given.")] = 0.0,
    logit_bias: Annotated[
        list[str] | None, typer.Option("--logit-bias", help="TOKEN=NUMBER; repeatable.")
    ] = None,
    logprobs: Annotated[
        int | None, typer.Option(help="Log probabilities of so many likeliest tokens (-f json).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of sampling, or of made-up inputs.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="A text that ends the answer; repeatable.")
    ] = None,
    speculate: Annotated[
        str,
        typer.Option(
            help="Guess ahead: lookup, mtp (the model's own module) or a draft model's name."
        ),
    ] = "",
    kv_mb: Annotated[float, typer.Option("--kv-mb", help="Bound of the KV cache in MB.")] = 0.0,
    kv: Annotated[
        str,
        typer.Option("--kv", help="What the KV cache holds: f32, f16 (cpu:native's), bf16, q8_0."),
    ] = "",
    precision: PrecisionOption = "",
    quantize: Annotated[
        str, typer.Option(help="Hold the weights in a block format such as q4_0 or q8_0.")
    ] = "",
    dim: DimOption = None,
    input: InputOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the results to this .npz.")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Run a model on a target that can run."""
    is_free, target = target == "auto", fastest() if target == "auto" else target
    chosen = discover().target(target)
    if not chosen.runs:
        raise UsageError(f"{target} predicts or compiles only; run on one such as cpu:xla")
    loaded = load_sized(model, dim or ())
    if isinstance(loaded, Module):
        if prompt or prompts or chat:
            raise UsageError(f"{model} is no language model; it takes --input, not --prompt")
        if is_free:  # cpu:native is for token steps
            target = "cpu:xla"
        _run_once(loaded, model, target, input or (), seed, output, format)
        return
    if dim or input or output:
        raise UsageError(
            "a language model takes --prompt; --dim, --input and --output do not apply"
        )
    require_values(loaded)
    if quantize and precision:
        raise UsageError("--quantize and --precision both say how weights are held; give one")
    ask = Ask(
        max_new=max_new,
        chat=chat,
        precision=precision,
        quantize=quantize,
        sampling={
            **{"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p},
            **{"repetition": repetition, "presence": presence, "frequency": frequency},
            **{"bias": parse_bias(logit_bias or ()), "logprobs": logprobs, "seed": seed},
        },
        stops=tuple(stop or ()),
        speculate=speculate,
        kv_mb=kv_mb,
        kv=kv,
    )
    texts = [*(prompt or ()), *(read_prompts(prompts) if prompts else ())]
    if not texts:
        raise UsageError("a language model needs --prompt TEXT or --prompts FILE")
    stream = format is Format.table
    try:
        answer = answer_prompts(loaded, target, texts, ask, stream=stream)
    except UnsupportedError as error:
        if not is_free or target == "cpu:xla":
            raise
        progress_console.print(f"[dim]{str(error).splitlines()[0]}; cpu:xla runs it[/dim]")
        answer = answer_prompts(loaded, "cpu:xla", texts, ask, stream=stream)
    if format is Format.json:
        print_json({"model": model, **answer})
    else:
        _print_figures(answer)
    failed = [i for i, one in enumerate(answer["answers"], 1) if one["finish"] == "error"]
    if failed:
        raise AnychipError(
            f"{model} gave logits that are no numbers for prompt {', '.join(map(str, failed))}, so "
            "its answer ends there; the model's file may be damaged, or its numbers too large for "
            "the cache (--kv f32)"
        )


def read_prompts(path: Path) -> list[str]:
    """The lines of a file that are not blank."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"not a readable text file: {error}", path=str(path)) from None
    return [line for line in lines if line.strip()]


def parse_bias(texts: Sequence[str]) -> dict[int, float]:
    bias: dict[int, float] = {}
    for text in texts:
        token, _, value = text.partition("=")
        try:
            bias[int(token)] = float(value)
        except ValueError:
            raise UsageError(f"--logit-bias {text!r} should be TOKEN=NUMBER: 42=-5") from None
    return bias


_BOTH = ("own", "quantised")


def _print_figures(answer: dict[str, Any]) -> None:
    """Below the text: how fast, on what, and what guessing did."""
    for one in answer["answers"]:
        figures = ", ".join(f"{k} {v}" for k, v in one["figures"].items())
        console.print(f"[dim]{figures}[/dim]", soft_wrap=True)
    if answer["one_by_one"]:
        console.print(f"[dim]one sequence at a time: {answer['one_by_one']}[/dim]", soft_wrap=True)
    if cost := answer["perplexity"]:
        own, held = (f"{cost[k]['value']:.2f} in {cost[k]['precision']}" for k in _BOTH)
        console.print(
            f"[dim]perplexity of the shipped text ({cost['tokens']} tokens): {own}, {held}: "
            f"{cost['change']:+.1%}[/dim]",
            soft_wrap=True,
        )
    if guessed := answer["speculation"]:
        console.print(
            f"[dim]{guessed['drafter']}: {guessed['accepted']} of {guessed['proposed']} guesses "
            f"came true, {guessed['mean_accepted_length']:.2f} tokens a check[/dim]",
            soft_wrap=True,
        )
    if answer["simulated"]:
        console.print(f"[dim]{answer['simulated']}: {NOT_ITS_TIME}[/dim]", soft_wrap=True)


def _run_once(
    module: Module,
    name: str,
    target: str,
    files: Any,
    seed: int,
    output: Path | None,
    format: Format,
) -> None:
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
