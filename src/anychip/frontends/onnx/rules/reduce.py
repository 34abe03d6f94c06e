"""Reductions, softmax and scans along axes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anychip.frontends.onnx.fold import is_sizes, is_symbolic
from anychip.frontends.onnx.rules.tensor import axes_of
from anychip.frontends.onnx.table import Call, op
from anychip.ops import composites


def _axes(call: Call, x: Any, axes: Any) -> tuple[int, ...] | None:
    """Axes to reduce, () when the node says to leave the tensor as it is."""
    chosen = axes_of(call, axes, x.ndim)
    if not chosen:
        return () if call.attr("noop_with_empty_axes", 0) else None
    return tuple(chosen)


def _reduction(name: str, before: Any, reducer: str, after: Any) -> None:
    """An op `after(reduce(before(x)))`."""

    def rule(call: Call, x: Any, axes: Any = None) -> Any:
        chosen = _axes(call, x, axes)
        keep = bool(call.attr("keepdims", 1))
        y = before(call.xp, x)
        if chosen != ():
            y = _reduce(call.xp, reducer, y, chosen, keep)
        return after(call.xp, y).astype(object if is_sizes(x) else x.dtype)

    rule.__name__ = name.lower()
    op(name, known=(1,), folds=True)(rule)


def _reduce(xp: Any, reducer: str, x: Any, axes: Any, keep: bool) -> Any:
    extra: dict[str, Any] = {}
    if reducer in ("sum", "prod") and x.dtype != object:
        extra["dtype"] = x.dtype
    if reducer in ("max", "min") and x.dtype != object and 0 in x.shape:
        extra["initial"] = _identity(reducer, x.dtype)
    return getattr(xp, reducer)(x, axis=axes, keepdims=keep, **extra)


def _identity(reducer: str, kind: Any) -> Any:
    if kind == np.bool_:
        return reducer == "min"
    if kind.kind == "f":
        return -np.inf if reducer == "max" else np.inf
    info = jnp.iinfo(kind)
    return info.min if reducer == "max" else info.max


def _same(xp: Any, x: Any) -> Any:
    return x


for _name, _before, _reducer, _after in (
    ("ReduceSum", _same, "sum", _same),
    ("ReduceProd", _same, "prod", _same),
    ("ReduceMax", _same, "max", _same),
    ("ReduceMin", _same, "min", _same),
    ("ReduceL1", lambda xp, x: xp.abs(x), "sum", _same),
    ("ReduceL2", lambda xp, x: x * x, "sum", lambda xp, x: xp.sqrt(x)),
    ("ReduceSumSquare", lambda xp, x: x * x, "sum", _same),
    ("ReduceLogSum", _same, "sum", lambda xp, x: xp.log(x)),
):
    _reduction(_name, _before, _reducer, _after)


@op("ReduceMean", known=(1,), eager=True)
def reduce_mean(call: Call, x: Any, axes: Any = None) -> Any:
    chosen = _axes(call, x, axes)
    if chosen == ():
        return x
    return jnp.mean(x, axis=chosen, keepdims=bool(call.attr("keepdims", 1))).astype(x.dtype)


@op("ReduceLogSumExp", known=(1,))
def reduce_log_sum_exp(call: Call, x: Any, axes: Any = None) -> Any:
    chosen = _axes(call, x, axes)
    if chosen == ():
        return x
    keep = bool(call.attr("keepdims", 1))
    wide = x if x.dtype.kind == "f" else x.astype(np.float64)
    return jax.nn.logsumexp(wide, axis=chosen, keepdims=keep).astype(x.dtype)


@op("ArgMax", "ArgMin", eager=True)
def arg_max(call: Call, x: Any) -> Any:
    axis, keep = call.attr("axis", 0), bool(call.attr("keepdims", 1))
    find = jnp.argmax if call.node.op == "ArgMax" else jnp.argmin
    if call.attr("select_last_index", 0):
        found = x.shape[axis] - 1 - find(jnp.flip(x, axis), axis=axis, keepdims=keep)
    else:
        found = find(x, axis=axis, keepdims=keep)
    return jnp.asarray(found).astype(np.int64)


def over_rows(call: Call, x: Any, function: Any) -> Any:
    """Apply along `axis`; before opset 13 the axes from `axis` on are one, flattened."""
    if call.version >= 13:
        return function(x, call.attr("axis", -1))
    axis = call.attr("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    flat = x.reshape((*x.shape[:axis], -1))
    return function(flat, -1).reshape(x.shape)


@op("Softmax")
def softmax(call: Call, x: Any) -> Any:
    if is_symbolic(x.shape):
        return over_rows(call, x, _softmax_symbolic)
    return over_rows(call, x, lambda y, axis: call.composite(composites.softmax, y, axis=axis))


def _shifted(x: Any, axis: int) -> Any:
    """x minus its maximum; jnp.max wants proof that a symbolic axis is not empty."""
    lowest = np.asarray(-np.inf, x.dtype)
    top = jax.lax.reduce(x, lowest, jax.lax.max, (axis % x.ndim,))
    return x - jnp.expand_dims(top, axis)


def _softmax_symbolic(x: Any, axis: int) -> Any:
    e = jnp.exp(_shifted(x if x.dtype == np.float64 else x.astype(np.float32), axis))
    return (e / jnp.sum(e, axis=axis, keepdims=True)).astype(x.dtype)


@op("LogSoftmax")
def log_softmax(call: Call, x: Any) -> Any:
    def along(y: Any, axis: int) -> Any:
        shifted = _shifted(y, axis)
        return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=axis, keepdims=True))

    return over_rows(call, x, along)


@op("Hardmax")
def hardmax(call: Call, x: Any) -> Any:
    def along(y: Any, axis: int) -> Any:
        hot = jax.nn.one_hot(jnp.argmax(y, axis=axis), y.shape[axis], axis=axis, dtype=y.dtype)
        return hot

    return over_rows(call, x, along)


@op("CumSum", known=(1,), folds=True)
def cum_sum(call: Call, x: Any, axis: Any) -> Any:
    return _cumulative(call, x, axis, "cumsum", 0)


@op("CumProd", known=(1,), folds=True)
def cum_prod(call: Call, x: Any, axis: Any) -> Any:
    return _cumulative(call, x, axis, "cumprod", 1)


def _cumulative(call: Call, x: Any, axis: Any, function: str, start: int) -> Any:
    xp, along = call.xp, int(np.asarray(axis).reshape(()))
    if call.attr("reverse", 0):
        x = xp.flip(x, along)
    out = getattr(xp, function)(x, axis=along, dtype=x.dtype)
    if call.attr("exclusive", 0):
        moved = xp.moveaxis(out, along, 0)
        first = xp.full_like(moved[:1], start)
        out = xp.moveaxis(xp.concatenate([first, moved[:-1]]), 0, along)
    return xp.flip(out, along) if call.attr("reverse", 0) else out


@op("LpNormalization")
def lp_normalization(call: Call, x: Any) -> Any:
    axis = call.attr("axis", -1)
    if call.attr("p", 2) == 1:
        norm = jnp.sum(jnp.abs(x), axis=axis, keepdims=True)
    else:
        norm = jnp.sqrt(jnp.sum(x * x, axis=axis, keepdims=True))
    return jnp.where(norm == 0, jnp.zeros_like(x), x / norm)
