"""The frontend's own picture of an ONNX graph: plain frozen data, no protobuf, names kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anychip.core.origin import Origin
from anychip.core.weights import Weight


@dataclass(frozen=True)
class Node:
    """One node. `inputs` and `outputs` are value names, "" for one that is left out.

    `attributes` holds int, float, str, bytes, numpy arrays, Graphs and lists of those. `version`
    is the opset version in which this op last changed, as of the model's opset.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    version: int = 1
    source: str = ""  # the line of the program it was exported from, when the exporter noted it

    @property
    def kind(self) -> str:
        """`Conv`, or `com.microsoft.MatMulNBits` outside the standard domain."""
        return f"{self.domain}.{self.op}" if self.domain else self.op

    @property
    def label(self) -> str:
        """The node's name, or the first output it makes."""
        return self.name or next((o for o in self.outputs if o), self.op)

    def origin(self, path: str) -> Origin:
        """The node as a layer, and its line, or its place in its file: `model.onnx:name(Op)`."""
        file = path.rsplit("/", 1)[-1]
        source = self.source or f"{file}:{self.label}({self.op})"
        return Origin(self.label.strip("/") or self.op, source)

    @property
    def subgraphs(self) -> tuple[Graph, ...]:
        return tuple(a for a in self.attributes.values() if isinstance(a, Graph))


@dataclass(frozen=True)
class Port:
    """A graph input or output.

    `kind` is "tensor", "sequence", "optional" (of `inside`), "map", or "absent" for an optional
    that is not given. `shape` is None when the model does not even give a rank; a dimension is a
    size, a symbol, or None when nothing is known. `parts` are the elements of a sequence of known
    length.
    """

    name: str
    kind: str = "tensor"
    dtype: str = ""
    shape: tuple[int | str | None, ...] | None = None
    inside: Port | None = None
    parts: tuple[Port, ...] | None = None


@dataclass(frozen=True)
class Graph:
    """A graph or a subgraph. `constants` are small initializers, `weights` the large ones."""

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    weights: Mapping[str, Weight] = field(default_factory=dict, repr=False)

    def walk(self) -> Iterator[Node]:
        """Every node, those of subgraphs after the node that holds them."""
        for node in self.nodes:
            yield node
            for inner in node.subgraphs:
                yield from inner.walk()
