"""Reductions: one monoid over some dimensions, arg-max and arg-min, all and any, sort, top-k."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.compilers.onnx_export.typed import computing_type
from anychip.core import UnsupportedError, dtype
from anychip.ops.reducer import monoid
from anychip.ops.view import Block, OpView

_KINDS = {
    "stablehlo.add": ("ReduceSum", "Add"),
    "stablehlo.multiply": ("ReduceProd", "Mul"),
    "stablehlo.maximum": ("ReduceMax", "Max"),
    "stablehlo.minimum": ("ReduceMin", "Min"),
    "stablehlo.and": ("ReduceMin", "Min"),
    "stablehlo.or": ("ReduceMax", "Max"),
}


def neutral(how: str, element: str) -> Any:
    """The value that changes nothing."""
    if how == "stablehlo.add":
        return 0
    if how == "stablehlo.multiply":
        return 1
    is_max = how in ("stablehlo.maximum", "stablehlo.or")
    kind = dtype(element).kind
    if kind == "bool":
        return not is_max
    if kind == "float":
        return -np.inf if is_max else np.inf
    limits = np.iinfo(dtype(element).numpy)
    return limits.min if is_max else limits.max


def _reduce(g: Graph, op: OpView, *tensors: Tensor) -> Any:
    half = len(tensors) // 2
    dims = op.attributes["dimensions"]
    if half != 1:
        return _argument(g, op, tensors[:half], dims)
    x, start = tensors
    how = monoid(op.regions[0])
    element = x.dtype
    is_bool = element == "i1"
    if how not in _KINDS or (how in ("stablehlo.and", "stablehlo.or") and not is_bool):
        raise UnsupportedError("ONNX reduces by sum, product, maximum, minimum, and, or only")
    if is_bool:
        how = {"stablehlo.add": "stablehlo.or", "stablehlo.multiply": "stablehlo.and"}.get(how, how)
    wide = "i32" if is_bool else computing_type(element)
    if wide == "ui64":
        raise UnsupportedError("runtimes reduce no ui64; use i64")
    name = g.whole(x)
    name = name if wide == element else g.cast(name, wide)
    kind, join = _KINDS[how]
    out = op.outputs[0]
    if dims:
        source = name
        name = g.node(kind, [source, g.ints(*dims)], keepdims=0)
        if None not in x.shape:
            count = math.prod(d or 0 for i, d in enumerate(x.shape) if i in dims)
            if kind == "ReduceSum":
                g.counts[name] = count
            g.kept_shape[name] = tuple(1 if i in dims else d for i, d in enumerate(x.shape))
    initial = g.arrays.get(start.name)
    if initial is None or not (initial.reshape(()) == neutral(how, element)):
        value = start.name if wide == element else g.cast(start.name, wide)
        name = g.node(join, [name, value])
    name = name if wide == element else g.cast(name, element)
    return Tensor(name, out.shape, out.shape, out.dtype)


def _argument(g: Graph, op: OpView, tensors: tuple[Tensor, ...], dims: tuple[int, ...]) -> Any:
    """Value and index of the greatest or least: operands are numbers and their iota."""
    directions = [
        o.attributes["comparison_direction"]
        for o in op.regions[0].ops
        if o.name == "stablehlo.compare" and set(o.operands) <= set(op.regions[0].arguments)
    ]
    which = [d for d in directions if d in ("GT", "GE", "LT", "LE")]
    values, index = tensors[0], tensors[1] if len(tensors) == 2 else tensors[0]
    if len(tensors) != 2 or len(dims) != 1 or not which or not _is_iota(g, index, dims[0]):
        raise UnsupportedError("ONNX reduces several operands only as arg-max and arg-min")
    kind = "Max" if which[0] in ("GT", "GE") else "Min"
    wide = computing_type(values.dtype)
    name = g.whole(values)
    name = name if wide == values.dtype else g.cast(name, wide)
    best = g.node(f"Reduce{kind}", [name, g.ints(*dims)], keepdims=0)
    best = best if wide == values.dtype else g.cast(best, values.dtype)
    at = g.node(f"Arg{kind}", [name], axis=dims[0], keepdims=0)
    return [best, at if index.dtype == "i64" else g.cast(at, index.dtype)]


def _is_iota(g: Graph, t: Tensor, dim: int) -> bool:
    array = g.arrays.get(t.name)
    if array is None or t.held[dim] != t.shape[dim] or array.size != t.shape[dim]:
        return False
    return bool((array.reshape(-1) == np.arange(array.size)).all())


def _sort(g: Graph, op: OpView, *tensors: Tensor) -> Any:
    """By one key with LT or GT: TopK of all, whose ties keep their order."""
    key, is_rising = _key(op.regions[0])
    axis = op.attributes.get("dimension", -1)
    size = tensors[0].shape[axis]
    if size is None:
        raise UnsupportedError("a sort of a size known only when running")
    names = [g.whole(t) for t in tensors]
    wide = computing_type(tensors[key].dtype)
    wide = "i32" if wide == "i1" else wide
    if wide == "ui64":
        raise UnsupportedError("runtimes order no ui64; use i64")
    keys = names[key] if wide == tensors[key].dtype else g.cast(names[key], wide)
    _, at = g.nodes_of(
        "TopK", [keys, g.ints(size)], 2, axis=axis, largest=int(not is_rising), sorted=1
    )
    return [g.node("GatherElements", [n, at], axis=axis) for n in names]


def _key(block: Block) -> tuple[int, bool]:
    """(which operand is the key, whether it rises) of a comparator of two elements of one operand.

    JAX wraps floats in selects that order NaN last and equal zeros; those are looked through.
    """
    made = {r: o for o in block.ops for r in o.results}
    last = made.get(block.results[0])
    if last is None or last.name != "stablehlo.compare":
        raise UnsupportedError("ONNX sorts by comparing one key only")
    lhs, rhs = (set(_arguments(v, made, block)) for v in last.operands)
    how = last.attributes["comparison_direction"]
    if len(lhs) != 1 or len(rhs) != 1 or how not in ("LT", "GT"):
        raise UnsupportedError("ONNX sorts by comparing one key with LT or GT only")
    (a,), (b,) = lhs, rhs
    if a // 2 != b // 2 or a == b:
        raise UnsupportedError("ONNX sorts by comparing one key with itself only")
    is_bare = all(v in block.arguments for v in last.operands)
    if is_bare and last.attributes.get("compare_type") == "TOTALORDER":
        raise UnsupportedError("ONNX has no total order of floats (-0 before 0, NaN by its sign)")
    return a // 2, (how == "LT") == (a < b)


def _arguments(value: Any, made: Any, block: Block) -> Iterator[int]:
    if value in block.arguments:
        yield block.arguments.index(value)
    elif (op := made.get(value)) is not None:
        if op.name not in ("stablehlo.select", "stablehlo.compare", "stablehlo.constant"):
            raise UnsupportedError("ONNX sorts by a key as it is, not by a function of it")
        for operand in op.operands:
            yield from _arguments(operand, made, block)


def _top_k(g: Graph, op: OpView, x: Tensor) -> Any:
    k, out = op.attributes["k"], op.outputs
    wide = computing_type(x.dtype)
    name = g.whole(x)
    name = name if wide == x.dtype else g.cast(name, wide)
    best, at = g.nodes_of("TopK", [name, g.ints(k)], 2, axis=-1, largest=1, sorted=1)
    best = best if wide == out[0].dtype else g.cast(best, out[0].dtype)
    return [best, at if out[1].dtype == "i64" else g.cast(at, out[1].dtype)]


RULES = {
    "stablehlo.reduce": _reduce,
    "stablehlo.sort": _sort,
    "chlo.top_k": _top_k,
}
