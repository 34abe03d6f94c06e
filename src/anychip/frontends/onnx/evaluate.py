"""Walks a Graph and calls the table's rules: on numpy where everything is known, else under JAX.

One pass collects every node that cannot be expressed, with its name, and raises them together.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anychip.core.dtypes import dtype
from anychip.core.errors import AnychipError, InputError, UnsupportedError
from anychip.core.origin import scope as origin_scope
from anychip.core.weights import Weight
from anychip.frontends.onnx.fold import (
    LIMIT,
    Sizes,
    TooLarge,
    check_extent,
    first_symbol,
    settle,
    symbols_of,
)
from anychip.frontends.onnx.graph import Graph, Node
from anychip.frontends.onnx.report import Failure, raise_failures, sources_of
from anychip.frontends.onnx.table import EXPLAINED, TABLE, Call, Entry

_KNOWN_WEIGHT_BYTES = 1 << 26
_UNROLLED_TURNS = 4096
_MODEL_ERRORS = (
    TypeError,
    ValueError,
    IndexError,
    KeyError,
    OverflowError,
    ZeroDivisionError,
    MemoryError,
    AssertionError,  # jnp.einsum, for sizes that disagree
)
"""What numpy and JAX raise when shapes or attributes of the model contradict each other."""


_GUARDS = 'if they fit for some sizes, say which with guards=[…] (such as "seq <= 512")'


class Text:
    """A graph input that holds strings: every node that reads it fails, with the reason."""


TEXT = Text()


class _Failed:
    """The value of an output whose node could not be expressed."""


class _NotKnown(Exception):
    """A rule needs this value while loading, and it is computed from the data."""


class _Poisoned(Exception):
    """A subgraph depends on a node that failed; the failure is already recorded."""


class Evaluation:
    """One evaluation of one model. `touched` names the weights that entered as arrays."""

    def __init__(self, path: str, graph: Graph, *, seed: int | None, symbolic: bool):
        self.path, self.graph = path, graph
        self.seed, self.symbolic = seed, symbolic
        self.sources: list[str] = []
        self.touched: dict[str, Weight] = {}
        self.turns_left = _UNROLLED_TURNS
        self._arrays: Mapping[str, Any] = {}
        self._failures: list[Failure] = []
        self._choices: list[str] = []  # single numbers that choose the branches around a node
        self._scope: ChainMap[str, Any] = ChainMap()

    def run(self, inputs: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[Any]:
        """The graph's outputs, given inputs by name and the weights that are arguments.

        Inputs are JAX arrays, known numpy arrays, lists (sequences) or None (an absent optional).
        A weight not in `arrays` enters as zeros of its shape, which serves to find out which are
        needed. Raises UnsupportedError listing every node that cannot be expressed.
        """
        self._arrays, self._failures, self.sources = arrays, [], []
        self.turns_left = _UNROLLED_TURNS
        self._scope = ChainMap(dict(inputs))
        outputs = self._graph(self.graph)
        raise_failures(self.path, self.graph, self._failures)
        return outputs

    def subgraph(self, graph: Graph, inputs: Sequence[Any]) -> list[Any]:
        """Evaluate a subgraph that sees the names around it."""
        if len(inputs) < len(graph.inputs):
            raise InputError(f"subgraph {graph.name} wants {len(graph.inputs)} inputs")
        named = {p.name: v for p, v in zip(graph.inputs, inputs, strict=False)}
        outer, self._scope = self._scope, self._scope.new_child(named)
        try:
            outputs = self._graph(graph)
        finally:
            self._scope = outer
        if any(isinstance(o, _Failed) for o in outputs):
            raise _Poisoned
        return outputs

    def traced(self, value: Any) -> Any:
        """The value as a JAX array. Raises UnsupportedError for text and sequences."""
        import jax.numpy as jnp

        if isinstance(value, Weight):
            return self._weight(value)
        if isinstance(value, Sizes):
            flat = [jnp.asarray(v).astype(value.dtype) for v in value.values.reshape(-1)]
            return jnp.stack(flat).reshape(value.shape)
        if isinstance(value, list):
            raise UnsupportedError("gets a sequence where it wants one tensor")
        if isinstance(value, np.ndarray) and value.dtype == object:
            raise UnsupportedError("works on strings, which no chip computes on")
        return jnp.asarray(value)

    def known(self, value: Any) -> np.ndarray | None:
        """The value as a numpy array (of objects when sizes are symbolic), None if not known."""
        import jax
        from jax.core import Tracer

        if isinstance(value, Weight):
            return value.array() if value.nbytes <= _KNOWN_WEIGHT_BYTES else None
        if isinstance(value, Sizes):
            return value.values
        if isinstance(value, jax.Array) and not isinstance(value, Tracer):
            return np.asarray(value)
        if isinstance(value, np.ndarray | np.generic | int | float | bool):
            return np.asarray(value)
        return None

    def _weight(self, weight: Weight) -> Any:
        import jax.numpy as jnp

        self.touched.setdefault(weight.name, weight)
        if weight.name in self._arrays:
            return self._arrays[weight.name]
        return jnp.zeros(weight.shape, dtype(weight.dtype).numpy)

    def _graph(self, graph: Graph) -> list[Any]:
        self._scope.maps[0].update({**graph.constants, **graph.weights})
        for node in graph.nodes:
            self._node(node)
        return [self._lookup(port.name, graph.name) for port in graph.outputs]

    def _lookup(self, name: str, user: str) -> Any:
        if name not in self._scope:
            raise InputError(f"nothing makes value {name!r}", path=self.path, field=user)
        return self._scope[name]

    def _node(self, node: Node) -> None:
        import jax
        from jax.errors import InconclusiveDimensionOperation

        values = [self._lookup(n, f"node {node.label}") if n else None for n in node.inputs]
        outputs: Sequence[Any] = [_Failed()] * len(node.outputs)
        if any(isinstance(v, _Failed) for v in values):
            self._failures += self._would_need(node, values)
        else:
            origin = node.origin(self.path)
            self.sources.append(origin.source)
            label = origin_scope(origin.layer, len(self.sources) - 1)
            chosen_by = self._chosen_by(node, values)
            self._choices += chosen_by
            try:
                _refuse_text(node, values)
                with jax.named_scope(label):
                    outputs = self._apply(node, values)
                for output in outputs:
                    check_extent(getattr(output, "shape", ()), "a result")
            except _Poisoned:
                pass  # the node inside is already among the failures
            except _NotKnown as error:
                self._failures.append(Failure(node, needs=str(error)))
            except UnsupportedError as error:
                self._failures.append(Failure(node, str(error)))
            except InconclusiveDimensionOperation as error:
                self._failures.append(Failure(node, _inconclusive(error)))
            except InputError as error:
                if error.path:
                    raise  # from a branch: the node inside is the place
                raise InputError(
                    str(error), path=self.path, field=f"node {node.label} ({node.kind})"
                ) from error
            except AnychipError:
                raise
            except _MODEL_ERRORS as error:
                text = f"inputs do not fit: {_first_line(error)}; got {_describe(values)}"
                text += self._branch_hint()
                if symbols := _symbols(values):
                    wanted = ", ".join(f"{s!r}: …" for s in symbols)
                    self._failures.append(
                        Failure(node, f"{text}; {_GUARDS}, or fix dims={{{wanted}}}")
                    )
                    return self._bind(node, outputs)
                raise InputError(
                    text,
                    path=self.path,
                    field=f"node {node.label} ({node.kind})",
                ) from error
            finally:
                del self._choices[len(self._choices) - len(chosen_by) :]
        self._bind(node, outputs)

    def _chosen_by(self, node: Node, values: Sequence[Any]) -> list[str]:
        """The graph inputs of one number that an If not decided yet is decided by."""
        if (node.domain, node.op) != ("", "If") or self.known(values[0]) is not None:
            return []
        single = {p.name for p in self.graph.inputs if p.shape in ((), (1,))}
        return [name for name in sources_of(self.graph, node.inputs[0]) if name in single]

    def _branch_hint(self) -> str:
        if not self._choices:
            return ""
        wanted = ", ".join(f"{name!r}: …" for name in dict.fromkeys(self._choices))
        return f"; only the branch taken has to fit with constants={{{wanted}}}"

    def _would_need(self, node: Node, values: Sequence[Any]) -> list[Failure]:
        """What a node behind one that failed could not do either: know what is computed."""
        entry = TABLE.get((node.domain, node.op))
        positions = entry.known_positions(node) if entry else ()
        return [
            Failure(node, needs=node.inputs[i])
            for i in positions
            if i < len(values)
            and isinstance(values[i], _Failed)
            and sources_of(self.graph, node.inputs[i])
        ][:1]

    def _bind(self, node: Node, outputs: Sequence[Any]) -> None:
        scope = self._scope.maps[0]
        for name, value in zip(node.outputs, outputs, strict=False):
            if name:
                scope[name] = value

    def _apply(self, node: Node, values: list[Any]) -> Sequence[Any]:
        import jax.numpy as jnp

        entry = TABLE.get((node.domain, node.op))
        if entry is None:
            raise UnsupportedError("")  # the report says why, per op
        if entry.raw:
            return _several(entry.rule(Call(node, jnp, self), *values))
        folded = self._fold(entry, node, values)
        if folded is not None:
            return folded
        known = entry.known_positions(node)
        arguments = [
            v if v is None else self._need(node, i, v) if i in known else self.traced(v)
            for i, v in enumerate(values)
        ]
        return _several(entry.rule(Call(node, jnp, self), *arguments))

    def _need(self, node: Node, index: int, value: Any) -> np.ndarray:
        known = self.known(value)
        if known is None:
            raise _NotKnown(node.inputs[index])
        return known

    def _fold(self, entry: Entry, node: Node, values: list[Any]) -> Sequence[Any] | None:
        """The outputs computed now, or None when they must be computed by the program."""
        present = [v for v in values if v is not None]
        if not all(isinstance(v, np.ndarray | np.generic | Sizes) for v in present):
            return None
        if sum(v.values.size if isinstance(v, Sizes) else v.size for v in present) > LIMIT:
            return None
        if any(isinstance(v, np.ndarray) and v.dtype == object for v in present):
            return None
        if entry.folds:
            return self._fold_numpy(entry, node, values)
        if not entry.eager or any(isinstance(v, Sizes) for v in present):
            return None
        return self._fold_eagerly(entry, node, values)

    def _fold_numpy(self, entry: Entry, node: Node, values: list[Any]) -> Sequence[Any] | None:
        from jax.errors import InconclusiveDimensionOperation

        like = next((v.dtype for v in values if isinstance(v, Sizes)), np.dtype(np.int64))
        arguments = [v.values if isinstance(v, Sizes) else v for v in values]
        arguments = [a if a is None else np.asarray(a) for a in arguments]
        try:
            with np.errstate(all="ignore"):
                outputs = _several(entry.rule(Call(node, np, self), *arguments))
        except (TooLarge, InconclusiveDimensionOperation):
            return None
        except UnsupportedError:
            if any(isinstance(v, Sizes) for v in values):
                return None
            raise
        settled = [settle(_boxed(o), like) for o in outputs]
        if any(isinstance(o, np.ndarray) and o.size > LIMIT for o in settled):
            return None
        return settled

    def _fold_eagerly(self, entry: Entry, node: Node, values: list[Any]) -> Sequence[Any] | None:
        """Run a rule that needs JAX on known values now, unless what it makes is large."""
        import jax
        import jax.numpy as jnp

        call = Call(node, jnp, self)
        known = entry.known_positions(node)
        moving = [i for i, v in enumerate(values) if v is not None and i not in known]

        def rule(*arrays: Any) -> Any:
            arguments = list(values)
            for index, array in zip(moving, arrays, strict=True):
                arguments[index] = array
            return _several(entry.rule(call, *arguments))

        with jax.ensure_compile_time_eval():
            shapes = jax.eval_shape(rule, *(values[i] for i in moving))
            leaves = jax.tree.leaves(shapes)
            if any(int(np.prod(s.shape, dtype=object)) > LIMIT for s in leaves):
                return None
            outputs = rule(*(jnp.asarray(values[i]) for i in moving))
            return [np.asarray(o) if isinstance(o, jax.Array | np.generic) else o for o in outputs]


def _refuse_text(node: Node, values: Sequence[Any]) -> None:
    if any(value is TEXT for value in values):
        raise UnsupportedError(
            EXPLAINED.get(
                (node.domain, node.op),
                "reads strings, which no chip computes on; turn text into numbers before the "
                "model, or fix the input with constants={…}",
            )
        )


def _boxed(value: Any) -> Any:
    """What numpy takes out of an object array is a bare expression; back into an array with it."""
    if isinstance(value, np.ndarray | list):
        return value
    if isinstance(value, np.generic | int | float | bool):
        return np.asarray(value)
    box = np.empty((), object)
    box[()] = value
    return box


def _several(outputs: Any) -> Sequence[Any]:
    """A rule returns one value, or a tuple of several (a list is one value: a sequence)."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _describe(values: Sequence[Any]) -> str:
    def one(value: Any) -> str:
        if value is None:
            return "nothing"
        if isinstance(value, list):
            return f"a sequence of {len(value)}"
        return f"{getattr(value, 'dtype', type(value).__name__)}{list(getattr(value, 'shape', ()))}"

    return ", ".join(one(v) for v in values) or "no inputs"


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[0].split())[:400]


def _symbols(values: Sequence[Any]) -> list[str]:
    """The symbols in the shapes of these values."""
    dims = [d for v in values for d in getattr(v, "shape", ()) if not isinstance(d, int)]
    return sorted({name for d in dims for name in symbols_of(d)})


def _inconclusive(error: Exception) -> str:
    text = _first_line(error)
    match = text.split("'")
    symbol = first_symbol(match[1]) if len(match) > 1 else "…"
    return f"depends on a symbolic size ({text[:200]}); fix it with dims={{{symbol!r}: …}}"
