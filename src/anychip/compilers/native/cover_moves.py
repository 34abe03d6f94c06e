"""Ops that only move elements, which become views and cost nothing, and ops on numbers that are
known while planning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from anychip.compilers.native.view import FLOATS, NoKernel, Shape, View
from anychip.core import dtype
from anychip.ops.view import OpView


def reshape(reader: Any, op: OpView, inputs: list[Any]) -> View:
    view = reader.view(inputs[0])
    return view.reshaped(op.outputs[0].sizes) or _must(
        reader.copied(view).reshaped(op.outputs[0].sizes)
    )


def _must(view: View | None) -> View:
    assert view is not None
    return view


def transpose(reader: Any, op: OpView, inputs: list[Any]) -> View:
    return reader.view(inputs[0]).transposed(op.attributes["permutation"])


def slice(reader: Any, op: OpView, inputs: list[Any]) -> View:
    a = op.attributes
    return reader.view(inputs[0]).sliced(a["start_indices"], a["limit_indices"], a["strides"])


def broadcast(reader: Any, op: OpView, inputs: list[Any]) -> View:
    shape: Shape = op.outputs[0].sizes
    return reader.view(inputs[0]).broadcast(shape, op.attributes["broadcast_dimensions"])


def convert(reader: Any, op: OpView, inputs: list[Any]) -> View:
    view = reader.view(inputs[0])
    if view.element not in FLOATS or op.outputs[0].dtype not in FLOATS:
        raise NoKernel(f"{op.inputs[0].dtype} to {op.outputs[0].dtype}")
    return view


MOVES: dict[str, Any] = {
    "stablehlo.reshape": reshape,
    "stablehlo.transpose": transpose,
    "stablehlo.slice": slice,
    "stablehlo.broadcast_in_dim": broadcast,
    "stablehlo.convert": convert,
}


def _fold_broadcast(op: OpView, x: np.ndarray) -> np.ndarray:
    shape, dims = op.outputs[0].sizes, op.attributes["broadcast_dimensions"]
    full = [1] * len(shape)
    for own, dim in enumerate(dims):
        full[dim] = x.shape[own]
    return np.broadcast_to(x.reshape(full), shape)


def _fold_iota(op: OpView) -> np.ndarray:
    spec, dim = op.outputs[0], op.attributes["iota_dimension"]
    steps = np.arange(spec.sizes[dim], dtype=dtype(spec.dtype).numpy)
    return _along(steps, spec.sizes, dim)


def _along(steps: np.ndarray, shape: Shape, dim: int) -> np.ndarray:
    full = [1] * len(shape)
    full[dim] = shape[dim]
    return np.broadcast_to(steps.reshape(full), shape)


FOLDS: dict[str, Callable[..., np.ndarray]] = {
    "stablehlo.constant": lambda op: np.asarray(op.attributes["value"]),
    "stablehlo.iota": _fold_iota,
    "stablehlo.broadcast_in_dim": _fold_broadcast,
    "stablehlo.reshape": lambda op, x: x.reshape(op.outputs[0].sizes),
    "stablehlo.transpose": lambda op, x: x.transpose(op.attributes["permutation"]),
    "stablehlo.convert": lambda op, x: x.astype(dtype(op.outputs[0].dtype).numpy),
    "stablehlo.add": lambda op, x, y: x + y,
    "stablehlo.subtract": lambda op, x, y: x - y,
    "stablehlo.multiply": lambda op, x, y: x * y,
}
"""On known numbers, at planning time."""
