"""What a `.pt2` archive calls that this process does not know. torch.export.load stops at the first
custom op nobody registered; with stand-ins for all of them the rest can be looked at too."""

# Annotations of torch are partly missing or wrong:
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import json
import operator
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from anychip.core.target import OpCoverage
from anychip.frontends.torch.nodes import origin_of, overload_name

_MOST_BYTES = 256 << 20
_CUSTOM = (
    "this custom op is not registered here and has no rule; export the model with torch's own "
    "functions in its place"
)
# how an archive writes an argument → its type in an op's schema; a None is any optional
_TYPES = {
    "as_bool": "bool",
    "as_bools": "bool[]",
    "as_complex": "complex",
    "as_device": "Device",
    "as_float": "float",
    "as_floats": "float[]",
    "as_int": "SymInt",
    "as_ints": "SymInt[]",
    "as_layout": "Layout",
    "as_memory_format": "MemoryFormat",
    "as_none": "Tensor?",
    "as_optional_tensor": "Tensor?",
    "as_optional_tensors": "Tensor?[]",
    "as_scalar_type": "ScalarType",
    "as_string": "str",
    "as_strings": "str[]",
    "as_sym_bool": "SymBool",
    "as_sym_float": "float",
    "as_sym_int": "SymInt",
    "as_sym_ints": "SymInt[]",
    "as_tensor": "Tensor",
    "as_tensors": "Tensor[]",
}


@contextmanager
def stand_ins(path: Path) -> Iterator[frozenset[str]]:
    """Ops of the archive that are unknown here, with the signatures it calls them by; they are
    registered, without a meaning, until the context ends."""
    unknown: dict[str, Mapping[str, Any]] = {}
    for node in _nodes(path):
        name = str(node["target"]).removeprefix("torch.ops.")
        if name.count(".") == 2 and _resolved(name) is None:
            unknown.setdefault(name, node)
    with ExitStack() as stack:
        for name, node in unknown.items():
            namespace, op, overload = name.split(".")
            suffix = "" if overload == "default" else f".{overload}"
            library = stack.enter_context(torch.library._scoped_library(namespace, "FRAGMENT"))
            library.define(f"{op}{suffix}{_signature(node)}")
        yield frozenset(unknown)


def take_out(program: torch.export.ExportedProgram, unknown: frozenset[str]) -> list[OpCoverage]:
    """A row for every call of a stand-in, which becomes zeros of its result's sizes."""
    rows: list[OpCoverage] = []
    for part in program.graph_module.modules():
        if not isinstance(part, fx.GraphModule):
            continue
        for node in list(part.graph.nodes):
            name = overload_name(node.target) if node.op == "call_function" else None
            if name is None or name not in unknown:
                continue
            rows.append(
                OpCoverage(op=name, fate="unsupported", origin=origin_of(node), why=_CUSTOM)
            )
            _replace(part.graph, node)
        part.recompile()
    return rows


def _replace(graph: fx.Graph, node: fx.Node) -> None:
    sizes = _sizes_before(graph, node)
    value = node.meta.get("val")
    with graph.inserting_before(node):
        if isinstance(value, torch.Tensor):
            node.replace_all_uses_with(_zeros(graph, value, sizes))
        for user in list(node.users):
            if user.target is operator.getitem:
                user.replace_all_uses_with(_zeros(graph, user.meta["val"], sizes))
                graph.erase_node(user)
    graph.erase_node(node)


def _zeros(graph: fx.Graph, value: torch.Tensor, sizes: Mapping[Any, fx.Node]) -> fx.Node:
    shape = [_size(graph, n, sizes) for n in value.shape]
    made = graph.call_function(
        torch.ops.aten.zeros.default, (shape,), {"dtype": value.dtype, "device": value.device}
    )
    made.meta["val"] = value
    return made


def _size(graph: fx.Graph, number: Any, sizes: Mapping[Any, fx.Node]) -> Any:
    """A size as what the graph can compute it from; 1 where only the op itself could."""
    if isinstance(number, int):
        return number
    expression = number.node.expr
    if expression.free_symbols - set(sizes):
        return 1
    tracer = fx.proxy.GraphAppendingTracer(graph)
    known = {symbol: fx.Proxy(node, tracer) for symbol, node in sizes.items()}
    return sympy_interp(PythonReferenceAnalysis, known, expression).node


def _sizes_before(graph: fx.Graph, end: fx.Node) -> dict[Any, fx.Node]:
    """A node for every symbol that is a size of a tensor before `end`."""
    found: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node is end:
            break
        value = node.meta.get("val")
        for axis, size in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
            symbol = None if isinstance(size, int) else size.node.expr
            if symbol is not None and symbol.is_symbol and symbol not in found:
                with graph.inserting_before(end):
                    made = graph.call_function(torch.ops.aten.sym_size.int, (node, axis))
                made.meta["val"] = size
                found[symbol] = made
    return found


def _signature(node: Mapping[str, Any]) -> str:
    takes = [f"{_type(one['arg'])} {one['name']}" for one in node["inputs"]]
    gives = ", ".join(_type(one) for one in node["outputs"])
    return f"({', '.join(takes)}) -> ({gives})"


def _type(argument: Mapping[str, Any]) -> str:
    (kind,) = argument
    return _TYPES.get(kind, "Any")


def _nodes(path: Path) -> Iterator[Mapping[str, Any]]:
    """The nodes that call an op, in branches and loop bodies too; nothing for a file that is no
    archive, which load explains."""
    try:
        with zipfile.ZipFile(path) as file:
            for entry in file.infolist():
                name = entry.filename
                if "/models/" in name and name.endswith(".json") and entry.file_size < _MOST_BYTES:
                    yield from _inside(json.loads(file.read(entry))["graph_module"]["graph"])
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, RuntimeError):
        return


def _inside(graph: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for node in graph["nodes"]:
        if str(node["target"]).startswith("torch.ops."):
            yield node
        for one in node["inputs"]:
            if "as_graph" in one["arg"]:
                yield from _inside(one["arg"]["as_graph"]["graph"])


def _resolved(name: str) -> Any:
    """`aten.add.Tensor` → torch.ops.aten.add.Tensor; None when there is no such op here."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
