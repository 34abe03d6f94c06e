"""Arguments, weights and results of an ExportedProgram, by its graph signature.

Parameters and buffers keep the user's names. A buffer that forward changes is state, one it only
reads is a weight; small lifted constants become constants of the program.
"""

# Annotations of torch and transformers are partly missing or wrong:
# pyright: reportArgumentType=false, reportReturnType=false

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
from anychip.core.signature import Argument, Dim, Role
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

    def fed(self, arrays: Sequence[Any]) -> list[Any]:
        """What the graph's inputs get when these are the arguments; called while tracing."""
        import jax.numpy as jnp

        return [
            arrays[f.index] if isinstance(f, Slot) else jnp.asarray(f) if hasattr(f, "ndim") else f
            for f in self.feed
        ]


@dataclass(frozen=True)
class Slot:
    """An index, told apart from a constant integer."""

    index: int


def bind(program: ExportedProgram, names: Mapping[str, str], source: str) -> Binding:
    """`names` gives symbolic sizes the user's names; `source` says where weights come from.

    Initial values of state are among the weights.
    """
    signature = program.graph_signature
    inputs = _Inputs(program, names, source)
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    for node, spec in zip(placeholders, signature.input_specs, strict=True):
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            inputs.feed.append(inputs.tensor(node, spec))
        elif spec.kind is InputKind.USER_INPUT:
            inputs.feed.append(inputs.user_input(node, spec))
        else:
            raise UnsupportedError(
                f"the program takes a {spec.kind.name.lower().replace('_', ' ')} "
                f"({spec.target or node.name}), which has no value here; remove it from forward"
            )
    results, outputs, mutated = _results(program, inputs.user_names)
    return Binding(
        arguments=tuple(inputs.arguments),
        weights=Weights(tuple(inputs.weights)),
        feed=tuple(inputs.feed),
        user_inputs=tuple(inputs.user_slots),
        results=results,
        user_outputs=outputs,
        mutated_inputs=mutated,
    )


class _Inputs:
    """Graph inputs on their way to becoming arguments."""

    def __init__(self, program: ExportedProgram, names: Mapping[str, str], source: str):
        self.feed: list[Any] = []
        self.arguments: list[Argument] = []
        self.weights: list[Weight] = []
        self.user_names: list[str] = []
        self.user_slots: list[int | None] = []
        self._program, self._names, self._source = program, names, source
        self._slots: dict[Any, int] = {}  # memory → its argument
        self._taken = {s.target for s in program.graph_signature.input_specs if s.target}
        self._changed = {
            spec.target
            for spec in program.graph_signature.output_specs
            if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)
        }
        self._first_name: dict[Any, str] = {}  # torch.export keeps a tied weight's last name
        for name, tensor in program.state_dict.items():
            self._first_name.setdefault(_memory(tensor), name)

    def tensor(self, node: Any, spec: Any) -> Any:
        """What feeds a parameter, buffer or constant: an argument, or a small constant itself."""
        tensor = _stored(self._program, spec)
        if spec.target in self._changed:
            return self._argument(spec.target, tensor, "state")
        if not node.users:
            return None  # a weight nothing reads is no argument
        if spec.kind is InputKind.CONSTANT_TENSOR and _is_small(tensor):
            return to_numpy(tensor)
        memory = _memory(tensor)
        if memory not in self._slots:
            slot = self._argument(self._first_name.get(memory, spec.target), tensor, "weight")
            self._slots[memory] = slot.index
        return Slot(self._slots[memory])  # tied weights are one argument

    def _argument(self, name: str, tensor: torch.Tensor, role: Role) -> Slot:
        element = element_name(tensor.dtype)
        self.arguments.append(Argument(name, tuple(tensor.shape), element, role))
        self.weights.append(weight_of(name, tensor, self._source))
        return Slot(len(self.arguments) - 1)

    def user_input(self, node: Any, spec: Any) -> Any:
        """What feeds a leaf of forward's arguments: an argument, or the constant it is."""
        self.user_names.append(node.name)
        if isinstance(spec.arg, ConstantArgument):
            self.user_slots.append(None)
            return spec.arg.value
        name = node.name if node.name not in self._taken else f"{node.name}_input"
        self.user_slots.append(len(self.arguments))
        self.arguments.append(_input(name, node.meta["val"], self._names))
        return Slot(len(self.arguments) - 1)


def _stored(program: ExportedProgram, spec: Any) -> torch.Tensor:
    held = program.state_dict if spec.target in program.state_dict else program.constants
    return held[spec.target]


def _is_small(tensor: torch.Tensor) -> bool:
    return not tensor.is_meta and tensor.numel() * tensor.element_size() <= _CONSTANT_BYTES


def _memory(tensor: torch.Tensor) -> Any:
    """Equal for tensors that are one view of one memory."""
    if tensor.is_meta or not tensor.numel():
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


def _results(program: ExportedProgram, inputs: Sequence[str]) -> tuple[Any, Any, Any]:
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
