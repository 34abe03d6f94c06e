"""Loops and branches as Loop and If, whose subgraphs see the outer tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anychip.compilers.onnx_export.element import onnx_type
from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.ops.view import OpView, Spec

Body = Callable[..., list[Tensor]]


def _subgraph(
    g: Graph, name: str, inputs: list[tuple[str, str, Any]], make: Callable[[], list[Tensor]]
) -> Any:
    """A GraphProto of what `make` writes; its inputs are (name, element type, shape)."""
    from onnx import helper

    with g.inner() as nodes:
        results = make()
        names = [g.node("Identity", [g.whole(t)]) for t in results]
    outs = [
        helper.make_tensor_value_info(n, onnx_type(t.dtype, "a result"), list(t.shape))
        for n, t in zip(names, results, strict=True)
    ]
    ins = [
        helper.make_tensor_value_info(n, onnx_type(e, "a carried value"), s) for n, e, s in inputs
    ]
    return helper.make_graph(nodes, name, ins, outs)


def _carried(g: Graph, specs: tuple[Spec, ...]) -> list[Tensor]:
    return [Tensor(g.fresh("carried"), s.shape, s.shape, s.dtype) for s in specs]


def _while(g: Graph, op: OpView, *tensors: Tensor, bodies: list[Body]) -> list[Tensor]:
    condition, body = bodies
    starts = [g.whole(t) for t in tensors]
    whole = [Tensor(n, s.shape, s.shape, s.dtype) for n, s in zip(starts, op.inputs, strict=True)]
    first = g.whole(condition(*whole)[0])
    inside = _carried(g, op.inputs)
    count, alive = g.fresh("turn"), g.fresh("alive")

    def turn() -> list[Tensor]:
        after = body(*inside)
        held = [g.whole(t) for t in after]
        after = [Tensor(n, s.shape, s.shape, s.dtype) for n, s in zip(held, op.inputs, strict=True)]
        return [condition(*after)[0], *after]

    graph = _subgraph(
        g,
        "body",
        [(count, "i64", []), (alive, "i1", []), *((t.name, t.dtype, t.shape) for t in inside)],
        turn,
    )
    names = g.nodes_of("Loop", ["", first, *starts], len(starts), body=graph)
    return [Tensor(n, s.shape, s.shape, s.dtype) for n, s in zip(names, op.outputs, strict=True)]


def _branches(g: Graph, op: OpView, which: Tensor, *, bodies: list[Body]) -> list[Tensor]:
    if op.name == "stablehlo.if":
        return _if(g, op, which.name, bodies[0], bodies[1])
    return _case(g, op, which.name, bodies, 0)


def _case(g: Graph, op: OpView, which: str, bodies: list[Body], index: int) -> list[Tensor]:
    """The branch of this index, or one of those after it; the last takes all that are left."""
    if index == len(bodies) - 1:
        return bodies[index]()
    here = g.node("Equal", [which, g.constant(index, "i32")])
    return _if(g, op, here, bodies[index], lambda: _case(g, op, which, bodies, index + 1))


def _if(g: Graph, op: OpView, which: str, yes: Body, no: Body) -> list[Tensor]:
    graphs = [_subgraph(g, "branch", [], body) for body in (yes, no)]
    names = g.nodes_of("If", [which], len(op.outputs), then_branch=graphs[0], else_branch=graphs[1])
    return [Tensor(n, s.shape, s.shape, s.dtype) for n, s in zip(names, op.outputs, strict=True)]


def _map(g: Graph, op: OpView, *tensors: Tensor, bodies: list[Body]) -> list[Tensor]:
    """The scalar computation on whole tensors: every op of it is one for each element."""
    rank = len(op.outputs[0].shape)
    results: list[Tensor] = []
    for made, spec in zip(bodies[0](*tensors), op.outputs, strict=True):
        name, held = made.name, made.held
        if len(held) != rank:  # a number of the body itself
            held = (1,) * rank
            name = g.reshape(name, held)
        results.append(Tensor(name, held, spec.shape, spec.dtype))
    return results


for _rule in (_while, _branches, _map):
    _rule.takes_bodies = True  # type: ignore[attr-defined]


def _first(g: Graph, op: OpView) -> str:
    """Which replica or partition this is: an ONNX model runs alone."""
    return g.constant(0, op.outputs[0].dtype)


RULES = {
    "stablehlo.partition_id": _first,
    "stablehlo.replica_id": _first,
    "stablehlo.while": _while,
    "stablehlo.if": _branches,
    "stablehlo.case": _branches,
    "stablehlo.map": _map,
}
