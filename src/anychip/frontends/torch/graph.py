"""An FX graph of ATen overloads as a JAX function, every op under the user's layer and line."""

# Annotations of torch and transformers are partly missing or wrong:
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch import fx

from anychip.core.errors import UnsupportedError
from anychip.core.origin import Origin, scope
from anychip.core.target import OpCoverage
from anychip.frontends.torch.nodes import is_known_function, origin_of, overload_name
from anychip.frontends.torch.promote import is_array
from anychip.frontends.torch.random import RULES as RANDOM
from anychip.frontends.torch.sizes import PYTHON
from anychip.frontends.torch.table import Rule
from anychip.frontends.torch.tensors import numpy_dtype, to_numpy
from anychip.frontends.torch.unsupported import unsupported

# where a tensor lives and how it is strided has no meaning here
_NO_MEANING = {"device", "layout", "pin_memory", "memory_format", "non_blocking", "requires_grad"}
# these look at where elements lie, so they must know how torch laid their input out
_BY_MEMORY = (
    "aten.as_strided.default",
    "aten.as_strided_scatter.default",
    "aten.sym_storage_offset.default",
    "aten.sym_stride.int",
)

# what JAX raises where a number has to be known while tracing
_OF_DATA = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


@dataclass
class Evaluation:
    """One tracing of a graph: what it looks up, and what it gathers on the way."""

    rules: Mapping[str, Rule]
    seed: int | None = None
    sources: list[str] = field(default_factory=list)
    failures: list[OpCoverage] = field(default_factory=list)
    causes: list[Exception] = field(default_factory=list)
    draws: int = 0
    depth: int = 0
    """How many branches and loop bodies are open; what is computed there cannot be results."""
    conditions: list[Any] = field(default_factory=list)
    """Data-dependent conditions that the capture took for granted, as boolean arrays."""
    at_example: bool = False
    """Whether symbolic sizes are those the graph was captured at, so that what a failed op gives is
    known in size and what stands behind it can be looked at."""

    def run(self, graph: fx.GraphModule, inputs: Sequence[Any], inside: str = "") -> list[Any]:
        """The graph's outputs for these arrays; `inside` is the layer whose op holds this graph."""
        values: dict[fx.Node, Any] = {}
        given = iter(inputs)
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "get_attr":
                values[node] = self._attribute(graph, node)
            elif node.op == "output":
                return list(fx.node.map_arg(_tupled(node.args[0]), values.__getitem__))
            else:
                look_up = values.__getitem__
                if any(_is_unknown(look_up(one)) for one in node.all_input_nodes):
                    values[node] = self._stand_in(node.meta.get("val"))
                    continue
                args = fx.node.map_arg(node.args, look_up)
                kwargs = fx.node.map_arg(dict(node.kwargs), look_up)
                values[node] = self._call(node, args, kwargs, inside)
        raise AssertionError("an FX graph ends in an output node")

    def _attribute(self, graph: fx.GraphModule, node: fx.Node) -> Any:
        value: Any = graph
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if isinstance(value, torch.Tensor):
            return jnp.asarray(to_numpy(value))
        return value

    def _call(self, node: fx.Node, args: Any, kwargs: dict[str, Any], inside: str) -> Any:
        name = overload_name(node.target)
        if name is None:
            if not is_known_function(node.target):
                return self._stand_in(node.meta.get("val"))  # unsupported.missing has a row for it
            fn = PYTHON.get(node.target, node.target)
            label = getattr(node.target, "__name__", str(node.target))
            return self._noted(label, node, origin_of(node), lambda: fn(*args, **kwargs))
        origin = origin_of(node)
        layer = origin.layer
        if inside and (layer == inside or layer.startswith(inside + ".")):
            layer = layer[len(inside) + 1 :]  # the outer op's scope already says the rest
        args = [self._callable(a, origin.layer) for a in args]
        kwargs = {k: v for k, v in kwargs.items() if k not in _NO_MEANING}
        if name == "aten._assert_scalar.default" and is_array(args[0]) and not self.depth:
            self.conditions.append(args[0])
        if name in RANDOM:
            kwargs["key"] = self._key()
        with jax.named_scope(scope(layer, self._source(origin.source))):
            return self._apply(name, node, args, kwargs, origin)

    def _callable(self, value: Any, layer: str) -> Any:
        """Subgraphs are handed to rules as functions."""
        if isinstance(value, fx.GraphModule):
            return partial(_run_subgraph, self, value, layer)
        if isinstance(value, list | tuple):
            return type(value)(self._callable(v, layer) for v in value)
        return value

    def _apply(self, name: str, node: fx.Node, args: Any, kwargs: Any, origin: Origin) -> Any:
        def result() -> Any:
            more: dict[str, Any] = {}
            if name in _BY_MEMORY:
                laid_out = node.all_input_nodes[0].meta["val"]
                more = {"memory": memory_order(laid_out), "start": memory_start(laid_out)}
            out = self.rules[name](*args, **kwargs, **more)
            _check(name, out, node.meta.get("val"))
            return out

        return self._noted(name, node, origin, result)

    def _noted(self, name: str, node: fx.Node, origin: Origin, result: Callable[[], Any]) -> Any:
        """The result; where there is none a row of the report says why, and zeros stand for it."""
        try:
            return result()
        except _Unknown:  # what failed in a branch or loop body has its own row
            pass
        except Exception as error:  # whatever a rule raises
            why = str(error) if isinstance(error, UnsupportedError) else _told(error)
            row = OpCoverage(op=name, fate="unsupported", origin=origin, why=why)
            self.failures.append(row)
            self.causes.append(error)
        return self._stand_in(node.meta.get("val"))

    def _stand_in(self, expected: Any) -> Any:
        """Zeros like what torch expects of a failed op, where their sizes are known."""
        if isinstance(expected, list | tuple):
            return [self._stand_in(e) for e in expected]
        if not isinstance(expected, torch.Tensor):
            return _UNKNOWN
        sizes = [hint(d) if self.at_example or isinstance(d, int) else None for d in expected.shape]
        return _UNKNOWN if None in sizes else jnp.zeros(sizes, numpy_dtype(expected.dtype))

    def _key(self) -> Any:
        self.draws += 1
        return jax.random.fold_in(jax.random.key(self.seed or 0), self.draws)

    def _source(self, text: str) -> int | None:
        if not text:
            return None
        if text not in self.sources:
            self.sources.append(text)
        return self.sources.index(text)


_UNKNOWN = object()
"""Stands for a result of a failed op whose size nobody knows; what needs it is passed over."""


class _Unknown(Exception):
    """A branch or loop body has a result of unknown size."""


def _is_unknown(value: Any) -> bool:
    return value is _UNKNOWN or (isinstance(value, list) and any(map(_is_unknown, value)))


def evaluate(state: Evaluation, graph: fx.GraphModule, inputs: Sequence[Any]) -> list[Any]:
    """Run a graph; every failing op of it is gathered before anything is raised.

    Raises UnsupportedError with `report`.
    """
    out = state.run(graph, inputs)
    if state.failures:
        raise unsupported(state.failures) from state.causes[0]
    return out


def _run_subgraph(state: Evaluation, graph: fx.GraphModule, layer: str, *inputs: Any) -> list[Any]:
    state.depth += 1
    try:
        out = state.run(graph, inputs, layer)
    finally:
        state.depth -= 1
    if _is_unknown(out):
        raise _Unknown
    return out


def memory_order(value: torch.Tensor) -> tuple[int, ...]:
    """The axes as they lie in memory, outermost first. Raises UnsupportedError for gaps in it."""
    sizes, strides = ([hint(n) for n in numbers] for numbers in (value.shape, value.stride()))
    order = tuple(sorted(range(value.ndim), key=lambda axis: (-strides[axis], axis)))
    step = 1
    for axis in reversed(order):
        if sizes[axis] != 1 and strides[axis] != step:
            raise UnsupportedError(
                f"a tensor with gaps or overlaps in memory (sizes {sizes}, strides {strides}); "
                "call .contiguous() on it"
            )
        step *= sizes[axis]
    return order


def memory_start(value: torch.Tensor) -> int:
    """Where in its storage a view begins. Raises UnsupportedError where that depends on sizes."""
    offset = value.storage_offset()
    if not isinstance(offset, int):
        raise UnsupportedError(
            f"a view that begins at {offset} in its memory, which depends on sizes; call "
            ".contiguous() on it"
        )
    return offset


def hint(number: Any) -> Any:
    """A size, or what a symbolic one was when it was traced; orders of axes do not depend on it.
    None for one that only the data decides."""
    return number if isinstance(number, int) else number.node.hint


def _tupled(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


def _told(error: Exception) -> str:
    if isinstance(error, _OF_DATA):
        return (
            "a number that decides a size or a branch is computed from data; pass it as a "
            "constant, or load with follow_example=True where it is always the example's"
        )
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _check(name: str, out: Any, expected: Any) -> None:
    """A rule that gives another type or shape than torch is wrong: say so where it happens."""
    if isinstance(expected, list | tuple):
        for one, meta in zip(out, expected, strict=True):
            _check(name, one, meta)
        return
    if not isinstance(expected, torch.Tensor):
        return
    shape = tuple(out.shape)
    wanted = numpy_dtype(expected.dtype)
    assert out.dtype == wanted, f"the rule of {name} gives {out.dtype}, torch {expected.dtype}"
    agrees = len(shape) == expected.ndim and all(
        a == b for a, b in zip(shape, expected.shape, strict=True) if _fixed(a) and _fixed(b)
    )
    assert agrees, f"the rule of {name} gives {shape}, torch {tuple(expected.shape)}"


def _fixed(size: Any) -> bool:
    return isinstance(size, int)
