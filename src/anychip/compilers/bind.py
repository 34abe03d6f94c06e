"""What is checked whatever the compiler: fixed shapes, weights with values, inputs that fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anychip.core import InputError, Module, UsageError, dtype


def placed(module: Module, inputs: Sequence[Any]) -> dict[int, np.ndarray]:
    """The inputs, contiguous, by their place in the signature.

    Raises UsageError for a wrong number, shape or element type.
    """
    slots = [(i, a) for i, a in enumerate(module.signature.arguments) if a.role != "weight"]
    if len(inputs) != len(slots):
        wanted = ", ".join(a.name for _, a in slots)
        raise UsageError(
            f"{module.name} takes {len(slots)} arrays besides its weights ({wanted}), "
            f"got {len(inputs)}"
        )
    given: dict[int, np.ndarray] = {}
    for (index, argument), value in zip(slots, inputs, strict=True):
        array = np.asarray(value)
        if array.shape != argument.shape or array.dtype != dtype(argument.dtype).numpy:
            raise UsageError(
                f"{argument.role} {argument.name} of {module.name} should be "
                f"{argument.dtype}{list(argument.shape)}, got {array.dtype}{list(array.shape)}"
            )
        given[index] = array if array.flags.c_contiguous else array.copy()
    return given


def check_fixed(module: Module, target: str) -> None:
    """Raise UsageError for symbolic dimensions."""
    if symbols := module.signature.symbols:
        raise UsageError(
            f"{target} compiles fixed shapes; module {module.name} has symbolic dimensions "
            f"{', '.join(symbols)}. Fix them first: module.specialise({{name: size, …}})"
        )


def check_weights(module: Module, target: str) -> None:
    """Raise InputError for weights that are known by shape only."""
    for argument in module.signature.named("weight"):
        if argument.name not in module.weights or module.weights[argument.name].read is None:
            raise InputError(
                f"{target} needs the weights' values; {argument.name} of {module.name} has none. "
                "Load a file that carries them, or bind them with module.with_weights(…)"
            )
