"""Arithmetic in which activations and means are recognised as it is written: Relu, HardSigmoid,
HardSwish, Sigmoid, ReduceMean and AveragePool, for the runtimes' convolutions take those in."""

from __future__ import annotations

from typing import Any

from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.compilers.onnx_export.integers import whole_division
from anychip.compilers.onnx_export.typed import Make, apply, plain
from anychip.core import dtype
from anychip.ops.view import OpView


def divide(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    if x.name in g.windows and g.windows.get(y.name) == g.windows[x.name]:
        return Tensor(_inside(g, x), x.held, x.shape, x.dtype, x.target)
    by = g.scalar(y.name)
    if by and dtype(x.dtype).kind == "float" and (mean := _mean(g, x, by)):
        return Tensor(mean, x.held, x.shape, x.dtype, x.target)
    return apply(g, op, [x, y], lambda g, n, wide: _quotient(g, n, wide))


def _quotient(g: Graph, names: list[str], wide: str) -> str:
    if dtype(wide).kind != "float":
        return whole_division(g, names, wide, "Div")
    gated = g.producer.get(names[0])
    if gated is not None and gated.op_type == "Mul" and g.scalar(names[1]) == 6.0:
        for x, gate in (list(gated.input), list(gated.input)[::-1]):
            if wide == "f32" and _gates(g, gate, x):
                return g.node("HardSwish", [x])
    by = g.scalar(names[1])
    if wide == "f32" and by and (gate := _hard_sigmoid(g, names[0], 1 / by)):
        return gate
    one = g.scalar(names[0])
    below = g.producer.get(names[1])
    if one == 1.0 and below is not None and below.op_type == "Add":
        parts = list(below.input)
        for unit, other in (parts, parts[::-1]):
            grown = g.producer.get(other)
            if g.scalar(unit) == 1.0 and grown is not None and grown.op_type == "Exp":
                turned = g.producer.get(grown.input[0])
                if turned is not None and turned.op_type == "Neg":
                    return g.node("Sigmoid", [turned.input[0]])
    return g.node("Div", names)


def _inside(g: Graph, x: Tensor) -> str:
    """A window's sum divided by how many elements it covers, padding not counted."""
    pool = g.producer[g.producer[x.name].input[0]]
    given: dict[str, Any] = {
        a.name: list(a.ints) for a in pool.attribute if a.name != "count_include_pad"
    }
    return g.node("AveragePool", list(pool.input), count_include_pad=0, **given)


def _mean(g: Graph, x: Tensor, count: float) -> str:
    """ReduceMean or AveragePool for a sum divided by how many it adds; "" when it is neither."""
    made = g.producer.get(x.name)
    if made is None:
        return ""
    if made.op_type == "ReduceSum" and g.counts.get(x.name) == count:
        axes, keep = made.input[1], made.attribute[0].i
        inner = g.producer.get(made.input[0])
        if inner is not None and inner.op_type == "ReduceMean" and keep and inner.attribute[0].i:
            both = sorted({*g.arrays[axes].tolist(), *g.arrays[inner.input[1]].tolist()})
            return g.node("ReduceMean", [inner.input[0], g.ints(*both)], keepdims=1)
        return g.node("ReduceMean", [made.input[0], axes], keepdims=keep)
    if made.op_type == "Mul" and g.counts.get(x.name) == count:
        return made.input[0]
    return ""


def maximum(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    if x.dtype == "i1":
        return plain("Or", g, op, x, y)
    for one, other in ((x, y), (y, x)):
        if dtype(x.dtype).kind == "float" and g.scalar(other.name) == 0.0 and not one.is_pending:
            return apply(g, op, [one], lambda g, n, _: g.node("Relu", n))
    return apply(g, op, [x, y], _extreme("Max"))


def minimum(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    if x.dtype == "i1":
        return plain("And", g, op, x, y)
    for one, other in ((x, y), (y, x)):
        made, top = g.producer.get(one.name), g.scalar(other.name)
        if made is not None and made.op_type == "Relu" and top is not None and x.dtype == "f32":
            low, high = g.constant(0.0, "f32"), g.constant(top, "f32")
            clipped = clip(g, [low, high, made.input[0]], x.dtype)
            return Tensor(clipped, one.held, one.shape, one.dtype, one.target)
    return apply(g, op, [x, y], _extreme("Min"))


def _extreme(kind: str) -> Make:
    """Max or Min; of floats NaN wins, which ONNX leaves open and runtimes do not all keep."""
    return lambda g, names, wide: g.node(kind, names)


def multiply(g: Graph, op: OpView, x: Tensor, y: Tensor) -> Tensor:
    if x.dtype == "i1":
        return plain("And", g, op, x, y)
    for one, unit in ((x, y), (y, x)):
        if g.scalar(unit.name) == 1 and len(one.shape) == len(unit.shape):
            return Tensor(one.name, one.held, op.outputs[0].shape, one.dtype, one.target)
    return apply(g, op, [x, y], _product)


def _product(g: Graph, names: list[str], wide: str) -> str:
    """HardSwish where it is x clip(x + 3, 0, 6) / 6, in whichever order."""
    for x, gate in (names, names[::-1]):
        factor = g.scalar(gate)
        if wide == "f32" and factor and (made := _hard_sigmoid(g, x, factor)):
            return made
        made = g.producer.get(gate)
        if made is None or wide != "f32":
            continue
        if made.op_type == "HardSigmoid" and made.input[0] == x:
            slope, shift = (a.f for a in made.attribute)
            if abs(slope - 1 / 6) < 1e-7 and abs(shift - 0.5) < 1e-7:
                return g.node("HardSwish", [x])
        if made.op_type == "Div" and g.scalar(made.input[1]) == 6.0 and _gates(g, made.input[0], x):
            return g.node("HardSwish", [x])
        sixth = [i for i in made.input if abs((g.scalar(i) or 0) - 1 / 6) < 1e-7]
        if made.op_type == "Mul" and sixth:
            (other,) = [i for i in made.input if i != sixth[0]] or [""]
            if _gates(g, other, x):
                return g.node("HardSwish", [x])
    return g.node("Mul", names)


def _hard_sigmoid(g: Graph, name: str, factor: float) -> str:
    """`factor` clip(a x + b, 0, 1 / factor) as one node where that is wanted; "" for what is
    something else."""
    made = g.producer.get(name)
    if not g.gates or made is None or made.op_type != "Clip" or g.scalar(made.input[1]) != 0.0:
        return ""
    top, added = g.scalar(made.input[2]), g.producer.get(made.input[0])
    if top is None or abs(top * factor - 1) > 1e-6 or added is None or added.op_type != "Add":
        return ""
    for inner, constant in (list(added.input), list(added.input)[::-1]):
        shift = g.scalar(constant)
        if shift is None:
            continue
        slope, product = 1.0, g.producer.get(inner)
        if product is not None and product.op_type == "Mul":
            for other, by in (list(product.input), list(product.input)[::-1]):
                if g.scalar(by) is not None:
                    inner, slope = other, float(g.scalar(by) or 0.0)
                    break
        return g.node("HardSigmoid", [inner], alpha=slope * factor, beta=shift * factor)
    return ""


def _gates(g: Graph, name: str, x: str) -> bool:
    made = g.producer.get(name)
    if made is None or made.op_type != "Clip":
        return False
    if g.scalar(made.input[1]) != 0.0 or g.scalar(made.input[2]) != 6.0:
        return False
    added = g.producer.get(made.input[0])
    if added is None or added.op_type != "Add" or x not in added.input:
        return False
    return any(g.scalar(i) == 3.0 for i in added.input)


def clip(g: Graph, names: list[str], wide: str) -> str:
    low, high, x = names
    clipped = g.node("Clip", [x, low, high])
    return (_hard_sigmoid(g, clipped, 1.0) if wide == "f32" else "") or clipped
