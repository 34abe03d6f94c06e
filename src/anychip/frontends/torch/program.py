"""load: a torch model as a Module, and what is needed besides to call it as the original."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anychip.core.errors import UnsupportedError, UsageError, missing_extra
from anychip.core.module import Module

FOLLOWS = "follows_example"
"""The result that says whether a run's data took the example's branches."""

if TYPE_CHECKING:
    import torch

    from anychip.frontends.torch.bind import Binding


def load(
    model: torch.nn.Module | torch.export.ExportedProgram | str | Path,
    example_inputs: Any = (),
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    name: str = "",
    strict: bool | None = None,
    seed: int | None = None,
    follow_example: bool = False,
) -> Module:
    """A torch model as a Module.

    `model` is an nn.Module (or a function, or a TorchScript module), an ExportedProgram, or the
    path of a `.pt2` or TorchScript file. `example_inputs` is one tensor, a tuple of positional
    arguments, or a mapping of keyword arguments, which `example_kwargs` adds to; an exported
    program needs neither. `dynamic_shapes` is as torch.export takes it; the names of its `Dim`s
    become the names of symbolic dimensions.
    `strict` forces torch.export with (True) or without (False) Dynamo; by default the second is
    tried when the first fails. `seed` lets random ops draw the same numbers at every call.
    `follow_example` keeps the branches and sizes that the example's data led to where they depend
    on data; the result `follows_example` (i1) then says whether other data would have led there.

    The Module's weights are views of the model's own tensors under their own names. Buffers that
    forward changes are state. Raises UnsupportedError, whose `report` lists everything in the way.
    """
    return lower(
        model,
        example_inputs,
        example_kwargs=example_kwargs,
        dynamic_shapes=dynamic_shapes,
        name=name,
        strict=strict,
        seed=seed,
        follow_example=follow_example,
    ).module


@dataclass(frozen=True)
class Lowered:
    """A Module with the trees of forward's arguments and result."""

    module: Module
    binding: Binding
    in_spec: Any
    out_spec: Any


def lower(
    model: Any,
    example_inputs: Any = (),
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    name: str = "",
    strict: bool | None = None,
    seed: int | None = None,
    follow_example: bool = False,
) -> Lowered:
    """`load`, keeping how forward's arguments and result are laid out."""
    need_torch()
    from torch.export import ExportedProgram

    from anychip.frontends.torch import export
    from anychip.frontends.torch.symbols import symbol_names

    source = ""
    if isinstance(model, str | Path):
        source = str(model)
        name = name or Path(model).stem
        is_exported = Path(model).suffix == ".pt2"
        model = export.read(Path(model), seed) if is_exported else export.read_script(Path(model))
    if isinstance(model, ExportedProgram):
        if dynamic_shapes is not None or strict is not None or follow_example:
            raise UsageError("an exported program has its shapes; export it with dynamic_shapes")
        return lower_program(model, name or "program", source=source, seed=seed)
    args, kwargs = arguments_of(example_inputs, example_kwargs)
    if not args and not kwargs:
        raise UsageError(
            f"{source or type(model).__name__} needs example_inputs: a tensor, a tuple of "
            "arguments, or a mapping of keyword arguments"
        )
    program = export.capture(
        model, args, kwargs, dynamic_shapes, strict, follow_example=follow_example
    )
    names = symbol_names(program, args, kwargs, dynamic_shapes)
    return lower_program(
        program,
        name or _name_of(model),
        names=names,
        source=source,
        seed=seed,
        follows_example=follow_example,
    )


def need_torch() -> None:
    """Raise SetupError where torch is not installed."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise missing_extra("torch", "torch", "loading a PyTorch model")


def arguments_of(
    example_inputs: Any, example_kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from the ways they may be given, arrays as tensors."""
    import torch
    from torch.utils._pytree import tree_map_only

    example_inputs, example_kwargs = tree_map_only(
        np.ndarray, torch.from_numpy, (example_inputs, example_kwargs)
    )
    named = dict(example_kwargs or {})
    if example_inputs is None:
        return (), named
    if isinstance(example_inputs, Mapping):
        return (), {**example_inputs, **named}
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), named
    return (example_inputs,), named


def _name_of(model: Any) -> str:
    return getattr(model, "__name__", "") or type(model).__name__


def lower_program(
    program: torch.export.ExportedProgram,
    name: str,
    *,
    names: Mapping[str, str] | None = None,
    source: str = "",
    seed: int | None = None,
    follows_example: bool = False,
) -> Lowered:
    """An exported program as a Module. `names` gives torch's symbols the user's names.

    With `follows_example` the program's assertions about data become the result of that name.
    """
    from anychip.frontends.torch.bind import bind
    from anychip.frontends.torch.export import decomposed
    from anychip.frontends.torch.graph import Evaluation
    from anychip.frontends.torch.obstacles import in_the_way
    from anychip.frontends.torch.symbols import symbols
    from anychip.frontends.torch.table import table
    from anychip.frontends.torch.unsupported import missing, unsupported

    program = decomposed(program)
    rules = table()
    if missing(program.graph_module, rules, seed):
        raise unsupported(in_the_way(program, seed))
    names, guards = symbols(program, names or {})
    binding = bind(program, names, source)
    state = Evaluation(rules, seed)
    try:
        module = _traced(program.graph_module, binding, state, name, guards, follows_example)
    except UnsupportedError as error:
        if not error.report:
            raise
        rows = in_the_way(program, seed)
        seen = {(row.op, row.origin) for row in rows}
        rows += [row for row in error.report if (row.op, row.origin) not in seen]
        raise unsupported(rows) from error
    return Lowered(module, binding, program.call_spec.in_spec, program.call_spec.out_spec)


def _traced(
    graph: Any,
    binding: Binding,
    state: Any,
    name: str,
    guards: Sequence[str],
    follows_example: bool,
) -> Module:
    import jax.numpy as jnp

    from anychip.frontends.torch.graph import evaluate
    from anychip.frontends.trace import to_module

    def forward(*arrays: Any) -> list[Any]:
        outputs = evaluate(state, graph, binding.fed(arrays))
        results = [jnp.asarray(outputs[index]) for index, _, _ in binding.results]
        if follows_example:
            results.append(functools.reduce(jnp.logical_and, state.conditions, jnp.asarray(True)))
        return results

    names = [result for _, result, _ in binding.results]
    if follows_example:
        names.append(FOLLOWS)

    return to_module(
        forward,
        binding.arguments,
        name=name,
        result_names=names,
        updates={result: state_ for _, result, state_ in binding.results if state_},
        weights=binding.weights,
        sources=state.sources,
        guards=guards,
        x64=True,
    )
