"""`anychip bench MODEL`: every target that runs here, and the peers called directly, in turns."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from anychip.cli.model import (
    BatchOption,
    ContextOption,
    DimOption,
    InputOption,
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
from anychip.compilers.contest import Entrant, Outcome, contest
from anychip.core import AnychipError, CompileOptions, Module, UsageError, discover, machine_name
from anychip.core.config import read


def register(app: typer.Typer) -> None:
    app.command("bench")(bench)


def bench(
    model: ModelArgument,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="chip:how; repeatable. All that run.")
    ] = None,
    step: StepOption = "decode",
    batch: BatchOption = 1,
    context: ContextOption = 512,
    length: PromptLengthOption = 128,
    precision: PrecisionOption = "auto",
    dim: DimOption = None,
    input: InputOption = None,
    seed: Annotated[int, typer.Option(help="Seed of made-up inputs.")] = 0,
    seconds: Annotated[float, typer.Option(help="How long the timed rounds may take.")] = 5.0,
    tolerance: Annotated[
        float, typer.Option(help="Difference over largest value that still counts as equal.")
    ] = 1e-3,
    format: FormatOption = Format.table,
) -> None:
    """Time every target that runs on this host, and an .onnx file's own runtimes, side by side."""
    choice = Step(
        step=step, batch=batch, length=length, context=context, precision=precision, dims=dim or ()
    )
    loaded = load_module(model, choice)
    inputs = inputs_for(loaded, input or (), seed)
    refused: dict[str, str] = {}
    entrants: list[Entrant] = []
    for name in target or _running():
        with progress_console.status(f"{name} …"):
            try:
                made = discover().target(name)
                if not made.runs:
                    raise UsageError(f"{name} compiles but does not run here")
                options = CompileOptions(timeout_s=read("child_timeout"))
                entrants.append(Entrant(name, made.compile(loaded.module, options).run))
            except AnychipError as error:
                if target is not None and isinstance(error, UsageError):
                    raise
                refused[name] = str(error).splitlines()[0]
    for name, make in _peers(model, loaded.module, inputs).items():
        with progress_console.status(f"{name} …"):
            entrants.append(Entrant(name, make()))
    with progress_console.status("timing in turns …"):
        outcome = contest(
            entrants,
            inputs,
            reference="cpu:xla",
            tolerance=tolerance,
            seconds=seconds,
            rounds=200,
        )
    _report(model, outcome, refused, format)


def _running() -> list[str]:
    """The host's targets. Twins are left out: the time their `run` takes says nothing."""
    return [f"cpu:{how}" for how in sorted(discover().chip("cpu").targets) if how != "twin"]


Run = Callable[..., Sequence[Any]]


def _peers(
    model: str, module: Module, inputs: Sequence[np.ndarray]
) -> Mapping[str, Callable[[], Run]]:
    """The runtimes that read this file themselves, with their default settings, in f32."""
    if not model.endswith(".onnx"):
        return {}
    names = [a.name for a in module.signature.arguments if a.role != "weight"]
    found: dict[str, Callable[[], Run]] = {}
    if importlib.util.find_spec("onnxruntime"):
        found[f"onnxruntime {version('onnxruntime')} on the file"] = lambda: _ort(model, names)
    if importlib.util.find_spec("openvino"):
        found[f"openvino {version('openvino')} on the file"] = lambda: _ov(model, names, inputs)
    return found


def _ort(model: str, names: Sequence[str]) -> Run:
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def _ov(model: str, names: Sequence[str], inputs: Sequence[np.ndarray]) -> Run:
    from anychip.compilers.onnx_hosts.openvino import openvino

    core = openvino().Core()
    read_model = core.read_model(str(Path(model)))
    read_model.reshape({n: list(a.shape) for n, a in zip(names, inputs, strict=True)})
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(read_model, "CPU", config).create_infer_request()

    def run(*arrays: np.ndarray) -> Sequence[Any]:
        results = request.infer(dict(zip(names, arrays, strict=True)), share_inputs=True)
        return [results[i] for i in range(len(results))]

    return run


def _report(model: str, outcome: Outcome, refused: Mapping[str, str], format: Format) -> None:
    rows = outcome.to_json()
    if format is Format.json:
        print_json(
            {
                "model": model,
                "machine": machine_name(),
                "fastest": outcome.fastest,
                "rows": [{"name": name, **row} for name, row in rows.items()],
                "not_compiled": dict(refused),
            }
        )
        return
    best = rows[outcome.fastest]["median_s"]
    lines: list[list[Any]] = []
    for name, row in sorted(rows.items(), key=lambda r: r[1]["median_s"] or float("inf")):
        timed = row["median_s"]
        lines.append(
            [
                name,
                scaled(timed, "s") if timed else "–",
                f"{timed / best:.2f}×" if timed else "–",
                "–" if row["max_error"] is None else f"{row['max_error']:.1e}",
                row["failure"] or "",
            ]
        )
    lines += [[name, "–", "–", "–", why] for name, why in refused.items()]
    columns = ["what", "median", "of the best", "error", "note"]
    console.print(table(model, columns, lines, right=(1, 2, 3)))
    console.print(f"Measured on {machine_name()}, in turns; error is against cpu:xla.")
