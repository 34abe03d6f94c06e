"""Which frontend reads what: by path, by catalogue name, or by the framework of an object."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core import InputError, LanguageModel, Module, UsageError, unknown

Examples = Sequence[Any] | Mapping[str, Any] | None
Loaded = Module | LanguageModel


def load_any(
    model: Any, example_inputs: Examples, *, home: Path, options: Mapping[str, Any]
) -> Loaded:
    """See `anychip.load`. `home` is where pulled models are."""
    if not isinstance(model, str | Path):
        return _object_loader(model)(model, example_inputs, options)
    path = Path(model).expanduser()
    if path.exists() or path.suffix in _BY_SUFFIX or "/" in str(model):
        if not path.exists():
            raise InputError("no such file or folder", path=str(path))
        return _path_loader(path)(path, example_inputs, options)
    _nothing_more(f"catalogue model {model}", example_inputs, options)
    return _from_catalogue(str(model), home)


def takes_dims(model: str | Path) -> bool:
    """Whether `load` fixes sizes with `dims`: TensorFlow leaves no symbols, and an ONNX model may
    come in at known sizes only."""
    path = Path(model).expanduser()
    return path.exists() and _path_loader(path) in (_tensorflow, _onnx)


def catalogue_names() -> list[str]:
    """The names `load` knows besides paths."""
    from anychip.frontends.llm.catalogue import names

    return sorted(names())


def _from_catalogue(name: str, home: Path) -> LanguageModel:
    """The pulled file when there is one, else the published shapes."""
    from anychip.frontends.llm.catalogue import model, names
    from anychip.frontends.pull import catalogue, pulled_path

    fetchable = catalogue().get(name)
    if fetchable is not None and pulled_path(fetchable, home).is_file():
        from anychip.frontends.gguf import load_gguf

        return load_gguf(pulled_path(fetchable, home), name=name)
    if name not in names():
        raise unknown("model", name, names())
    return model(name)


def _path_loader(path: Path) -> Callable[[Any, Examples, Mapping[str, Any]], Loaded]:
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return _tensorflow
    if path.is_dir() and (path / "config.json").is_file():
        return _hf
    if path.suffix in _OTHERS and path.is_file():
        raise InputError(_OTHERS[path.suffix], path=str(path))
    if path.suffix not in _BY_SUFFIX or path.is_dir():
        raise InputError(
            f"cannot tell what this is. Known endings: {', '.join(_BY_SUFFIX)}; known folders: "
            "config.json inside (Hugging Face), saved_model.pb inside (TensorFlow)",
            path=str(path),
        )
    return _BY_SUFFIX[path.suffix]


def _object_loader(model: Any) -> Callable[[Any, Examples, Mapping[str, Any]], Loaded]:
    """By the package of the object's class or one of its bases, without importing any framework."""
    packages = {base.__module__.split(".")[0] for base in type(model).__mro__}
    if "torch" in packages:
        return _torch
    if packages & {"tensorflow", "keras"}:
        return _tensorflow
    if callable(model):
        return _jax
    raise UsageError(
        f"cannot load a {type(model).__module__}.{type(model).__name__}; give a path, a catalogue "
        "name, a PyTorch module, a Keras model, a tf.function or a JAX function"
    )


def _gguf(path: Path, example_inputs: Examples, options: Mapping[str, Any]) -> Loaded:
    from anychip.frontends.gguf import load_gguf

    _nothing_more("a GGUF file", example_inputs, options)
    return load_gguf(path)


def _onnx(path: Path, example_inputs: Examples, options: Mapping[str, Any]) -> Loaded:
    from anychip.frontends.onnx import load

    _known(load, "an ONNX model", options)
    if example_inputs is None:
        return load(path, **options)
    if not isinstance(example_inputs, Mapping) or "shapes" in options:
        raise UsageError(
            "an ONNX model takes example_inputs by name ({input: array}), or shapes={input: sizes}"
        )
    shapes = {name: tuple(np.shape(array)) for name, array in example_inputs.items()}
    return load(path, shapes=shapes, **options)


def _stablehlo(path: Path, example_inputs: Examples, options: Mapping[str, Any]) -> Loaded:
    from anychip.frontends.stablehlo import load

    _nothing_more("a StableHLO file", example_inputs, options)
    return load(path)


def _hf(path: Path, example_inputs: Examples, options: Mapping[str, Any]) -> Loaded:
    from anychip.frontends.hf import load_hf

    if "trust_remote_code" in options:
        raise UsageError(
            "code from a model folder is never run, so there is no trust_remote_code here; where "
            "you trust it, make the nn.Module with transformers and pass it with example inputs"
        )
    _known(load_hf, "a Hugging Face folder", options)
    return load_hf(path, example_inputs, **options)


def _torch(model: Any, example_inputs: Examples, options: Mapping[str, Any]) -> Loaded:
    from anychip.frontends.torch import load

    _known(load, "a PyTorch model", options)
    return load(model, example_inputs, **options)


def _tensorflow(model: Any, example_inputs: Examples, options: Mapping[str, Any]) -> Loaded:
    from anychip.frontends import keras

    if not isinstance(model, str | Path) and hasattr(model, "stateless_call"):
        if keras.runs_on_jax():
            _known(keras.load, "a Keras model on its JAX backend", options)
            return keras.load(model, example_inputs, **options)
    from anychip.frontends.tensorflow import load_tensorflow

    _known(load_tensorflow, "a TensorFlow model", options)
    return load_tensorflow(model, example_inputs, **options)


def _jax(model: Any, example_inputs: Examples, options: Mapping[str, Any]) -> Loaded:
    from anychip.frontends.jax import load

    _known(load, "a JAX function", options)
    return load(model, example_inputs, **options)


def _known(loader: Callable[..., Any], what: str, options: Mapping[str, Any]) -> None:
    """Refuse an option that the loader does not have, by its own signature."""
    parameters = inspect.signature(loader).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in names:
            raise unknown(f"option of {what}", name, names)


def _nothing_more(what: str, example_inputs: Examples, options: Mapping[str, Any]) -> None:
    extra = [*(["example_inputs"] if example_inputs is not None else []), *options]
    if extra:
        raise UsageError(f"{what} carries its own shapes and takes no {', '.join(extra)}")


_BY_SUFFIX: dict[str, Callable[[Any, Examples, Mapping[str, Any]], Loaded]] = {
    ".gguf": _gguf,
    ".onnx": _onnx,
    ".pt2": _torch,
    ".pt": _torch,  # TorchScript
    ".pth": _torch,
    ".keras": _tensorflow,
    ".mlir": _stablehlo,
    ".mlirbc": _stablehlo,
    ".stablehlo": _stablehlo,
}
_OTHERS = {
    ".safetensors": "holds weights but no graph; give the Hugging Face folder it lies in, the one "
    "with config.json",
    ".bin": "no format with a graph; give the folder with config.json and safetensors, or pass the "
    "nn.Module",
    ".h5": "Keras' older format; pass the model itself (keras.models.load_model), or save it as "
    ".keras",
    ".pb": "a part of a SavedModel; give the folder it lies in, saved by tf.saved_model.save",
    ".tflite": "made for TensorFlow Lite's own runtime; give the SavedModel or Keras model it was "
    "made from",
}
"""Files people have beside a model that can come in, and what to give instead."""
