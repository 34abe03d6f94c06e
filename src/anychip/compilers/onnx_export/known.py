"""What can be computed while exporting: a few ONNX ops in NumPy, on small constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from anychip.compilers.onnx_export.element import onnx_type
from anychip.core import DTYPES

MOST = 1 << 16
"""Constants of more elements are left to the runtime, which folds them as it likes."""


def compute(kind: str, arrays: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> Any:
    """The one result as an array; None when the op is not known here or the result is large."""
    if kind == "Cast":
        for name in ("i1", "i32", "i64", "f32", "f64"):
            if onnx_type(name, "") == attributes["to"] and arrays[0].dtype.kind in "biuf":
                with np.errstate(invalid="ignore", over="ignore"):
                    return arrays[0].astype(DTYPES[name].numpy)
        return None
    if kind == "Transpose":
        return arrays[0].transpose(attributes["perm"])
    if kind == "Concat":
        return np.concatenate(arrays, attributes["axis"])
    if kind == "Gather":
        x, at = arrays
        in_range = bool(((at >= 0) & (at < x.shape[attributes["axis"]])).all())
        made = np.take(x, at, attributes["axis"]) if in_range else None
        return made if made is None or made.size <= MOST else None
    if kind in _REDUCE and arrays[0].dtype.kind in "biuf" and arrays[0].size:
        axes = tuple(int(a) for a in arrays[1])
        return np.asarray(_REDUCE[kind](arrays[0], axis=axes, keepdims=attributes["keepdims"] == 1))
    plain = _PLAIN.get(kind)
    if plain is None or any(a.dtype.kind not in "biuf" for a in arrays):
        return None
    with np.errstate(all="ignore"):
        made = plain(*arrays)
    return None if made is None or np.asarray(made).size > MOST else np.asarray(made)


def _slice(x: Any, starts: Any, ends: Any, axes: Any, steps: Any = None) -> Any:
    steps = np.ones_like(axes) if steps is None else steps
    if (steps < 0).any():
        return np.flip(x, tuple(int(a) for a in axes)) if (starts == -1).all() else None
    parts = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        parts[int(axis)] = slice(int(start), int(end), int(step))
    return x[tuple(parts)]


def _reshape(x: Any, shape: Any) -> Any:
    return x.reshape([int(d) for d in shape])


def _expand(x: Any, shape: Any) -> Any:
    full = np.broadcast_shapes(x.shape, tuple(int(d) for d in shape))
    return np.broadcast_to(x, full) if np.prod(full) <= MOST else np.empty(MOST + 1)


def _divide(x: Any, y: Any) -> Any:
    return x / y if x.dtype.kind == "f" else None


def _sum(x: Any, axis: Any, keepdims: bool) -> Any:
    return np.sum(x, axis=axis, keepdims=keepdims, dtype=x.dtype)


_REDUCE: Mapping[str, Callable[..., Any]] = {
    "ReduceSum": _sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
}
_PLAIN: Mapping[str, Callable[..., Any]] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "Slice": _slice,
    "Squeeze": lambda x, axes: np.squeeze(x, tuple(int(a) for a in axes)),
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Sqrt": np.sqrt,
    "Neg": np.negative,
    "Max": np.maximum,
    "Min": np.minimum,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Not": np.logical_not,
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Where": np.where,
    "Clip": np.clip,
    "Abs": np.abs,
    "Exp": np.exp,
    "Pow": np.power,
}
