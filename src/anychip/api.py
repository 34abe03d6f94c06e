"""The verbs as library calls: load, compile, compare, chips. The command line adds pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anychip.core import (
    ChipSpec,
    CompileOptions,
    Executable,
    LanguageModel,
    Module,
    TargetName,
    UsageError,
    discover,
)
from anychip.core.config import read

if TYPE_CHECKING:
    from anychip.mapper import Comparison, Measured, Workload


def load(
    model: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    home: Path | None = None,
    **options: Any,
) -> Module | LanguageModel:
    """A model from a path, a catalogue name, or a live object of a framework.

    Paths: `.gguf` gives a LanguageModel; `.onnx`, `.pt2`, `.keras`, SavedModel folders, Hugging
    Face folders and StableHLO (`.mlir`, `.mlirbc`, `.stablehlo`) give a Module. A catalogue name
    such as `llama-3.1-70b` gives a LanguageModel: with weights when they were pulled, else shape
    only.
    Objects: PyTorch modules and exported programs, Keras models, `tf.function`s, JAX functions.
    `options` go to the format's own loader, which refuses those it does not know.
    Raises UsageError for an unknown name, InputError for a broken file, UnsupportedError for a
    model that uses what cannot be expressed.
    """
    from anychip.frontends.load import load_any

    return load_any(model, example_inputs, home=home or read("home"), options=options)


def compile(
    module: Module,
    target: str = "cpu:xla",
    options: CompileOptions | None = None,
    *,
    fallback: str = "",
) -> Executable:
    """Compile a Module for `chip:how`.

    A LanguageModel is compiled a step at a time: pass `model.decode(batch, context, precision)`.
    With a `fallback`, such as cpu:xla, ops that the target lacks run there; the executable's
    coverage says which, and at what predicted price.
    Raises UsageError for an unknown target and CompileError when the compiler refuses.
    """
    if isinstance(module, LanguageModel):
        raise UsageError(
            f"{module.name} is a language model: compile one step of it, such as "
            "model.decode(batch=1, context=2048, precision=model.native_precision)"
        )
    registry = discover()
    made, given = registry.target(target), options or CompileOptions()
    if not fallback:
        return made.compile(module, given)
    from anychip.fallback import compile_with_fallback

    chip = registry.chip(TargetName.parse(target).chip)
    return compile_with_fallback(module, made, registry.target(fallback), given, chip=chip)


def compare(
    model: LanguageModel | str | Path,
    *,
    prompt: int = 1024,
    generate: int = 256,
    batch: int = 1,
    chips: Sequence[str] | None = None,
    objective: str = "latency",
    precision: str = "auto",
    measure: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """One row per chip for `batch` sequences of `prompt` tokens and `generate` tokens of answer.

    Rows are sorted by `objective` (latency, throughput, cost or energy). `precision` is a name of
    `anychip.frontends.llm.PRECISIONS`, or `auto`: what each chip is deployed with. With `measure`,
    a model that has weights is also timed on this host (`cpu:xla`, f32), and the host's estimate
    is for the same f32, so that the two can be held against each other.
    Raises UsageError for an impossible workload, an unknown chip, objective or precision.
    """
    from anychip.frontends.llm import PRECISIONS
    from anychip.mapper import Workload
    from anychip.mapper import compare as predict

    loaded = load(model) if isinstance(model, str | Path) else model
    if isinstance(loaded, Module):
        raise UsageError(
            f"{loaded.name} is no language model; compare knows prompts and tokens only so far. "
            "Use compile for its verdicts, and trace with a twin for its predicted time."
        )
    workload = Workload(prompt, generate, batch)
    workload.check(loaded.name, loaded.facts)
    registry = discover()
    wants_host = "cpu" in registry.chips and (chips is None or "cpu" in chips)
    timed = measure and wants_host and not loaded.bind(PRECISIONS["f32"]).is_shape_only
    return predict(
        loaded,
        workload,
        registry,
        precisions=PRECISIONS,
        chips=chips,
        objective=objective,
        precision=precision,
        pinned={"cpu": "f32"} if timed else {},
        measured={"cpu:xla": _host(loaded, workload, progress)} if timed else {},
    )


def _host(
    model: LanguageModel, workload: Workload, progress: Callable[[str], None] | None
) -> Measured:
    """What this host does with the workload."""
    from anychip.frontends.llm import PRECISIONS
    from anychip.llm import time_steps
    from anychip.mapper import Measured

    timing = time_steps(
        model,
        discover().target("cpu:xla"),
        prompt=workload.prompt,
        generate=workload.generate,
        batch=workload.batch,
        precision=PRECISIONS["f32"],
        progress=progress,
    )
    return Measured(precision="f32", ttft_s=timing.ttft_s, tpot_s=timing.tpot_s)


def chips() -> dict[str, ChipSpec]:
    """The spec of every installed chip, by name. Raises PluginError for a broken package."""
    registry = discover()
    return {name: registry.chip(name).spec for name in registry.chips}
