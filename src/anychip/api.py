"""The verbs as library calls: load, compile, compare, diff, chips. The command line adds the
pictures."""

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
    SetupError,
    UnsupportedError,
    UsageError,
    discover,
    shipped_text,
    unknown,
)
from anychip.core.config import read

if TYPE_CHECKING:
    from anychip.debug import Diff
    from anychip.mapper import Comparison, Measured, Workload


def load(
    model: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    home: Path | None = None,
    **options: Any,
) -> Module | LanguageModel:
    """A model from a path, a catalogue name, or a live object of a framework.

    Paths: `.gguf` gives a LanguageModel; `.onnx`, `.pt2`, TorchScript (`.pt`, with example
    inputs), `.keras`, SavedModel folders, Hugging Face folders and StableHLO (`.mlir`, `.mlirbc`,
    `.stablehlo`) give a Module. A catalogue name such as `llama-3.1-70b` gives a LanguageModel:
    with weights when they were pulled, else shape only.
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
    from anychip.fallback import compiler

    return compiler(registry, fallback)(made, module, given)


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
    a model that has weights is also timed on this host: by `cpu:xla` in f32, which the host's
    estimate is for, too, so that the two can be held against each other, and by `cpu:native`.
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
        measured=_host(loaded, workload, progress) if timed else {},
    )


def _host(
    model: LanguageModel, workload: Workload, progress: Callable[[str], None] | None
) -> dict[str, Measured | str]:
    """What this host's targets do with the workload, or why one cannot."""
    from anychip.frontends.llm import PRECISIONS
    from anychip.llm import time_steps
    from anychip.mapper import Measured

    registry, done = discover(), dict[str, Measured | str]()
    own = model.native_precision
    for name, precision in {"cpu:xla": PRECISIONS["f32"], "cpu:native": own}.items():
        try:
            timing = time_steps(
                model,
                registry.target(name),
                prompt=workload.prompt,
                generate=workload.generate,
                batch=workload.batch,
                precision=precision,
                progress=progress,
            )
        except (SetupError, UnsupportedError) as error:
            done[name] = str(error).splitlines()[0]
            continue
        done[name] = Measured(precision=precision.name, ttft_s=timing.ttft_s, tpot_s=timing.tpot_s)
    return done


def diff(
    model: Module | LanguageModel | str | Path,
    a: str,
    b: str,
    inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    text: str | None = None,
    window: int | None = None,
    tokens: int = 1024,
    precision: str = "auto",
    options: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
    threshold: float = 1e-3,
    layers: bool = True,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Diff:
    """One model on two targets that run, such as `cpu:xla` and `dmatrix-corsair:twin`.

    Gives the error after every layer, a being the reference, with the user's layer and source
    line, and what it does to the output. A language model reads `text` (a shipped one without it)
    in windows of `window` tokens (128, or all of a shorter text), at most `tokens` in all. Any
    other runs once on `inputs`: those of its arguments that are not weights, in order or by name;
    what is missing is made up from the seed. `options` are extra compile options of a and of b.
    With `layers` False only results are compared, of the program as it is. Raises UsageError for
    targets that do not run and for arguments that do not apply to the model.
    """
    from anychip.debug import diff_language, diff_module, made_up
    from anychip.frontends.llm import PRECISIONS
    from anychip.llm import prompt_ids

    loaded = load(model) if isinstance(model, str | Path) else model
    registry = discover()
    pair = (registry.target(a), registry.target(b))
    both = (CompileOptions(extra=options[0]), CompileOptions(extra=options[1]))
    say = progress or (lambda what: None)
    if isinstance(loaded, Module):
        if text is not None or precision != "auto":
            raise UsageError(f"{loaded.name} is no language model; it takes inputs, no text")
        names = [x.name for x in loaded.signature.arguments if x.role != "weight"]
        if inputs is not None and not isinstance(inputs, Mapping):
            if len(inputs) > len(names):
                raise UsageError(f"{loaded.name} takes {len(names)} inputs, got {len(inputs)}")
            inputs = dict(zip(names, inputs, strict=False))
        for name in inputs or {}:
            if name not in names:
                raise unknown("input", name, names)
        arrays = made_up(loaded, seed, given=inputs)
        return diff_module(
            loaded, *pair, arrays, threshold=threshold, layers=layers, options=both, say=say
        )
    if inputs is not None:
        raise UsageError(f"{loaded.name} is a language model: it takes text, no inputs")
    if precision != "auto" and precision not in PRECISIONS:
        raise unknown("precision", precision, ("auto", *PRECISIONS))
    chosen = loaded.native_precision if precision == "auto" else PRECISIONS[precision]
    ids = prompt_ids(loaded, shipped_text() if text is None else text)[:tokens]
    return diff_language(
        loaded,
        *pair,
        ids,
        precision=chosen,
        window=window,
        threshold=threshold,
        layers=layers,
        options=both,
        say=say,
    )


def chips() -> dict[str, ChipSpec]:
    """The spec of every installed chip, by name. Raises PluginError for a broken package."""
    registry = discover()
    return {name: registry.chip(name).spec for name in registry.chips}
