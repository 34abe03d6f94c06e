"""The symbolic sizes of an exported program: their names, their ranges, where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def symbols(program: Any, names: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """A name for every symbol of the program's inputs, and its range as guards."""
    from torch.utils._sympy.numbers import int_oo

    found = dict(names)
    for size in input_sizes(program):
        if str(size).isidentifier():
            found.setdefault(str(size), str(size))
    guards: list[str] = []
    for symbol, bounds in program.range_constraints.items():
        if str(symbol) not in found:
            continue
        own = found[str(symbol)]
        if bounds.lower > 1:
            guards.append(f"{own} >= {int(bounds.lower)}")
        if bounds.upper != int_oo:
            guards.append(f"{own} <= {int(bounds.upper)}")
    return found, list(dict.fromkeys(guards))


def input_sizes(program: Any) -> list[Any]:
    """The symbolic sizes of a program's inputs."""
    import torch

    values = [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"]
    shapes = [v.shape for v in values if isinstance(v, torch.Tensor)]
    return [size for shape in shapes for size in shape if not isinstance(size, int)]


def symbol_names(
    program: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
) -> dict[str, str]:
    """The user's `Dim` names by torch's symbols, matched through the inputs they stand on."""
    if not dynamic_shapes:
        return {}
    import torch
    from torch.export.dynamic_shapes import _combine_args, _tree_map_with_path
    from torch.export.graph_signature import InputKind

    named: list[tuple[int, str] | None] = []  # for each leaf, its named dimensions

    def note(_path: Any, leaf: Any, shape: Any) -> None:
        dims: dict[int, str] = {}
        entries = shape.items() if isinstance(shape, Mapping) else enumerate(shape or ())
        for axis, dim in entries:
            if isinstance(dim, str) or hasattr(dim, "__name__"):
                dims[axis] = dim if isinstance(dim, str) else dim.__name__
        named.append(dims)  # pyright: ignore[reportArgumentType]

    combined = _combine_args(program.module(), args, dict(kwargs))
    shapes = dynamic_shapes
    if not isinstance(shapes, Mapping):
        shapes = dict(zip(combined, shapes, strict=False))
    _tree_map_with_path(note, combined, shapes, tree_name="inputs")
    placeholders = [
        node
        for node, spec in zip(
            [n for n in program.graph.nodes if n.op == "placeholder"],
            program.graph_signature.input_specs,
            strict=True,
        )
        if spec.kind is InputKind.USER_INPUT
    ]
    names: dict[str, str] = {}
    for node, dims in zip(placeholders, named, strict=True):
        value = node.meta.get("val")
        for axis, label in (dims or {}).items():  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(value, torch.Tensor) and not isinstance(value.shape[axis], int):
                names.setdefault(str(value.shape[axis]), label)
    return names
