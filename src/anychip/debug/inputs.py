"""Inputs for a Module that come from nowhere: equal for equal seeds. And a text to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anychip.core import Module, dtype


def made_up(
    module: Module,
    seed: int = 0,
    *,
    given: Mapping[str, Any] | None = None,
    ranges: Mapping[str, tuple[int, int]] | None = None,
) -> list[np.ndarray]:
    """The arguments that are not weights: those `given` by name, the rest drawn from the seed.

    Floats are unit normals, integers are drawn from their range [low, high) (zero where there is
    none); state that the model itself gives a first value starts there.
    """
    given, ranges = given or {}, ranges or {}
    random = np.random.default_rng(seed)
    arrays: list[np.ndarray] = []
    for argument in module.signature.arguments:
        if argument.role == "weight":
            continue
        element = dtype(argument.dtype)
        shape = tuple(int(d) for d in argument.shape)
        low, high = ranges.get(argument.name, (0, 1))
        if argument.name in given:
            arrays.append(np.asarray(given[argument.name]))
        elif argument.role == "state" and argument.name in module.weights:
            arrays.append(module.weights[argument.name].array())
        elif element.kind in ("float", "complex"):
            arrays.append(random.standard_normal(shape).astype(element.numpy))
        else:
            arrays.append(random.integers(low, high, shape).astype(element.numpy))
    return arrays
