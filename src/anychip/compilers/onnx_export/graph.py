"""The ONNX graph being written: nodes, constants, and tensors whose broadcast is still pending."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from anychip.compilers.onnx_export.element import onnx_type
from anychip.compilers.onnx_export.known import compute
from anychip.core import Origin, UnsupportedError, dtype

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Tensor:
    """One value: `held` is the shape of the ONNX tensor `name`, `shape` what it stands for.

    They have equal rank; where they differ `held` is 1 and ONNX's own broadcasting does the rest.
    `target` names a tensor with the shape, where that is known only when running.
    """

    name: str
    held: Shape
    shape: Shape
    dtype: str
    target: str = ""

    @property
    def is_pending(self) -> bool:
        return self.held != self.shape


class Graph:
    """Nodes in order. `origin` is the place in the user's model that new nodes come from; with
    `gates`, HardSigmoid is one node."""

    def __init__(self, name: str, *, gates: bool = False):
        self.name, self.gates = name, gates
        self.origin = Origin()
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.constants: set[str] = set()
        self.origins: dict[str, Origin] = {}
        self.producer: dict[str, Any] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.counts: dict[str, int] = {}  # how many numbers each element of a sum adds
        self.kept_shape: dict[str, Shape] = {}  # a reduction's shape with its dimensions kept
        self.sizes: dict[str, Shape] = {}  # of tensors, where known
        self.windows: dict[str, Any] = {}  # the window that an element adds (or counts) over
        self._known: dict[Any, str] = {}
        self._taken: set[str] = set()
        self._count = 0

    def reserve(self, wanted: str) -> str:
        """A tensor name like the wanted one that nothing else has."""
        name = wanted or "tensor"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def fresh(self, hint: str) -> str:
        self._count += 1
        return self.reserve(f"{hint}_{self._count}")

    def nodes_of(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: int,
        *,
        origin: Origin | None = None,
        **attributes: Any,
    ) -> list[str]:
        """Append a node with so many outputs; attributes that are None are left out."""
        from onnx import helper

        names = [self.fresh(kind) for _ in range(outputs)]
        given = {k: v for k, v in attributes.items() if v is not None}
        place = self.origin if origin is None else origin
        label = f"{place.layer or self.name}/{names[0]}"
        node = helper.make_node(kind, list(inputs), names, name=label, **given)
        self.origins[label] = place
        self.nodes.append(node)
        for name in names:
            self.producer[name] = node
        if inputs and not node.attribute and all(i in self.constants for i in inputs if i):
            self.constants.update(names)
        return names

    def node(
        self, kind: str, inputs: Sequence[str], *, origin: Origin | None = None, **attributes: Any
    ) -> str:
        """Append a node with one output and return that output's name.

        What small constants alone decide is computed here.
        """
        known = [self.arrays.get(i) for i in inputs]
        if inputs and all(one is not None for one in known):
            made = compute(kind, [one for one in known if one is not None], attributes)
            if made is not None:
                return self.constant(made)
        return self.nodes_of(kind, inputs, 1, origin=origin, **attributes)[0]

    def constant(self, value: Any, element: str | None = None) -> str:
        """The name of a constant tensor, shared between equal ones."""
        from onnx import TensorProto

        array = np.asarray(value)
        if element is not None:
            array = array.astype(dtype(element).numpy)
        kind = dtype(array.dtype).name
        key = (kind, array.shape, array.tobytes())
        if key not in self._known:
            name = self.fresh("const")
            tensor = TensorProto(name=name, data_type=onnx_type(kind, "a constant"))
            tensor.dims.extend(array.shape)
            tensor.raw_data = _packed(array, dtype(kind).bits)
            self.initializers.append(tensor)
            self.constants.add(name)
            self.arrays[name] = array
            self.sizes[name] = array.shape
            self._known[key] = name
        return self._known[key]

    def ints(self, *values: int) -> str:
        """A constant i64 vector."""
        return self.constant(np.asarray(values, np.int64))

    def cast(self, name: str, element: str) -> str:
        return self.node("Cast", [name], to=onnx_type(element, "a conversion"))

    def reshape(self, name: str, shape: Sequence[int | None]) -> str:
        """Reshape to sizes of which one may be unknown."""
        if sum(d is None for d in shape) > 1:
            raise UnsupportedError("a reshape with two sizes known only when running")
        made = self.producer.get(name)
        if made is not None and made.op_type == "Reshape" and not made.attribute:
            name = made.input[0]
        if None not in shape and self.sizes.get(name) == tuple(shape):
            return name
        sizes = self.ints(*(-1 if d is None else d for d in shape))
        name = self.node("Reshape", [name, sizes], allowzero=1 if 0 in shape else None)
        self.sizes[name] = tuple(shape)
        return name

    def transpose(self, name: str, order: Sequence[int]) -> str:
        if list(order) == list(range(len(order))):
            return name
        made = self.node("Transpose", [name], perm=list(order))
        if (sizes := self.sizes.get(name)) is not None:
            self.sizes[made] = tuple(sizes[d] for d in order)
        return made

    def slice(
        self, name: str, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Any
    ) -> str:
        parts = [self.ints(*starts), self.ints(*ends), self.ints(*axes), self.ints(*steps)]
        return self.node("Slice", [name, *parts])

    def whole(self, tensor: Tensor) -> str:
        """The tensor's name once its pending broadcast is done."""
        if not tensor.is_pending:
            return tensor.name
        if not tensor.target and None in tensor.shape:
            raise UnsupportedError("a broadcast to a size known only when running")
        sizes = tensor.target or self.ints(*(d or 0 for d in tensor.shape))
        kind = dtype(tensor.dtype)
        if kind.kind == "bool" or (
            kind.bits >= 8 and "f8" not in kind.name and kind.name != "bf16"
        ):
            return self.node("Expand", [tensor.name, sizes])
        wide = "f32" if kind.kind == "float" else "i32"  # runtimes expand no narrow types
        expanded = self.node("Expand", [self.cast(tensor.name, wide), sizes])
        return self.cast(expanded, tensor.dtype)

    def scalar(self, name: str) -> float | None:
        """The number a constant of one element holds."""
        array = self.arrays.get(name)
        return None if array is None or array.size != 1 else array.reshape(()).item()

    @contextmanager
    def inner(self) -> Iterator[list[Any]]:
        """Collect the nodes written inside the block apart: a subgraph's."""
        outer, self.nodes = self.nodes, []
        known = dict(self.producer)
        try:
            yield self.nodes
        finally:
            self.nodes, self.producer = outer, known

    def drop_unread(self, wanted: Sequence[str]) -> None:
        """Drop nodes whose results nothing reads."""
        alive, kept = set(wanted), []
        for node in reversed(self.nodes):
            if any(o in alive for o in node.output):
                kept.append(node)
                alive |= read_by(node)
        self.nodes = kept[::-1]

    def skip_identities(self, outputs: set[str], inputs: set[str]) -> None:
        """Give a node's result the output's name instead of copying it there."""
        from collections import Counter

        readers = Counter(n for node in self.nodes for n in read_by(node))
        made = {o: node for node in self.nodes for o in node.output}
        for node in [n for n in self.nodes if n.op_type == "Identity" and n.output[0] in outputs]:
            source = node.input[0]
            if source in inputs or source not in made or readers[source] != 1:
                continue
            writer = made[source]
            index = list(writer.output).index(source)
            if source in outputs:
                continue
            writer.output[index] = node.output[0]
            self.nodes.remove(node)


def read_by(node: Any) -> set[str]:
    """What a node reads, inside its subgraphs too."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            names |= {o.name for o in inner.output}
            for one in inner.node:
                names |= read_by(one)
    return names


def _packed(array: np.ndarray, bits: int) -> bytes:
    """Raw data as ONNX wants it: two elements a byte for 4-bit types."""
    if bits >= 8 or array.dtype == np.bool_:
        return np.ascontiguousarray(array).tobytes()
    flat = np.ascontiguousarray(array).view(np.uint8).reshape(-1) & 15
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return (flat[::2] | (flat[1::2] << 4)).astype(np.uint8).tobytes()
