"""load_hf: a folder as a LanguageModel where it generates text, as a Module otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anychip.core.errors import UsageError
from anychip.core.language_model import LanguageModel
from anychip.core.module import Module


def load_hf(
    path: str | Path,
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    dtype: str = "",
    name: str = "",
    strict: bool | None = None,
    seed: int | None = None,
) -> Module | LanguageModel:
    """A Hugging Face folder.

    Without `example_inputs` a model that generates text becomes a LanguageModel, one that reads
    token ids or images a Module with a symbolic batch (and length). With them, any model becomes
    the Module of its forward for these inputs (as `anychip.frontends.torch.load` takes them).
    `dtype` is an element type to load the weights in (`f32`); by default it is the file's own.

    Weights stay in the safetensors files until they are touched. Code inside the folder is never
    run. Raises InputError for a damaged folder, UnsupportedError for what cannot be expressed,
    SetupError when transformers is not installed.
    """
    from anychip.frontends.hf.folder import Folder
    from anychip.frontends.torch import load

    folder = Folder.read(Path(path))
    name = name or folder.path.resolve().name
    if example_inputs is None and example_kwargs is None:
        if dynamic_shapes is not None:
            raise UsageError("dynamic_shapes describe example_inputs; give both")
        if folder.generates_text:
            from anychip.frontends.hf.language import language_model

            return language_model(folder, name=name, dtype=dtype)
        example_inputs, dynamic_shapes = folder.usual_inputs()
    model = folder.model(dtype)
    module = load(
        model,
        () if example_inputs is None else example_inputs,
        example_kwargs=example_kwargs,
        dynamic_shapes=dynamic_shapes,
        name=name,
        strict=strict,
        seed=seed,
    )
    return module.with_weights(folder.weights(module, model))
