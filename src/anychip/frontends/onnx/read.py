"""An ONNX file to a checked Graph: split, parse, check, inline functions, convert.

Large tensors never enter protobuf or the checker; they stand in as extra graph inputs and come
back as Weights that read the file's memory map.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core.errors import InputError, UnsupportedError, missing_extra
from anychip.core.weights import Weight, Weights
from anychip.frontends.onnx.graph import Graph, Node, Port
from anychip.frontends.onnx.tensors import (
    ELEMENTS,
    STRING,
    count,
    external,
    stored,
    to_array,
)
from anychip.frontends.onnx.wire import Split, split

STANDARD = ("", "ai.onnx")

_RUNTIME_ONLY = {"SimplifiedLayerNormalization"}
"""Ops ONNX Runtime puts into the standard domain though the standard does not have them."""


@dataclass(frozen=True)
class Model:
    """A parsed model. `path` is for messages; `opsets` maps domain to version."""

    path: str
    graph: Graph
    opsets: Mapping[str, int] = field(default_factory=dict)
    producer: str = ""


def read(source: str | Path | bytes, own: Collection[tuple[str, str]], *, path: str = "") -> Model:
    """Read a file, or a serialised ModelProto (then `path` names it in messages).

    `own` lists (domain, op) with an entry in our table: functions of that name are not expanded.
    Raises InputError naming file and field, UnsupportedError for an opset newer than the installed
    onnx package knows, SetupError without that package.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise missing_extra("onnx", "onnx", "reading ONNX models") from None
    path = path if isinstance(source, bytes) else str(source)
    data = memoryview(source) if isinstance(source, bytes) else _map(Path(source))
    pieces = split(data, path)
    proto = _parse(pieces.message, path)
    weights = _take_weights(proto, pieces, data, path)
    _rehome(proto)
    opsets = _opsets(proto, path)
    _check(proto, path)
    origins = _origins(proto.graph)
    proto = _inline(proto, own, path)
    graph = _Converter(path, _opsets(proto, path), origins, weights).graph(proto.graph)
    inputs = tuple(p for p in graph.inputs if p.name not in weights)
    graph = replace(graph, inputs=inputs, weights={**graph.weights, **weights})
    return Model(path, graph, opsets, proto.producer_name)


def _map(path: Path) -> memoryview:
    try:
        with open(path, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # mmap has no empty maps: ValueError
        why = error.strerror if isinstance(error, OSError) else "the file is empty"
        raise InputError(f"cannot be read: {why}", path=str(path)) from None


def _parse(message: bytes, path: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(message)
    except DecodeError as error:
        raise InputError(f"not an ONNX protobuf: {error}", path=path) from None
    if not proto.HasField("graph"):
        raise InputError("holds no graph; is it an ONNX model?", path=path, field="graph")
    return proto


def _take_weights(proto: Any, pieces: Split, data: memoryview, path: str) -> dict[str, Weight]:
    """Move large and external tensors out of the graph, leaving typed graph inputs behind."""
    from onnx import helper

    weights: dict[str, Weight] = {}
    graph = proto.graph
    declared = {i.name for i in graph.input}

    def take(tensor: Any, weight: Weight) -> None:
        weights[weight.name] = weight
        if weight.name not in declared:
            declared.add(weight.name)
            graph.input.append(
                helper.make_tensor_value_info(weight.name, tensor.data_type, list(tensor.dims))
            )

    kept = []
    for tensor in graph.initializer:
        if tensor.name in pieces.raw:
            start, end = pieces.raw[tensor.name]
            take(tensor, stored(tensor, path, data[start:end]))
        elif tensor.data_location == 1:
            take(tensor, external(tensor, path))
        else:
            kept.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for sparse in graph.sparse_initializer:
        dense, tensor = _dense(sparse, path)
        take(tensor, dense)
    del graph.sparse_initializer[:]
    nodes = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and node.output[0] in pieces.raw and value is not None:
            start, end = pieces.raw[node.output[0]]
            weight = stored(value, path, data[start:end])
            take(value, replace(weight, name=node.output[0]))
        else:
            nodes.append(node)
    if len(nodes) < len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)
    return weights


def _rehome(proto: Any) -> None:
    """Put ONNX Runtime's own ops where they belong, so that the checker lets them pass."""
    moved = [n for n in proto.graph.node if n.domain in STANDARD and n.op_type in _RUNTIME_ONLY]
    for node in moved:
        node.domain = "com.microsoft"
    if moved and all(o.domain != "com.microsoft" for o in proto.opset_import):
        proto.opset_import.add(domain="com.microsoft", version=1)


def _dense(sparse: Any, path: str) -> tuple[Weight, Any]:
    """A sparse initializer as a Weight that is filled in when touched."""
    import onnx

    name = sparse.values.name
    dims = list(sparse.dims)
    shell = onnx.TensorProto(name=name, data_type=sparse.values.data_type, dims=dims)
    size = count(shell, path)
    values = to_array(sparse.values, path)
    indices = to_array(sparse.indices, path)
    if indices.ndim == 2 and indices.shape[1] == len(dims):
        flat = np.asarray(np.ravel_multi_index(tuple(indices.T), tuple(dims), mode="clip"))
    else:
        flat = indices.reshape(-1)
    if len(flat) != values.size or (len(flat) and (flat.min() < 0 or flat.max() >= size)):
        raise InputError("indices do not fit", path=path, field=f"sparse_initializer {name}")

    def read_dense() -> np.ndarray:
        out = np.zeros(size, values.dtype)
        out[flat] = values
        return out.reshape(dims)

    kind = ELEMENTS.get(sparse.values.data_type, "f32")
    return Weight(name, tuple(dims), kind, read_dense, "sparse", values.nbytes, path), shell


def _opsets(proto: Any, path: str) -> dict[str, int]:
    from onnx import defs

    newest = defs.onnx_opset_version()
    opsets = {("" if o.domain in STANDARD else o.domain): o.version for o in proto.opset_import}
    if not opsets and proto.ir_version < 3:
        opsets = {"": 1}
    if not opsets:
        raise InputError("no opset is imported", path=path, field="opset_import")
    if opsets.get("", 1) > newest:
        raise UnsupportedError(
            f"{path} uses ONNX opset {opsets['']}; the installed onnx package knows {newest}. "
            "Upgrade onnx, or export the model at an older opset."
        )
    return opsets


def _check(proto: Any, path: str) -> None:
    import onnx

    checked = onnx.ModelProto()
    checked.CopyFrom(proto)
    for port in (*checked.graph.input, *checked.graph.output):  # the checker wants every rank
        if port.type.WhichOneof("value") in (None, "tensor_type"):
            port.type.tensor_type.elem_type = port.type.tensor_type.elem_type or 1
            port.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(checked)
    except (onnx.checker.ValidationError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"the model is not valid: {_first_lines(error)}", path=path) from None


def _inline(proto: Any, own: Collection[tuple[str, str]], path: str) -> Any:
    """Expand model-local functions, then standard functions we have no entry for."""
    from onnx import inliner

    try:
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        return inliner.inline_selected_functions(
            proto, list(own), exclude=True, inline_schema_functions=True
        )
    except (RuntimeError, ValueError, TypeError) as error:  # what the C++ binding raises
        raise InputError(
            f"functions cannot be expanded: {_first_lines(error)}", path=path, field="functions"
        ) from None


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split("\n==>")[0].split())[:600]


def _origins(graph: Any) -> dict[str, tuple[str, str]]:
    """Output name to (node name, op) before inlining, which drops the names of functions."""
    found: dict[str, tuple[str, str]] = {}
    for node in graph.node:
        for output in node.output:
            found[_text(output)] = (_text(node.name), _text(node.op_type))
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found.update(_origins(inner))
    return found


class _Converter:
    """Protobuf to the frontend's own data, subgraphs included."""

    def __init__(
        self,
        path: str,
        opsets: dict[str, int],
        origins: dict[str, tuple[str, str]],
        taken: Collection[str],
    ):
        self.path, self.opsets, self.origins = path, opsets, origins
        self.weight_names = set(taken)

    def graph(self, proto: Any) -> Graph:
        values = {_text(t.name): to_array(t, self.path) for t in proto.initializer}
        inputs = [self.port(_text(i.name), i.type) for i in proto.input]
        inputs = [i for i in inputs if i.name not in values]
        outputs = [self.port(_text(o.name), o.type) for o in proto.output]
        nodes = []
        for node in self.nodes(proto):
            if node.op == "Constant" and not node.domain:
                values[node.outputs[0]] = _constant(node, self.path)
            else:
                nodes.append(node)
        weights = {n: self.weight(n, v) for n, v in values.items() if _is_weight(v)}
        constants = {n: v for n, v in values.items() if n not in weights}
        return Graph(
            _text(proto.name), tuple(nodes), tuple(inputs), tuple(outputs), constants, weights
        )

    def weight(self, name: str, value: np.ndarray) -> Weight:
        """A Weight held in memory; sibling subgraphs may use one name twice, weights may not."""
        unique, serial = name, 1
        while unique in self.weight_names:
            serial += 1
            unique = f"{name}.{serial}"
        self.weight_names.add(unique)
        return replace(Weights.from_arrays({unique: value})[unique], source=self.path)

    def nodes(self, proto: Any) -> tuple[Node, ...]:
        """Nodes in order; those of an expanded function take the name of that function's node."""
        made: list[Node] = []
        owner: tuple[str, str] | None = None
        for raw in reversed(proto.node):
            outputs = tuple(_text(o) for o in raw.output)
            known = [self.origins[o] for o in outputs if o in self.origins]
            owner = known[0] if known else owner
            name = _text(raw.name)
            if owner and not name:
                name = owner[0] or next((o for o in outputs if o in self.origins), "")
            made.append(self.node(raw, name))
        return tuple(reversed(made))

    def node(self, raw: Any, name: str) -> Node:
        op, domain = _text(raw.op_type), _text(raw.domain)
        domain = "" if domain in STANDARD else domain
        return Node(
            op=op,
            name=name,
            inputs=tuple(_text(i) for i in raw.input),
            outputs=tuple(_text(o) for o in raw.output),
            attributes={_text(a.name): self.attribute(a, name or op) for a in raw.attribute},
            domain=domain,
            version=self.version(op, domain),
            source=_source(raw),
        )

    def version(self, op: str, domain: str) -> int:
        from onnx import defs

        imported = self.opsets.get(domain, 1)
        if not defs.has(op, imported, domain):
            return imported
        return defs.get_schema(op, imported, domain).since_version

    def attribute(self, proto: Any, node: str) -> Any:
        from onnx import AttributeProto as A

        readers = {
            A.FLOAT: lambda: proto.f,
            A.INT: lambda: proto.i,
            A.STRING: lambda: proto.s.decode("utf-8", "replace"),
            A.TENSOR: lambda: to_array(proto.t, self.path),
            A.GRAPH: lambda: self.graph(proto.g),
            A.FLOATS: lambda: list(proto.floats),
            A.INTS: lambda: list(proto.ints),
            A.STRINGS: lambda: [s.decode("utf-8", "replace") for s in proto.strings],
            A.TENSORS: lambda: [to_array(t, self.path) for t in proto.tensors],
            A.GRAPHS: lambda: [self.graph(g) for g in proto.graphs],
            A.TYPE_PROTO: lambda: self.port("", proto.tp),
            A.SPARSE_TENSOR: lambda: _dense(proto.sparse_tensor, self.path)[0].array(),
        }
        if proto.type not in readers:
            raise InputError(
                f"attribute {proto.name} has type {proto.type}",
                path=self.path,
                field=f"node {node}",
            )
        return readers[proto.type]()

    def port(self, name: str, kind: Any) -> Port:
        which = kind.WhichOneof("value")
        if which == "sequence_type":
            return Port(name, "sequence", inside=self.port(name, kind.sequence_type.elem_type))
        if which == "optional_type":
            return Port(name, "optional", inside=self.port(name, kind.optional_type.elem_type))
        if which == "map_type":
            return Port(name, "map")
        tensor = kind.sparse_tensor_type if which == "sparse_tensor_type" else kind.tensor_type
        if tensor.elem_type == STRING:
            element = "string"
        else:
            element = ELEMENTS.get(tensor.elem_type, "")
        if not tensor.HasField("shape"):
            return Port(name, "tensor", element)
        return Port(name, "tensor", element, tuple(_dim(d) for d in tensor.shape.dim))


def _constant(node: Node, path: str) -> np.ndarray:
    """The value of a Constant node, whichever of its attributes holds it."""
    kinds = {
        "value": None,
        "sparse_value": None,
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
        "value_string": object,
        "value_strings": object,
    }
    for name, value in node.attributes.items():
        if name in kinds:
            return np.asarray(value, kinds[name])
    raise InputError("a Constant holds no value", path=path, field=f"node {node.label}")


def _is_weight(value: np.ndarray) -> bool:
    """Whether a tensor is worth being an argument; scalars and shape-like vectors are constants."""
    if value.dtype == object or value.size <= 1:
        return False
    if value.dtype.kind in "iub":
        return value.size > 64
    return value.ndim > 1 or value.size > 8


def _text(value: Any) -> str:
    """A string field; protobuf hands out bytes when they are not UTF-8."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _dim(proto: Any) -> int | str | None:
    """A size, a symbol, or None; exporters write "?" and -1 for sizes they do not know."""
    which = proto.WhichOneof("value")
    if which == "dim_value":
        return proto.dim_value if proto.dim_value >= 0 else None
    return _text(proto.dim_param).strip("?") or None


_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def _source(raw: Any) -> str:
    """The user's line that torch's exporter noted at the node."""
    for pair in raw.metadata_props:
        if _text(pair.key) == "pkg.torch.onnx.stack_trace":
            frames = _FRAME.findall(_text(pair.value))
            own = [f"{f}:{n}" for f, n in frames if "/site-packages/" not in f]
            return own[-1] if own else ""
    return ""
