"""In the child: every op of a function that XLA has no kernel for, with its layer and line.

TensorFlow's own message names the first only.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

_DEVICE = "XLA_CPU_JIT"
_NOT_COMPILED = {"Placeholder", "PlaceholderWithDefault", "VarHandleOp"}  # arguments by then
_TEXT = "it works on text, which no chip computes on; do it before the model"
_TABLE = "it looks up a table; do it before the model, or use tf.gather on a constant"
_PYTHON = "it calls Python, which cannot be compiled; write it with TensorFlow's own functions"
_SIZED_BY_DATA = {
    *("Where", "Unique", "UniqueV2", "UniqueWithCounts", "UniqueWithCountsV2"),
    *("DynamicPartition", "ListDiff"),
}
_SIZED = (
    "its size depends on the data, and XLA would pad it in silence; use a form with a fixed size "
    "(tf.where with three arguments), or do this step outside the model"
)
_REMEDIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("String", "AsString", "Regex", "Substr", "Unicode", "ReduceJoin", "DecodeRaw"), _TEXT),
    (("LookupTable", "HashTable", "MutableHash"), _TABLE),
    (("EagerPyFunc", "PyFunc", "NumpyFunction"), _PYTHON),
    (("Sparse",), "it makes or takes a sparse tensor; use a dense one"),
    (("Ragged",), "it makes or takes a ragged tensor; pad it to a fixed size"),
    (("ReadFile", "Decode", "ParseExample", "Iterator"), "it reads data; do it before the model"),
    (("Print", "Summary"), "it prints; leave it out of the exported function"),
)


def missing(function: Any, model: Path) -> list[dict[str, Any]]:
    """A row for each op and line: op, count, layer, source, why. Call it after XLA was tried, for
    TensorFlow registers XLA's kernels then."""
    from tensorflow.python.framework import kernels

    have = {k.op for k in kernels.get_all_registered_kernels().kernel if k.device_type == _DEVICE}
    functions = {f.signature.name for f in function.graph.as_graph_def().library.function}
    fine = (have | functions | _NOT_COMPILED) - _SIZED_BY_DATA
    return _rows(function, model, lambda op: "" if op in fine else _why(op, have))


def sized_by_data(function: Any, model: Path) -> list[dict[str, Any]]:
    """The same for the ops whose results have as many elements as the data says."""
    return _rows(function, model, lambda op: _SIZED if op in _SIZED_BY_DATA else "")


def _rows(function: Any, model: Path, why: Callable[[str], str]) -> list[dict[str, Any]]:
    lines = _lines(model)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for node in _nodes(function.graph.as_graph_def()):
        reason = why(node.op)
        if not reason:
            continue
        layer, source = node.name.rpartition("/")[0], lines.get(node.name, "")
        row = rows.setdefault(
            (node.op, source or layer),
            {
                "op": node.op,
                "count": 0,
                "layer": layer,
                "source": source,
                "why": reason,
            },
        )
        row["count"] += 1
    return sorted(rows.values(), key=lambda row: -row["count"])


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _why(op: str, have: set[str]) -> str:
    if op in _SIZED_BY_DATA:
        return _SIZED
    for parts, remedy in _REMEDIES:
        if any(part in op for part in parts):
            return remedy
    near = difflib.get_close_matches(op, have, n=1, cutoff=0.8)
    hint = f"; the nearest that has one is {near[0]}" if near else ""
    return f"XLA has no kernel for it{hint}; rewrite the line, or leave it out of the function"


def _lines(model: Path) -> Mapping[str, str]:
    """Node name → `file:line` of the user's code, for a SavedModel with save_debug_info."""
    file = model / "debug" / "saved_model_debug_info.pb"
    if not file.is_file():
        return {}
    from tensorflow.core.framework import graph_debug_info_pb2

    info: Any = graph_debug_info_pb2.GraphDebugInfo()  # pyright: ignore[reportAttributeAccessIssue]
    info.ParseFromString(file.read_bytes())
    found: dict[str, str] = {}
    for name, trace in info.name_to_trace_id.items():
        frames = [info.frames_by_id[f] for f in info.traces_by_id[trace].frame_id]
        places = [(info.files[f.file_index], f.line) for f in frames]
        own = [f"{file}:{line}" for file, line in places if "/site-packages/" not in file]
        if own:
            found.setdefault(name.partition("@")[0], own[-1])
    return found
