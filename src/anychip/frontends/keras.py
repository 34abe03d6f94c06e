"""Keras models on Keras' JAX backend, where the batch can be symbolic."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from anychip.core.errors import UnsupportedError, UsageError
from anychip.core.module import Module
from anychip.frontends import jax as functions
from anychip.frontends.jax import Shape


def runs_on_jax() -> bool:
    """Whether Keras, where it is in use, computes with JAX in this process."""
    keras = sys.modules.get("keras")
    return keras is not None and keras.config.backend() == "jax"


def load(
    model: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    shapes: Mapping[str, Shape] | None = None,
    guards: Sequence[str] = (),
    name: str = "",
) -> Module:
    """A built Keras model in inference, its variables as weights under their own paths.

    Inputs have the names of the model's `keras.Input`s; `example_inputs`, `shapes` and `guards` are
    as `anychip.frontends.jax.load` takes them. Raises UnsupportedError for a model that changes
    variables while it infers.
    """
    if not model.built:
        raise UsageError(f"{model.name} is not built; call it once, or give it a keras.Input")
    names = [one.name for one in model.inputs]
    if not isinstance(example_inputs, Mapping):
        given = example_inputs if isinstance(example_inputs, list | tuple) else [example_inputs]
        if example_inputs is None or len(given) != len(names):
            raise UsageError(f"{model.name} needs an example for each input: {', '.join(names)}")
        example_inputs = dict(zip(names, given, strict=True))

    def call(variables: Mapping[str, Any], **inputs: Any) -> Any:
        trained = [variables[v.path] for v in model.trainable_variables]
        kept = [variables[v.path] for v in model.non_trainable_variables]
        arrays = [inputs[one] for one in names]
        result, after = model.stateless_call(
            trained, kept, arrays if len(arrays) > 1 else arrays[0], training=False
        )
        changed = [
            v.path
            for v, old, new in zip(model.non_trainable_variables, kept, after, strict=True)
            if new is not old
        ]
        if changed:
            raise UnsupportedError(
                f"{model.name} changes {', '.join(changed)} while it infers; give such state as an "
                "input and a result, or load the model on Keras' TensorFlow backend"
            )
        return result

    variables = {v.path: v.value for v in model.variables}
    return functions.load(
        call,
        example_inputs,
        params=variables,
        shapes=shapes,
        guards=guards,
        name=name or model.name,
    )
