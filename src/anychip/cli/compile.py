"""`anychip compile MODEL --target T`: a verdict per target, with its artifacts in a run folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from anychip.cli.model import (
    BatchOption,
    ContextOption,
    DimOption,
    Loaded,
    ModelArgument,
    PrecisionOption,
    PromptLengthOption,
    Step,
    StepOption,
    inputs_for,
    load_module,
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
from anychip.core import (
    AnychipError,
    CompileOptions,
    Module,
    RunFolder,
    TargetName,
    UsageError,
    discover,
    simulates,
)
from anychip.core.config import read


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one target said of one module. `matched` is None when numbers could not be compared.

    `simulated` says what computed the numbers where that was not the chip; `tolerance` is how far
    they might lie from the reference to count as matched, where it is not that of the types.
    """

    target: str
    compiled: bool = False
    ran: bool = False
    matched: bool | None = None
    seconds: float = 0.0
    error: str | None = None
    max_rel_err: float | None = None
    simulated: str = ""
    tolerance: float | None = None
    artifacts: list[str] = field(default_factory=list)
    ops: dict[str, int] | None = None
    summary: str = ""


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
    format: FormatOption = Format.table,
) -> None:
    """Compile for one or more targets; run and check the numbers where the target can run."""
    choice = Step(
        step=step, batch=batch, length=length, context=context, precision=precision, dims=dim or ()
    )
    targets = _targets(target)
    loaded = load_module(model, choice)
    module = loaded.module
    run = RunFolder.new(read("runs"), "compile", model, datetime.now())
    verdicts: list[Verdict] = []
    for name in targets:
        with progress_console.status(f"{name} …"):
            verdicts.append(_verdict(loaded, name, run, seed))
    document = {
        "model": model,
        "module": module.name,
        "verdicts": [vars(v) for v in verdicts],
        "run": str(run.path),
    }
    run.write("compile.json", document)
    if format is Format.json:
        print_json(document)
    else:
        _show(module, verdicts, run)
    if not all(v.compiled and v.matched is not False for v in verdicts):
        raise typer.Exit(1)


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
        f"{chip}:{how}"
        for chip in registry.chips
        if chip not in broken
        for how in sorted(registry.chip(chip).targets)
    ]


def _verdict(loaded: Loaded, name: str, run: RunFolder, seed: int) -> Verdict:
    module = loaded.module
    start = time.perf_counter()
    try:
        target = discover().target(TargetName.parse(name))
        executable = target.compile(module, CompileOptions(timeout_s=read("child_timeout")))
    except AnychipError as error:
        if isinstance(error, UsageError):
            raise
        return Verdict(target=name, seconds=time.perf_counter() - start, error=str(error))
    seconds = time.perf_counter() - start
    folder = name.replace(":", "-")
    paths = [
        str(run.write(f"{folder}/{stage}", text)) for stage, text in executable.artifacts.items()
    ]
    known: dict[str, Any] = {
        "target": name,
        "compiled": executable.coverage.count("unsupported") == 0,
        "seconds": seconds,
        "artifacts": paths,
        "ops": executable.coverage.to_json(),
        "summary": executable.coverage.summary(),
    }
    if not known["compiled"]:
        rows = [r for r in executable.coverage.rows if r.fate == "unsupported"]
        known["error"] = "; ".join(f"{r.op} ×{r.count} at {r.origin}: {r.why}" for r in rows[:5])
    if not target.runs or module.weights.is_shape_only:
        return Verdict(**known)
    inputs = inputs_for(loaded, (), seed)
    try:
        results = [_as_numpy(r) for r in executable.run(*inputs)]
    except AnychipError as error:
        return Verdict(**{**known, "error": str(error)})
    tolerance = getattr(executable, "tolerance", None)
    worst, matched = compare_numbers(module, inputs, results, tolerance)
    return Verdict(
        **known,
        ran=True,
        matched=matched,
        max_rel_err=worst,
        simulated=simulates(target),
        tolerance=tolerance,
    )


def _as_numpy(value: Any) -> Any:
    import numpy as np

    return np.array(value)  # a copy: the next run may reuse a donated buffer


def compare_numbers(
    module: Module, inputs: list[Any], results: list[Any], tolerance: float | None = None
) -> tuple[float, bool]:
    """(largest max|Δ| / max|ref| over the results, whether that is near enough).

    The reference is the op table's meanings, which XLA runs on this host: for `cpu:xla` this
    checks binding, donation and fusion, not XLA's arithmetic. `tolerance` replaces that of the
    element types, for a target whose arithmetic is narrower than the program's.
    """
    import numpy as np

    from anychip.ops.interp import evaluate

    given = iter(inputs)
    arguments = [
        module.weights[a.name].array() if a.role == "weight" else next(given)
        for a in module.signature.arguments
    ]
    worst, matched = 0.0, True
    for reference, result in zip(evaluate(module, *arguments), results, strict=True):
        wanted = np.asarray(reference)
        if wanted.dtype.kind in "biu":
            matched &= bool(np.array_equal(wanted, result))
            continue
        kind = np.complex128 if wanted.dtype.kind == "c" else np.float64
        exact, got = wanted.astype(kind), result.astype(kind)
        scale = float(np.max(np.abs(exact), initial=0.0, where=np.isfinite(exact)))
        same = (exact == got) | (np.isnan(exact) & np.isnan(got))
        difference = np.where(same, 0.0, np.abs(exact - got))
        error = float(np.max(difference, initial=0.0)) / (scale or 1.0)
        worst = max(worst, error)
        own = 1e-3 if wanted.dtype.itemsize >= 4 else 2e-2
        matched &= error <= max(own, tolerance or 0.0)
    return worst, matched


def _show(module: Module, verdicts: list[Verdict], run: RunFolder) -> None:
    rows = [
        (
            v.target,
            _yes(v.compiled),
            _outcome(v),
            scaled(v.seconds, "s"),
            v.error or v.summary,
        )
        for v in verdicts
    ]
    columns = ("target", "compiled", "numbers", "time", "ops")
    console.print(table(module.name, columns, rows, right=(3,)))
    console.print(f"artifacts: {run.path}", style="dim", soft_wrap=True)


def _yes(value: bool) -> Text:
    return Text("yes", style="green") if value else Text("no", style="red")


def _outcome(verdict: Verdict) -> Text:
    if verdict.matched is None:
        return Text("compiled, not run" if verdict.compiled else "–", style="dim")
    style = "green" if verdict.matched else "red"
    word = "match" if verdict.matched else "differ"
    within = "" if verdict.tolerance is None else f" of {verdict.tolerance:.1e}"
    cell = Text(f"{word} (max rel {verdict.max_rel_err:.1e}{within})", style=style)
    return cell.append(f"\n{verdict.simulated}", style="dim") if verdict.simulated else cell
