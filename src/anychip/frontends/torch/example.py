"""Sizes that depend on data, kept as the example's: each becomes a number, with an assertion that
the data of a run agrees. What is asserted is what `follows_example` gives."""

# Annotations of torch are partly missing or wrong:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

aten = torch.ops.aten
_KEPT_META = ("nn_module_stack", "stack_trace")


def keep_sizes(program: ExportedProgram) -> None:
    """Rewrite the program in place: numbers read out of tensors, and what a mask selects. For one
    captured with real tensors, whose values torch keeps; nested graphs stay as they are."""
    graph = program.graph_module.graph
    rewrites: Mapping[Any, Callable[[fx.Node], None]] = {
        aten.item.default: _number,
        aten.index.Tensor: _masked,
        aten.nonzero.default: _nonzero,
    }
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in rewrites:
            with graph.inserting_after(node):
                rewrites[node.target](node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _number(node: fx.Node) -> None:
    value = _example(node.meta.get("val"))
    if value is None:
        return
    users = list(node.users)
    _assert_equal(node, value)
    for user in users:
        user.replace_input_with(node, value)  # pyright: ignore[reportArgumentType]


def _masked(node: fx.Node) -> None:
    """x[…, mask, …] with one mask and no other index."""
    x, indices = node.args
    assert isinstance(indices, list | tuple)
    given = [axis for axis, one in enumerate(indices) if one is not None]
    (axis, *others) = given
    mask = indices[axis]
    assert isinstance(mask, fx.Node)
    if others or mask.meta["val"].dtype not in (torch.bool, torch.uint8):
        return
    count = _example(node.meta["val"].shape[axis])
    if count is not None:
        _pick(node, x, [None] * axis, mask, count)


def _nonzero(node: fx.Node) -> None:
    count = _example(node.meta["val"].shape[0])
    if count is not None:
        node.replace_all_uses_with(_places(node, node.args[0], count))
        node.graph.erase_node(node)


def _pick(node: fx.Node, x: Any, before: list[None], mask: Any, count: int) -> None:
    graph = node.graph
    places = _places(node, mask, count)
    with graph.inserting_before(node):
        columns = [
            _call(node, aten.select.int, (places, 1, i)) for i in range(mask.meta["val"].ndim)
        ]
        picked = _call(node, aten.index.Tensor, (x, [*before, *columns]))
    node.replace_all_uses_with(picked)
    graph.erase_node(node)


def _places(node: fx.Node, mask: Any, count: int) -> fx.Node:
    """Where the mask is not zero: `count` places, which is asserted."""
    with node.graph.inserting_before(node):
        true = _call(node, aten.ne.Scalar, (mask, 0))
        number = _call(node, aten.item.default, (_call(node, aten.sum.default, (true,)),))
        places = _call(node, aten.nonzero_static.default, (mask,), {"size": count, "fill_value": 0})
    with node.graph.inserting_after(number):
        _assert_equal(number, count, node)
    return places


def _assert_equal(number: fx.Node, value: Any, at: fx.Node | None = None) -> None:
    """Behind `number`, where the graph's insertion point is."""
    graph, at = number.graph, at or number
    same = _call(at, operator.eq, (number, value))
    with graph.inserting_after(same):
        _call(at, aten._assert_scalar.default, (same, f"{number.name} is not {value}"))


def _call(like: fx.Node, target: Any, args: Any, kwargs: Any = None) -> fx.Node:
    made = like.graph.call_function(target, args, kwargs or {})
    made.meta.update({key: like.meta[key] for key in _KEPT_META if key in like.meta})
    return made


def _example(size: Any) -> Any:
    """The number a symbolic one was in the example; None for one that depends on free sizes."""
    if isinstance(size, int | float | bool):
        return size
    if not isinstance(size, torch.SymInt | torch.SymFloat):
        return None
    known = size.node.shape_env.real_tensor_prop_unbacked_vals
    value = size.node.expr.xreplace(known)
    if not value.is_number:
        return None
    return int(value) if isinstance(size, torch.SymInt) else float(value)
