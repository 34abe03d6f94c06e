"""Arguments, weights and results of an ExportedProgram, by its graph signature.

Parameters and buffers keep the user's names. A buffer that forward changes is state, one it only
reads is a weight; small lifted constants become constants of the program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    OutputKind,
    SymIntArgument,
    TensorArgument,
)

from anychip.core.errors import UnsupportedError
from anychip.core.signature import Argument, Dim
from anychip.core.weights import Weight, Weights
from anychip.frontends.torch.tensors import element_name, to_numpy, weight_of

_CONSTANT_BYTES = 1024  # lifted constants up to this size are part of the program's text


@dataclass(frozen=True, kw_only=True)
class Binding:
    """How a program's graph inputs and outputs become a Module's arguments and results."""

    arguments: tuple[Argument, ...]
    weights: Weights
    feed: tuple[int | Any, ...]
    """A graph input: the index of an argument (`Slot`), or a constant value."""
    user_inputs: tuple[int | None, ...]
    """A leaf of forward's arguments: the index of its argument, or None for a constant."""
    results: tuple[tuple[int, str, str | None], ...]
    """Index of the graph output, the result's name, and the state argument it updates."""
    user_outputs: tuple[int | Any, ...]
    """A leaf of forward's result: the index of a Module result (`Slot`), or a constant."""
    mutated_inputs: tuple[tuple[int, int], ...]
    """Index of the user input leaf that forward changes, and of the result with its new value."""


@dataclass(frozen=True)
class Slot:
    """An index, told apart from a constant integer."""

    index: int


def bind(program: ExportedProgram, names: Mapping[str, str], source: str) -> Binding:
    """`names` gives symbolic sizes the user's names; `source` says where weights come from."""
    signature = program.graph_signature
    changed = {
        spec.target for spec in signature.output_specs if spec.kind is OutputKind.BUFFER_MUTATION
    }
    changed |= {
        spec.target for spec in signature.output_specs if spec.kind is OutputKind.PARAMETER_MUTATION
    }
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    arguments: list[Argument] = []
    weights: list[Weight] = []
    feed: list[Any] = []
    by_memory: dict[Any, int] = {}
    user_inputs: list[int | None] = []
    inputs: list[str] = []  # placeholder names of user inputs, in order
    taken = {s.target for s in signature.input_specs if s.target}
    first_name: dict[Any, str] = {}  # torch.export keeps the last of the names of a tied weight
    for held, tensor in program.state_dict.items():
        first_name.setdefault(_memory(tensor), held)
    for node, spec in zip(placeholders, signature.input_specs, strict=True):
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            tensor, own = _stored(program, spec), spec.target
            if spec.target not in changed:
                if not node.users:
                    feed.append(None)  # a weight nothing reads is no argument
                    continue
                if spec.kind is InputKind.CONSTANT_TENSOR and _is_small(tensor):
                    feed.append(to_numpy(tensor))
                    continue
                memory = _memory(tensor)
                if memory is not None and memory in by_memory:
                    feed.append(Slot(by_memory[memory]))  # tied weights are one argument
                    continue
                if memory is not None:
                    by_memory[memory] = len(arguments)
                    own = first_name.get(memory, spec.target)
            feed.append(Slot(len(arguments)))
            role = "state" if spec.target in changed else "weight"
            arguments.append(Argument(own, tuple(tensor.shape), element_name(tensor.dtype), role))
            weights.append(weight_of(own, tensor, source))
        elif spec.kind is InputKind.USER_INPUT:
            inputs.append(node.name)
            if isinstance(spec.arg, ConstantArgument):
                feed.append(spec.arg.value)
                user_inputs.append(None)
                continue
            feed.append(Slot(len(arguments)))
            user_inputs.append(len(arguments))
            name = node.name if node.name not in taken else f"{node.name}_input"
            arguments.append(_input(name, node.meta["val"], names))
        else:
            raise UnsupportedError(
                f"the program takes a {spec.kind.name.lower().replace('_', ' ')} "
                f"({spec.target or node.name}), which has no value here; remove it from forward"
            )
    results, outputs, mutated = _results(program, inputs, names)
    return Binding(
        arguments=tuple(arguments),
        weights=Weights(tuple(weights)),
        feed=tuple(feed),
        user_inputs=tuple(user_inputs),
        results=results,
        user_outputs=outputs,
        mutated_inputs=mutated,
    )


def _stored(program: ExportedProgram, spec: Any) -> torch.Tensor:
    held = program.state_dict if spec.target in program.state_dict else program.constants
    return held[spec.target]


def _is_small(tensor: torch.Tensor) -> bool:
    return not tensor.is_meta and tensor.numel() * tensor.element_size() <= _CONSTANT_BYTES


def _memory(tensor: torch.Tensor) -> Any:
    """Equal for tensors that are one view of one memory; None for empty ones."""
    if not tensor.numel():
        return None
    if tensor.is_meta:
        return id(tensor)
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _input(name: str, value: Any, names: Mapping[str, str]) -> Argument:
    if not isinstance(value, torch.Tensor):
        return Argument(name, (), "i64" if isinstance(value, torch.SymInt) else "f64")
    shape = tuple(_dim(name, d, names) for d in value.shape)
    return Argument(name, shape, element_name(value.dtype))


def _dim(owner: str, size: Any, names: Mapping[str, str]) -> Dim:
    if isinstance(size, int):
        return size
    text = str(size)
    if text not in names:
        raise UnsupportedError(
            f"a dimension of input {owner} is the expression {text}; give it a dimension of its "
            "own in dynamic_shapes, and reshape inside forward"
        )
    return names[text]


def _results(
    program: ExportedProgram, inputs: Sequence[str], names: Mapping[str, str]
) -> tuple[Any, Any, Any]:
    results: list[tuple[int, str, str | None]] = []
    outputs: list[Any] = []
    mutated: list[tuple[int, int]] = []
    labels = iter(_leaf_names(program.call_spec.out_spec))
    used: set[str] = set()
    for index, spec in enumerate(program.graph_signature.output_specs):
        updates = None
        if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
            name, updates = f"{spec.target}.next", spec.target
        elif spec.kind is OutputKind.USER_INPUT_MUTATION:
            name = f"{spec.target}.next"
            mutated.append((inputs.index(spec.target), len(results)))
        elif spec.kind is OutputKind.USER_OUTPUT:
            name = next(labels)
            if isinstance(spec.arg, ConstantArgument):
                outputs.append(spec.arg.value)
                continue
            outputs.append(Slot(len(results)))
        else:
            raise UnsupportedError(f"the program has an output of kind {spec.kind.name}")
        assert isinstance(spec.arg, TensorArgument | SymIntArgument), spec.arg
        results.append((index, _unused(name, used), updates))
    return tuple(results), tuple(outputs), tuple(mutated)


def _unused(name: str, used: set[str]) -> str:
    serial, out = 1, name
    while out in used:
        serial += 1
        out = f"{name}_{serial}"
    used.add(out)
    return out


def _leaf_names(spec: Any, path: str = "") -> list[str]:
    """A dotted name for each leaf of a tree: keys, field names, indices."""
    if spec is None or spec.is_leaf():
        return [path or "result"]
    children = spec.children()
    context = spec.context
    if isinstance(context, list) and len(context) == len(children):
        keys = [str(k) for k in context]
    elif hasattr(spec.type, "_fields"):
        keys = list(spec.type._fields)
    else:
        keys = [str(i) for i in range(len(children))]
    names: list[str] = []
    for key, child in zip(keys, children, strict=True):
        names += _leaf_names(child, f"{path}.{key}" if path else _word(key))
    return names


def _word(key: str) -> str:
    return f"result{key}" if key.isdigit() else key
