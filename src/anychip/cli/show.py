"""`anychip show MODEL --target T`: schedule, placement and roofline of a step as a page of SVG."""

from __future__ import annotations

from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from anychip.cli.model import (
    BatchOption,
    ContextOption,
    DimOption,
    InputOption,
    ModelArgument,
    PipelineOption,
    PrecisionOption,
    PromptLengthOption,
    Step,
    StepOption,
    TargetOption,
    TensorOption,
    inputs_for,
    load_module,
    twin_options,
)
from anychip.cli.output import Format, FormatOption, console, print_json, progress_console, scaled
from anychip.core import CompileOptions, RunFolder, Trace, UsageError, discover
from anychip.core.config import read
from anychip.twin import Floor, Simulated, Table, Timed, TwinExecutable, step_cost

UNITS = (
    *("MEM weights", "MEM cache", "MEM activations", "MXM install", "MXM multiply", "SXM", "VXM"),
    *("C2C", "cores", "fabric", "capacity memory", "arrays", "SIMD", "die-to-die", "bridge"),
    *("command processor", "HBM", "neural engines", "vector units", "UCIe", "PCIe", "network"),
    *("L2", "MXU", "SMs", "VPU", "link"),
)
"""From top to bottom: where data lies, what computes, what connects."""


def register(app: typer.Typer) -> None:
    app.command("show")(show)


def show(
    model: ModelArgument,
    target: TargetOption,
    step: StepOption = "decode",
    batch: BatchOption = 1,
    context: ContextOption = 512,
    length: PromptLengthOption = 128,
    precision: PrecisionOption = "auto",
    dim: DimOption = None,
    input: InputOption = None,
    tensor: TensorOption = None,
    pipeline: PipelineOption = None,
    seed: Annotated[int, typer.Option(help="Seed of made-up inputs.")] = 0,
    runs: Annotated[
        Path | None, typer.Option(help="Where run folders go; the setting `runs` without it.")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Draw one step: units over time, where the model lies, and the roofline with every op."""
    choice = Step(
        step=step, batch=batch, length=length, context=context, precision=precision, dims=dim or ()
    )
    chosen = discover().target(target)
    loaded = load_module(model, choice)
    with progress_console.status(f"{target}: compiling, tracing and drawing …"):
        options = CompileOptions(
            timeout_s=read("child_timeout"), extra=twin_options(tensor, pipeline)
        )
        executable = chosen.compile(loaded.module, options)
        is_twin = isinstance(executable, TwinExecutable)
        if is_twin and input:
            raise UsageError(f"{target} predicts its trace and looks at no inputs: drop --input")
        inputs = () if is_twin else inputs_for(loaded, input or (), seed)
        made = executable.trace(*inputs)
        made_by = executable if isinstance(executable, TwinExecutable) else None
        pictures = _pictures(made, made_by)
    folder = RunFolder.new(runs or read("runs"), "show", f"{model}-{target}", datetime.now())
    for name, svg in pictures.items():
        folder.write(f"{name}.svg", svg)
    listing = executable.artifacts.get("schedule.txt")
    if listing is not None:
        folder.write("schedule.txt", listing)
    title = f"{loaded.module.name} on {target}"
    facts = _facts(made, made_by, choice)
    page = folder.write("show.html", _page(title, facts, made.note, pictures))
    if format is Format.json:
        print_json(
            {
                "model": model,
                "target": target,
                "kind": made.kind,
                "seconds": made.seconds,
                "note": made.note,
                "pictures": {name: str(folder.path / f"{name}.svg") for name in pictures},
                "page": str(page),
            }
        )
        return
    for name, value in facts:
        console.print(f"{name:<12} {value}")
    console.print(f"pictures     {', '.join(pictures)}")
    console.print(f"page         {page}", soft_wrap=True)


def _pictures(made: Trace, executable: TwinExecutable | None) -> dict[str, str]:
    """SVG by name; a picture the trace has nothing for is left out."""
    from anychip.profile import a_layer, floor_plan, occupancy, overview, timeline

    layer = a_layer(made)
    where = layer[0].origin.layer.split("/")[0] if layer else ""
    place = layer[0].resource.rpartition("/")[0] if layer else ""
    on = f" on {place}" if place else ""
    pictures: dict[str, str] = {}
    if layer:
        pictures["timeline"] = timeline(layer, f"Units over time: {where or 'start'}{on}", UNITS)
    pictures["overview"] = overview(made, "The whole step, place by place")
    if executable is not None:
        simulated = executable.simulate() if made.kind == "simulated" else None
        picture = None if simulated is None else simulated.program.picture
        if isinstance(picture, Floor):
            pictures["placement"] = floor_plan(
                *(picture.rectangles, picture.columns, picture.rows, picture.core_bytes),
                f"Floor plan: {picture.colours_used} of {picture.colours} routes a core in use",
            )
        elif picture is not None:
            pictures["placement"] = occupancy(
                picture.groups, picture.capacity_bytes, "How full each chip is"
            )
        pictures["roofline"] = _roofline(executable, simulated)
    return {name: svg for name, svg in pictures.items() if svg}


def _roofline(executable: TwinExecutable, simulated: Simulated | None) -> str:
    from anychip.profile import Dot, Roof, roofline

    table, one = Table.of(executable.lowered), executable.machine
    cost = step_cost(table, one, executable.shards)
    part = cost.portion
    timed = simulated.kernels() if simulated is not None else {}
    dots: list[Dot] = []
    for row, kernel in enumerate(table.kernels):
        stored = part.weight_bytes[row] + part.state_bytes[row]
        closed = Timed(
            seconds=float(cost.kernel_s[row]),
            bound=cost.bound(row),
            flops=float(part.flops[row] + part.vector_flops[row]),
            bytes=float(stored + part.activation_bytes[row]),
        )
        done = timed.get(row, closed)
        dots.append(
            Dot(
                name=kernel.name,
                where=kernel.origin.layer,
                flops=done.flops,
                bytes=done.bytes,
                seconds=done.seconds,
                count=float(table.counts[row]),
                bound=done.bound,
            )
        )
    used = {k for kernel in table.kernels for k in kernel.formats if k in one.peak_flops_per_s}
    names = used or {max(one.peak_flops_per_s, key=lambda name: one.peak_flops_per_s[name])}
    roofs = [Roof(name=name, value=one.peak_flops_per_s[name]) for name in sorted(names)]
    roofs.append(Roof(name="vector", value=one.vector_flops_per_s))
    level = one.levels[cost.placement.level]
    peak = one.peak_bytes_per_s[cost.placement.level]
    roofs.append(Roof(name=level.name, value=peak, is_slope=True))
    chip = "one chip" if executable.shards.chips > 1 else one.name
    return roofline(dots, roofs, f"Roofline of {chip}")


def _facts(made: Trace, executable: TwinExecutable | None, choice: Step) -> list[tuple[str, str]]:
    took = f"{scaled(made.seconds, 's')}, {made.kind}"
    facts = [("step", f"{choice.step}, batch {choice.batch}, context {choice.context}")]
    facts.append(("time", took))
    if choice.step == "decode" and made.seconds:
        facts.append(("one user", f"{1 / made.seconds:,.0f} tokens/s, {made.kind}"))
    if executable is not None:
        facts.append(("chips", f"{executable.shards.chips} ({executable.shards})"))
        energy = executable.energy()
        if energy:
            total = sum(energy.values())
            parts = ", ".join(f"{name} {part / total:.0%}" for name, part in energy.items())
            facts.append(("energy", f"{scaled(total, 'J')}, estimated: {parts}"))
    return facts


def _page(title: str, facts: Any, note: str, pictures: dict[str, str]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = (files("anychip.cli") / "show.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        title=title, facts=facts, note=note, pictures=pictures
    )
