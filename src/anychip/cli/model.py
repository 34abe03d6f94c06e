"""Shared by the verbs: load a model by name, pick one step of it, and make inputs for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from anychip.core import InputError, LanguageModel, Module, Precision, UsageError, dtype, unknown

ModelArgument = Annotated[str, typer.Argument(help="A path or a catalogue name.")]
TargetOption = Annotated[str, typer.Option("--target", "-t", help="chip:how, such as cpu:xla.")]
StepOption = Annotated[str, typer.Option(help="Of a language model: decode or prefill.")]
BatchOption = Annotated[int, typer.Option(help="Sequences side by side.")]
ContextOption = Annotated[int, typer.Option(help="Length of the KV cache in tokens.")]
PromptLengthOption = Annotated[
    int, typer.Option("--length", help="Prompt tokens of a prefill step.")
]
PrecisionOption = Annotated[
    str, typer.Option(help="auto, or a precision such as bf16, fp8, int8, q4_0.")
]
DimOption = Annotated[
    list[str] | None,
    typer.Option("--dim", help="NAME=SIZE for a symbolic or open dimension; repeatable."),
]
InputOption = Annotated[
    list[str] | None, typer.Option("--input", "-i", help="NAME=FILE.npy; repeatable.")
]
TensorOption = Annotated[
    int | None, typer.Option(help="Of a simulated twin: chips that share each layer.")
]
PipelineOption = Annotated[
    int | None, typer.Option(help="Of a simulated twin: stages that follow one another.")
]


def twin_options(tensor: int | None, pipeline: int | None) -> dict[str, str]:
    """Compile options that divide a model over a twin's chips; nothing when nothing is asked."""
    asked = {"tensor": tensor, "pipeline": pipeline}
    return {name: str(value) for name, value in asked.items() if value is not None}


def require_values(model: LanguageModel) -> None:
    """Raises UsageError for a model that is known by its shape only."""
    if model.bind(model.native_precision).is_shape_only:
        raise UsageError(
            f"{model.name} is known by its shape only, so there are no weights to run; give the "
            "path of a model that has them, or ask `anychip compare` how fast it would be"
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """Which Module of a model to use."""

    step: str
    batch: int
    length: int
    context: int
    precision: str
    dims: Sequence[str]


@dataclass(frozen=True)
class Loaded:
    """A Module and, by name, the range [low, high) from which made-up integer inputs are drawn.

    `prompt` is, of a decode step with weights, the module that reads so many tokens before it.
    """

    module: Module
    ranges: Mapping[str, tuple[int, int]]
    prompt: Callable[[int], Module] | None = None


def load_sized(name: str, dims: Sequence[str]) -> Module | LanguageModel:
    """The model `name`, its symbolic or open dimensions fixed as the `NAME=SIZE` texts say."""
    from anychip.api import load
    from anychip.frontends.load import takes_dims

    sizes = parse_dims(dims)
    is_sized = bool(sizes) and takes_dims(name)
    model = load(name, dims=sizes) if is_sized else load(name)
    if not isinstance(model, Module):
        return model
    if left := [s for s in model.signature.symbols if is_sized or s not in sizes]:
        wanted = " ".join(f"--dim {symbol}=1" for symbol in left)
        raise UsageError(f"{name} has open dimensions; fix them, such as {wanted}")
    return model if is_sized else model.specialise(sizes)


def load_module(name: str, choice: Step) -> Loaded:
    """One Module of the model `name`, with weights bound where the model has them."""
    model = load_sized(name, choice.dims)
    if isinstance(model, Module):
        return Loaded(model, {})
    if choice.dims:
        raise UsageError("--dim is for models with symbolic dimensions; a language model has none")
    return language_step(model, choice)


def language_step(model: LanguageModel, choice: Step) -> Loaded:
    """The prefill or decode Module of a language model; decode stands in mid-context."""
    for label, value in (("--batch", choice.batch), ("--context", choice.context)):
        if value < 1:
            raise UsageError(f"{label} must be at least 1, got {value}")
    if choice.context > model.facts.context:
        raise UsageError(
            f"{model.name} was made for {model.facts.context} tokens, --context is {choice.context}"
        )
    precision = precision_of(model, choice.precision)
    start = 0
    if choice.step == "decode":
        start = choice.context // 2
        module = model.decode(choice.batch, choice.context, precision)
    elif choice.step == "prefill":
        if not 1 <= choice.length <= choice.context:
            raise UsageError(
                f"--length must be between 1 and --context {choice.context}, got {choice.length}"
            )
        module = model.prefill(choice.batch, choice.length, choice.context, precision)
    else:
        raise unknown("step", choice.step, ("decode", "prefill"))
    ranges = {"tokens": (0, model.facts.vocabulary), "start": (start, start + 1)}
    weights = model.bind(precision)

    def prompt(tokens: int) -> Module:
        read = model.prefill(choice.batch, tokens, choice.context, precision)
        return read.with_weights(weights)

    is_behind = choice.step == "decode" and not weights.is_shape_only
    return Loaded(module.with_weights(weights), ranges, prompt if is_behind else None)


def precision_of(model: LanguageModel, name: str) -> Precision:
    """The precision by name; `auto` is the model's own."""
    if name == "auto":
        return model.native_precision
    from anychip.frontends.llm import PRECISIONS

    if name not in PRECISIONS:
        raise unknown("precision", name, ("auto", *PRECISIONS))
    return PRECISIONS[name]


def parse_dims(texts: Sequence[str]) -> dict[str, int]:
    dims: dict[str, int] = {}
    for text in texts:
        name, equals, size = text.partition("=")
        if not equals or not size.isdigit() or int(size) < 1:
            raise UsageError(f"--dim {text!r} should be NAME=SIZE, such as batch=1")
        dims[name] = int(size)
    return dims


def inputs_for(loaded: Loaded, files: Sequence[str], seed: int) -> list[np.ndarray]:
    """The arguments that are not weights: from `NAME=FILE.npy`, the rest made up from the seed.

    Floats are unit normals, integers are drawn from their range (zero where there is none); state
    that the model itself gives a first value starts there.
    """
    from anychip.debug import made_up

    module = loaded.module
    given = read_inputs(files, module)
    return made_up(module, seed, given=given, ranges=loaded.ranges)


def read_inputs(files: Sequence[str], module: Module) -> dict[str, np.ndarray]:
    """The arrays of `NAME=FILE.npy` texts by name, checked against the module's arguments."""
    names = {a.name for a in module.signature.arguments if a.role != "weight"}
    given: dict[str, np.ndarray] = {}
    for text in files:
        name, equals, path = text.partition("=")
        if not equals:
            raise UsageError(f"--input {text!r} should be NAME=FILE.npy")
        if name not in names:
            raise unknown("input", name, names)
        try:
            given[name] = np.load(Path(path), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"not a readable .npy file: {error}", path=path) from None
    for argument in module.signature.arguments:
        if argument.name in given:
            shape = tuple(int(d) for d in argument.shape)
            _checked(argument.name, given[argument.name], shape, dtype(argument.dtype).numpy)
    return given


def _checked(name: str, array: Any, shape: tuple[int, ...], element: np.dtype) -> None:
    if array.shape != shape or array.dtype != element:
        raise UsageError(
            f"input {name} should be {element}{list(shape)}, the file has "
            f"{array.dtype}{list(array.shape)}"
        )
