"""`load`: an ONNX model to a Module. Ports become arguments, large tensors become weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core.dtypes import dtype
from anychip.core.errors import InputError, UnsupportedError, UsageError, unknown
from anychip.core.module import Module
from anychip.core.signature import Argument
from anychip.core.weights import Weights
from anychip.frontends.onnx.evaluate import TEXT, Evaluation
from anychip.frontends.onnx.fold import check_extent
from anychip.frontends.onnx.graph import Port
from anychip.frontends.onnx.read import Model, read

Shape = Sequence[int | str | None]


def load(
    source: str | Path | bytes,
    *,
    dims: Mapping[str, int] | None = None,
    shapes: Mapping[str, Shape | Sequence[Shape] | None] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    guards: Sequence[str] = (),
    seed: int | None = None,
    name: str = "",
) -> Module:
    """An ONNX file (or a serialised ModelProto) as a Module.

    Dynamic dimensions stay symbolic under the model's own names (`batch`), or `<input>_<axis>`
    where it gives none; `dims` fixes some. `shapes` overrides the shape of an input: a tuple of
    sizes, names and None; a list of such tuples gives a sequence input its elements; None makes an
    optional input absent. `constants` gives inputs a fixed value: they stop being arguments, and
    what is computed from them may decide shapes. `guards` are facts about symbolic dimensions that
    the model relies on (`"mod(height, 32) == 0"`). `seed` fixes the noise of random ops.

    Argument and result names are the model's; sequences become `name.0`, `name.1`, …. Weights are
    named arguments, read from the file's memory map when touched. Element types are ONNX's own,
    64-bit ones included.

    Raises InputError for a broken file, UnsupportedError listing every node that cannot be
    expressed, UsageError for unknown names in the options.
    """
    import jax

    from anychip.frontends.trace import to_module

    model = read_model(source, name)
    ports = _ports(model, shapes or {}, constants or {})
    renamed = _Dims(ports, dims or {})
    plans = [_plan(model, port, renamed, (constants or {}).get(port.name)) for port in ports]
    renamed.check_all_used(dims or {})
    inputs = [a for plan in plans for a in plan.arguments]
    symbolic = any(isinstance(d, str) for a in inputs for d in a.shape)
    evaluation = Evaluation(model.path, model.graph, seed=seed, symbolic=symbolic)

    def evaluate(arrays: Sequence[Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        rest = iter(arrays)
        values = {plan.port.name: plan.take(rest) for plan in plans}
        return _flat(model, evaluation, evaluation.run(values, weights))

    names: list[str] = []

    def dry(*arrays: Any) -> list[Any]:
        outputs = evaluate(arrays, {})
        names.extend(outputs)
        return list(outputs.values())

    with jax.enable_x64(True):
        jax.eval_shape(dry, *_specs(inputs, guards))
    touched = list(evaluation.touched.values())
    weights = [Argument(w.name, w.shape, w.dtype, "weight") for w in touched]

    def fn(*arrays: Any) -> list[Any]:
        given, rest = arrays[: len(inputs)], arrays[len(inputs) :]
        named = {w.name: a for w, a in zip(touched, rest, strict=True)}
        return list(evaluate(given, named).values())

    try:
        return to_module(
            fn,
            [*inputs, *weights],
            name=name or model.graph.name or "onnx",
            result_names=names,
            weights=Weights(tuple(touched)),
            sources=evaluation.sources,
            guards=guards,
            x64=True,
        )
    except (ValueError, TypeError, OverflowError) as error:  # MLIR's verifier, through JAX
        text = " ".join(str(error).split())[:600]
        raise InputError(f"attributes contradict each other: {text}", path=model.path) from error


def read_model(source: str | Path | bytes, name: str = "") -> Model:
    """The checked graph of a file, functions without a rule of ours expanded."""
    from anychip.frontends.onnx import rules  # noqa: F401  (fills the table)
    from anychip.frontends.onnx.table import TABLE

    return read(source, TABLE.keys(), path=name or "model")


def constant_inputs(source: str | Path | bytes) -> list[str]:
    """The inputs whose values decide shapes: `load` wants them in `constants`."""
    from anychip.frontends.onnx.report import constant_inputs

    return constant_inputs(read_model(source).graph)


@dataclass(frozen=True)
class _Plan:
    """How one graph input is put together from arguments, in order."""

    port: Port
    arguments: tuple[Argument, ...] = ()
    constant: Any = None

    def take(self, arrays: Any) -> Any:
        if self.constant is not None:
            return self.constant
        if self.port.kind == "sequence":
            return [next(arrays) for _ in self.arguments]
        return next(arrays) if self.arguments else None


def _ports(
    model: Model, shapes: Mapping[str, Any], constants: Mapping[str, np.ndarray]
) -> list[Port]:
    """The graph's inputs with the caller's shapes in place."""
    by_name = {p.name: p for p in model.graph.inputs}
    for option in (*shapes, *constants):
        if option not in by_name:
            raise unknown(f"input of {model.path}", option, by_name)
    ports = []
    for port in model.graph.inputs:
        inside = port.inside if port.kind == "optional" and port.inside else port
        if port.name not in shapes or port.name in constants:
            ports.append(inside)
        elif shapes[port.name] is None:
            if port.kind != "optional":
                raise UsageError(f"input {port.name} is not optional; its shape cannot be None")
            ports.append(Port(port.name, "absent"))
        else:
            ports.append(_shaped(inside, shapes[port.name]))
    return ports


def _shaped(port: Port, given: Any) -> Port:
    if port.kind == "sequence":
        element = port.inside or Port(port.name)
        parts = tuple(
            replace(element, name=f"{port.name}.{i}", shape=tuple(s)) for i, s in enumerate(given)
        )
        return replace(port, parts=parts)
    if port.shape is not None and len(given) != len(port.shape):
        raise UsageError(f"input {port.name} has rank {len(port.shape)}, its shape {list(given)}")
    return replace(port, shape=tuple(given))


def _plan(model: Model, port: Port, dims: _Dims, constant: Any) -> _Plan:
    if constant is not None:
        return _Plan(port, constant=_bound(port, constant))
    if port.kind == "absent":
        return _Plan(port)
    if port.kind == "sequence":
        if port.parts is None:
            raise UnsupportedError(
                f"{model.path}: input {port.name} is a sequence of unknown length; "
                f"give its elements' shapes: shapes={{{port.name!r}: [(…), (…)]}}"
            )
        return _Plan(port, tuple(_argument(model, p, dims) for p in port.parts))
    if port.kind == "map":
        raise UnsupportedError(f"{model.path}: input {port.name} is a map, which is no tensor")
    if port.dtype == "string":
        return _Plan(port, constant=TEXT)
    return _Plan(port, (_argument(model, port, dims),))


def _argument(model: Model, port: Port, dims: _Dims) -> Argument:
    if not port.dtype:
        raise InputError("unknown element type", path=model.path, field=f"input {port.name}")
    if port.shape is None:
        raise UnsupportedError(
            f"{model.path}: input {port.name} has no rank; "
            f"give it a shape: shapes={{{port.name!r}: (…)}}"
        )
    shape = dims.of(port)
    check_extent(shape, f"{model.path}: input {port.name}")
    return Argument(port.name, shape, port.dtype)


def _bound(port: Port, constant: Any) -> Any:
    if isinstance(constant, list | tuple):
        return [_bound(port.inside or port, c) for c in constant]
    array = np.asarray(constant)
    if port.kind == "tensor" and port.dtype in ("", "string"):
        return array
    if port.kind == "tensor" and array.dtype != dtype(port.dtype).numpy:
        raise UsageError(
            f"constant {port.name} should be {port.dtype}, it is {array.dtype}{list(array.shape)}"
        )
    return array


class _Dims:
    """Names symbolic dimensions: the model's names made identifiers, `<input>_<axis>` without."""

    def __init__(self, ports: Sequence[Port], fixed: Mapping[str, int]):
        self.fixed = dict(fixed)
        self.names: dict[str, str] = {}
        for one, size in fixed.items():
            if size < 0:
                raise UsageError(f"dimension {one} cannot be {size}")
        self.known: set[str] = set()

    def of(self, port: Port) -> tuple[int | str, ...]:
        return tuple(self._one(d, port, i) for i, d in enumerate(port.shape or ()))

    def _one(self, dim: int | str | None, port: Port, axis: int) -> int | str:
        if isinstance(dim, int):
            return dim
        text = f"{port.name}_{axis}" if dim is None else dim
        name = self.names.setdefault(text, self._identifier(text))
        self.known.update((text, name))
        return self.fixed.get(text, self.fixed.get(name, name))

    def _identifier(self, text: str) -> str:
        name = re.sub(r"\W", "_", text, flags=re.ASCII).lstrip("_") or "dim"
        name = name if name[0].isalpha() else f"d{name}"
        name = f"{name}_" if name in _RESERVED else name
        serial, unique = 1, name
        while unique in self.names.values():
            serial += 1
            unique = f"{name}_{serial}"
        return unique

    def check_all_used(self, dims: Mapping[str, int]) -> None:
        for one in dims:
            if one not in self.known:
                raise unknown("symbolic dimension", one, self.known)


_RESERVED = {"max", "min", "floordiv", "mod", "non_negative"}
"""Words of JAX's dimension expressions."""


def _specs(arguments: Sequence[Argument], guards: Sequence[str]) -> list[Any]:
    import jax
    from jax import export

    scope = export.SymbolicScope(guards)

    def shape(argument: Argument) -> Any:
        text = ",".join(str(d) for d in argument.shape)
        return export.symbolic_shape(text, scope=scope) if text else ()

    return [jax.ShapeDtypeStruct(shape(a), dtype(a.dtype).numpy) for a in arguments]


def _flat(model: Model, evaluation: Evaluation, outputs: Sequence[Any]) -> dict[str, Any]:
    """Outputs by name; a sequence's elements are `name.0`, `name.1`, …."""
    flat: dict[str, Any] = {}

    def put(name: str, value: Any) -> None:
        if isinstance(value, list):
            for index, one in enumerate(value):
                put(f"{name}.{index}", one)
        elif value is not None:
            flat[name] = evaluation.traced(value)

    for port, value in zip(model.graph.outputs, outputs, strict=True):
        try:
            put(port.name, value)
        except UnsupportedError as error:
            raise UnsupportedError(f"{model.path}: output {port.name} {error}") from None
    if not flat:
        raise UnsupportedError(f"{model.path}: no output is a tensor (all are absent or empty)")
    return flat
