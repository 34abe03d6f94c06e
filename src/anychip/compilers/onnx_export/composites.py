"""Composites as ONNX's own ops. A rule that returns None asks for the composite's body instead.

Only f32: other types keep the body, whose conversions say exactly what is rounded where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.ops.composite import attributes_of
from anychip.ops.view import OpView


def _like(op: OpView, name: str) -> Tensor:
    spec = op.outputs[0]
    return Tensor(name, spec.shape, spec.shape, spec.dtype)


def _is_f32(*tensors: Tensor) -> bool:
    return all(t.dtype == "f32" for t in tensors)


def _softmax(g: Graph, op: OpView, x: Tensor) -> Tensor | None:
    if not _is_f32(x):
        return None
    axis = int(attributes_of(op)["axis"])
    return _like(op, g.node("Softmax", [g.whole(x)], axis=axis))


def _layer_norm(g: Graph, op: OpView, x: Tensor, *given: Tensor) -> Tensor | None:
    if not _is_f32(x, *given) or x.shape[-1] is None:
        return None
    names = [g.whole(t) for t in given] or [g.constant([1.0] * x.shape[-1], "f32")]
    eps = float(attributes_of(op)["eps"])
    return _like(op, g.node("LayerNormalization", [g.whole(x), *names], axis=-1, epsilon=eps))


def _rms_norm(g: Graph, op: OpView, x: Tensor, *given: Tensor) -> Tensor | None:
    a = attributes_of(op)
    if not _is_f32(x, *given) or x.shape[-1] is None:
        return None
    if not given:
        scale = g.constant([1.0] * x.shape[-1], "f32")
    else:
        scale = g.whole(given[0])
        if a["offset"]:
            scale = g.node("Add", [scale, g.constant(float(a["offset"]), "f32")])
    eps = float(a["eps"])
    return _like(op, g.node("RMSNormalization", [g.whole(x), scale], axis=-1, epsilon=eps))


def _gelu(g: Graph, op: OpView, x: Tensor) -> Tensor | None:
    if not _is_f32(x):
        return None
    how = "tanh" if attributes_of(op)["approximate"] else "none"
    return _like(op, g.node("Gelu", [g.whole(x)], approximate=how))


def _silu(g: Graph, op: OpView, x: Tensor) -> Tensor | None:
    if not _is_f32(x):
        return None
    name = g.whole(x)
    return _like(op, g.node("Mul", [name, g.node("Sigmoid", [name])]))


def _attention(g: Graph, op: OpView, *tensors: Tensor) -> Tensor | None:
    """MatMul, scale, mask, Softmax, MatMul: the pattern runtimes fuse by themselves.

    Rows that see nothing are NaN or uniform in a softmax and 0 in ours: they are multiplied away.
    """
    a, (q, k, v) = attributes_of(op), tensors[:3]
    if not _is_f32(q, k, v) or a["softcap"] or q.shape[1] != k.shape[1]:
        return None
    masks = [t for t in tensors[3:] if not _sees_all(g, t)]
    if a["causal"] or a["window"]:
        if masks or None in (q.shape[2], k.shape[2]):
            return None
        i, j = np.ogrid[: q.shape[2], : k.shape[2]]
        seen = (j <= i) if a["causal"] else np.ones_like(j <= i)
        seen &= (j > i - a["window"]) if a["window"] else True
        name = g.constant(seen[None, None])
        masks = [Tensor(name, seen[None, None].shape, seen[None, None].shape, "i1")]
    if any(m.dtype not in ("f32", "i1") for m in masks):
        return None
    keys = g.transpose(g.whole(k), [0, 1, 3, 2])
    scores = g.node("MatMul", [g.whole(q), keys])
    scores = g.node("Mul", [scores, g.constant(float(a["scale"]), "f32")])
    sees = ""
    for mask in masks:
        scores, sees = _masked(g, mask, scores)
    weights = g.node("Softmax", [scores], axis=-1)
    out = g.node("MatMul", [weights, g.whole(v)])
    return _like(op, g.node("Mul", [out, sees]) if sees else out)


def _masked(g: Graph, mask: Tensor, scores: str) -> tuple[str, str]:
    """(the scores with the mask added, 1 for rows that see something or "" when all do)."""
    least = g.constant(float(np.finfo(np.float32).min), "f32")
    name = g.whole(mask) if mask.held[-1] != mask.shape[-1] else mask.name
    if mask.dtype == "i1":
        added = g.node("Where", [name, g.constant(0.0, "f32"), least])
        some = g.node("ReduceMax", [g.cast(name, "f32"), g.ints(-1)], keepdims=1)
    else:
        added = g.node("Max", [name, least])
        top = g.node("ReduceMax", [name, g.ints(-1)], keepdims=1)
        some = g.cast(g.node("Greater", [top, g.constant(-np.inf, "f32")]), "f32")
    known = g.arrays.get(name)
    if known is not None and mask.dtype == "i1" and known.any(-1).all():
        some = ""
    return g.node("Add", [scores, added]), some


def _sees_all(g: Graph, mask: Tensor) -> bool:
    array = g.arrays.get(mask.name)
    return mask.dtype == "i1" and array is not None and bool(array.all())


CompositeRule = Callable[..., Any]

COMPOSITE_RULES: Mapping[str, CompositeRule] = {
    "anychip.softmax": _softmax,
    "anychip.layer_norm": _layer_norm,
    "anychip.rms_norm": _rms_norm,
    "anychip.gelu": _gelu,
    "anychip.silu": _silu,
    "anychip.attention": _attention,
}
