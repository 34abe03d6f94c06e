"""`anychip diff MODEL A B`: one model on two targets, the error by layer and in the output."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from anychip.cli.curve import curve
from anychip.cli.model import (
    DimOption,
    InputOption,
    ModelArgument,
    PrecisionOption,
    load_sized,
    read_inputs,
)
from anychip.cli.output import (
    Format,
    FormatOption,
    console,
    keep,
    print_json,
    progress_console,
    table,
)
from anychip.core import InputError, Module, RunFolder, UsageError
from anychip.core.config import read
from anychip.debug import Diff


def register(app: typer.Typer) -> None:
    app.command("diff")(diff)


def diff(
    model: ModelArgument,
    a: Annotated[str, typer.Argument(help="The reference: chip:how.")],
    b: Annotated[str, typer.Argument(help="What is held against it: chip:how.")],
    text: Annotated[
        Path | None,
        typer.Option(help="Of a language model: the text to read; a shipped one without it."),
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens read at once; 128, or all of a shorter text.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of the text to read at most.")] = 1024,
    precision: PrecisionOption = "auto",
    option_a: Annotated[
        list[str] | None, typer.Option("--option-a", help="KEY=VALUE for A's compiler; repeatable.")
    ] = None,
    option_b: Annotated[
        list[str] | None,
        typer.Option("--option-b", help="KEY=VALUE for B's compiler, such as matmul=mxint4."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Relative error of a layer that counts as a divergence.")
    ] = 1e-3,
    layers: Annotated[
        bool, typer.Option(help="--no-layers: compare results only, with the program as it is.")
    ] = True,
    dim: DimOption = None,
    input: InputOption = None,
    seed: Annotated[int, typer.Option(help="Seed of made-up inputs.")] = 0,
    format: FormatOption = Format.table,
) -> None:
    """Run one model on two targets and compare: every layer, the output, a text's perplexity."""
    from anychip.api import diff as run_diff

    with progress_console.status(f"loading {model} …") as status:
        loaded = load_sized(model, dim or ())
        given: dict[str, np.ndarray] | None = None
        if isinstance(loaded, Module):
            given = read_inputs(input or (), loaded)
        elif dim or input:
            raise UsageError("a language model takes --text; --dim and --input do not apply")
        found = run_diff(
            loaded,
            a,
            b,
            given,
            text=_read(text),
            window=window,
            tokens=tokens,
            precision=precision,
            options=(_options(option_a), _options(option_b)),
            threshold=threshold,
            layers=layers,
            seed=seed,
            progress=lambda what: status.update(f"{what} …"),
        )
    run = RunFolder.new(read("runs"), "diff", model, datetime.now())
    document = {**found.to_json(), "run": str(run.path)}
    pictures = {"sqnr.svg": sqnr_chart(found)} if found.layers else {}
    unkept = keep(run, {"diff.json": document, **pictures})
    if format is Format.json:
        print_json({**document, "not_kept": unkept})
    else:
        _show(found)
        if not unkept:
            listed = ", ".join(["diff.json", *pictures])
            console.print(f"{run.path}: {listed}", style="dim", soft_wrap=True)


def _read(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"not a readable text: {error}", path=str(path)) from None


def _options(texts: Sequence[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"option {text!r} should be KEY=VALUE")
        pairs[key] = value
    return pairs


def sqnr_chart(found: Diff) -> str:
    """Signal over noise after every layer; layers without any error are left out."""
    points = [
        (one.layer, max(one.sqnr_db, -20.0), f"{one.layer}: {one.sqnr_db:.1f} dB, {one.source}")
        for one in found.layers
        if one.sqnr_db is not None
    ]
    title = f"{found.model}: {found.b} against {found.a}, signal over noise by layer"
    return curve(points, title=title, unit="dB")


SHOWN = 40
"""Rows of a table of layers; with more, every layer of the model's first two and last blocks."""


def _show(found: Diff) -> None:
    rows = [
        (
            one.layer,
            f"{one.max_abs:.3g}",
            f"{one.rel:.2e}",
            "equal" if one.sqnr_db is None else f"{one.sqnr_db:.1f}",
            one.source,
        )
        for one in _some(found.layers)
    ]
    if rows:
        columns = ("after layer", "max |Δ|", "rel", "SQNR dB", "source")
        title = f"{found.model}: {found.b} against {found.a}"
        console.print(table(title, columns, rows, right=(1, 2, 3)))
        if len(found.layers) > len(rows):
            console.print(f"{len(rows)} of {len(found.layers)} layers; all are in diff.json")
    first = found.first_divergence
    if first is None and found.layers:
        console.print(f"no layer is further off than {found.threshold:g}")
    elif first is not None:
        place = f" ({first.source})" if first.source else ""
        console.print(
            f"first further off than {found.threshold:g}: [bold]{first.layer}[/bold]{place}, "
            f"{first.op}: {first.rel:.2e}"
        )
    for one in found.outputs:
        top = "" if one.top1_agreement is None else f", same largest in {one.top1_agreement:.1%}"
        sqnr = "equal" if one.sqnr_db is None else f"SQNR {one.sqnr_db:.1f} dB"
        console.print(f"{one.name}: max |Δ| {one.max_abs:.3g}, rel {one.rel:.2e}, {sqnr}{top}")
    if found.language is not None:
        _show_language(found)
    for target, what in found.simulated.items():
        console.print(f"{target}: {what}", style="dim")


def _some(layers: Sequence[Any]) -> Sequence[Any]:
    if len(layers) <= SHOWN:
        return layers
    return [*layers[: SHOWN // 2], *layers[-SHOWN // 2 :]]


def _show_language(found: Diff) -> None:
    out = found.language
    assert out is not None
    change = out.perplexity_b / out.perplexity_a - 1
    rows = [
        ("perplexity", f"{out.perplexity_a:.4f} → {out.perplexity_b:.4f} ({change:+.2%})"),
        ("likeliest token the same", f"{out.top1_agreement:.2%}"),
        ("logit margin, mean", f"{out.margin:.3f}; turned over in {out.margin_lost:.2%}"),
        ("logit error, rms", f"{out.logit_rms:.4f}"),
        ("KL divergence, mean", f"{out.divergence:.2e} nats"),
    ]
    console.print(table(f"over {out.positions} predicted tokens", ("", ""), rows))
