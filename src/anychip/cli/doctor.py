"""`anychip doctor`: what works on this machine, what is missing, and what it would unlock."""

from __future__ import annotations

import platform
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal

import typer
from rich.text import Text

from anychip.cli.output import Format, FormatOption, console, print_json, table
from anychip.core import AnychipError, discover, machine_name
from anychip.core.config import KNOBS, read

State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report. `remedy` is what to type, "" when nothing is needed."""

    what: str
    state: State
    detail: str
    remedy: str = ""


EXTRAS: tuple[tuple[str, str, str], ...] = (
    ("tokenizers", "llm", "tokenizers of GGUF and Hugging Face models"),
    ("torch", "torch", "PyTorch models in"),
    ("transformers", "torch", "Hugging Face model folders in"),
    ("onnx", "onnx", "ONNX models in"),
    ("tensorflow-cpu", "tensorflow", "TensorFlow and Keras models in"),
    ("onnxruntime", "onnxruntime", "cpu:onnxruntime, and more choice for cpu:auto"),
    ("openvino", "openvino", "cpu:openvino, and more choice for cpu:auto"),
    ("llvmlite", "llm", "cpu:native, own code for token steps"),
    ("ethos-u-vela", "ethos-u", "compiling for Arm Ethos-U, cycles an operator (with TensorFlow)"),
    ("iree-base-compiler", "iree", "compiling for GPUs, SPIR-V, Metal, Arm and RISC-V"),
    ("iree-base-runtime", "iree", "cpu:iree, and vulkan:iree where a driver is"),
)


TOOLS: Mapping[str, str] = {
    "iree": "iree-base-compiler",
    "iree-cpu": "iree-base-compiler",
    "iree-vulkan": "iree-base-compiler",
    "native": "llvmlite",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "qnn": "qnn",
    "rknn": "rknn",
    "triton": "triton",
    "vela": "ethos-u-vela",
}
"""What each compiler (the `how` of `chip:how`) needs; `auto` takes whatever there is."""


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)
    app.command("knobs")(knobs)


def doctor(format: FormatOption = Format.table) -> None:
    """Say what works here, what is missing, and what each missing piece would unlock."""
    tools = [*_basics(), *_extras(), *_toolchains()]
    absent = {f.what for f in tools if f.state != "ok"}
    findings = [*tools, *_chips(), *_compilers(absent), *_threads(), *_huge_pages(), *_settings()]
    if format is Format.json:
        print_json({"findings": [asdict(f) for f in findings]})
    else:
        style = {"ok": "green", "missing": "yellow", "broken": "bold red"}
        rows = [(f.what, Text(f.state, style=style[f.state]), f.detail, f.remedy) for f in findings]
        console.print(table("", ("what", "state", "detail", "remedy"), rows))
    if any(f.state == "broken" for f in findings):
        raise typer.Exit(1)


def _basics() -> list[Finding]:
    found = [
        Finding("machine", "ok", machine_name()),
        Finding("python", "ok", f"{platform.python_version()} at {sys.prefix}"),
    ]
    for package in ("jax", "jaxlib", "numpy", "ml_dtypes"):
        try:
            found.append(Finding(package, "ok", version(package)))
        except PackageNotFoundError:
            found.append(
                Finding(package, "broken", "not installed", "pip install --force-reinstall anychip")
            )
    return found


def _extras() -> list[Finding]:
    found: list[Finding] = []
    for package, extra, unlocks in EXTRAS:
        try:
            found.append(Finding(package, "ok", f"{version(package)}: {unlocks}"))
        except PackageNotFoundError:
            found.append(
                Finding(package, "missing", f"unlocks {unlocks}", f"pip install 'anychip[{extra}]'")
            )
    return found


def _toolchains() -> list[Finding]:
    from anychip.compilers.toolchains import TOOLCHAINS

    found: list[Finding] = []
    for one in TOOLCHAINS:
        if one.installed is not None:
            found.append(Finding(one.name, "ok", f"{one.installed.version}: {one.unlocks}"))
            continue
        remedy = f"pip install --no-deps --target {one.folder} {' '.join(one.pins)}"
        found.append(Finding(one.name, "missing", f"unlocks {one.unlocks}", remedy))
    return found


def _chips() -> list[Finding]:
    registry = discover()
    broken = registry.broken()
    twins = sum("twin" in registry.chip(n).targets for n in registry.chips if n not in broken)
    return [
        Finding(
            "chips", "ok", f"{len(registry.chips) - len(broken)} installed, {twins} with a twin"
        ),
        *(
            Finding(
                f"chip {name}", "broken", why, f"pip uninstall {registry.owners[name].split()[0]}"
            )
            for name, why in broken.items()
        ),
    ]


def _compilers(absent: set[str]) -> list[Finding]:
    """A line for each compiler and the tool it needs: the chips it compiles for."""
    registry = discover()
    broken = registry.broken()
    chips: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for name in sorted(set(registry.chips) - set(broken)):
        for how in registry.chip(name).targets:
            if how != "twin":
                chips[f":{how}", _tool(registry.chip(name).spec.vendor, how)].append(name)
    return [
        Finding(how, "missing", f"for {', '.join(names)}", f"{tool}, see above")
        if tool in absent
        else Finding(how, "ok", f"for {', '.join(names)}")
        for (how, tool), names in sorted(chips.items())
    ]


def _tool(vendor: str, how: str) -> str:
    """The line of this report on which a compiler stands or falls; XLA for the host needs none."""
    if how == "xla":
        return {"Google": "libtpu", "NVIDIA": "cuda12"}.get(vendor, "jaxlib")
    return TOOLS.get(how, "")


def _threads() -> list[Finding]:
    """How many threads cpu:native takes, and why."""
    try:
        target = discover().target("cpu:native")
        from anychip.compilers.native import NativeTarget, numa

        assert isinstance(target, NativeTarget)
        choice, count = target.thread_choice(), len(numa.nodes())
    except AnychipError as error:
        return [Finding("threads", "missing", f"cpu:native does not run here: {error}")]
    threads = read("threads") or choice.threads
    why = "ANYCHIP_THREADS says so" if read("threads") else choice.why
    nodes = f"{count} memory node{'s' if count > 1 else ''}"
    return [Finding("threads", "ok", f"cpu:native uses {threads}: {why}; {nodes}")]


def _huge_pages() -> list[Finding]:
    """Whether weights and KV caches of cpu:native get pages of 2 MB, and what it costs if not."""
    if find_spec("llvmlite") is None:
        return []
    from anychip.compilers import hugepages

    setting, granted = hugepages.setting(), hugepages.granted()
    if granted is None:
        return []
    if not read("huge_pages"):
        return [Finding("huge pages", "ok", "not asked for: ANYCHIP_HUGE_PAGES says no")]
    told = f"the system's setting is {setting or 'not known'}"
    if granted:
        return [Finding("huge pages", "ok", f"cpu:native's weights and caches get them; {told}")]
    cost = "in pages of 4 KB token steps took 1.03 to 1.19 times as long (docs/native.md)"
    remedy = (
        "" if setting in ("always", "madvise") else f"echo madvise | sudo tee {hugepages.SETTING}"
    )
    return [Finding("huge pages", "missing", f"none were given; {told}; {cost}", remedy)]


def _settings() -> list[Finding]:
    return [Finding(knob.variable, "ok", str(read(knob.name))) for knob in KNOBS]


def knobs(format: FormatOption = Format.table) -> None:
    """List every setting: its environment variable, its value now, and what it does."""
    rows = [(k.variable, str(read(k.name)), str(k.default), k.help) for k in KNOBS]
    if format is Format.json:
        names = ("variable", "value", "default", "help")
        print_json({"knobs": [dict(zip(names, row, strict=True)) for row in rows]})
    else:
        console.print(table("", ("variable", "now", "default", "what it is"), rows))
