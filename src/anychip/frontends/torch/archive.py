"""What a `.pt2` archive calls that this process cannot, read from its JSON: torch.export.load stops
at the first custom op nobody registered, and does not say where it stands."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from anychip.core.target import OpCoverage
from anychip.frontends.torch.graph import origin_from
from anychip.frontends.torch.table import table

_MOST_BYTES = 256 << 20
_CUSTOM = (
    "this custom op is not registered here and has no rule; export the model with torch's own "
    "functions in its place"
)


def missing(path: Path) -> list[OpCoverage]:
    """When the archive calls ops that are unknown here: a row for each, and for each of torch's own
    that has neither a rule nor a decomposition. Otherwise, or when it cannot be read: none."""
    from anychip.frontends.torch.unsupported import why_not

    rules, rows, unknown = table(), list[OpCoverage](), 0
    for node in _nodes(path):
        name = str(node["target"]).removeprefix("torch.ops.")
        op = _resolved(name)
        unknown += op is None
        why = _CUSTOM if op is None else "" if _decomposes(op) else why_not(op, rules, None)
        if why:
            note = node.get("metadata") or {}
            paths = [one.split(",")[1] for one in _stack(note)]
            origin = origin_from(paths, str(note.get("stack_trace", "")))
            rows.append(OpCoverage(op=name, fate="unsupported", origin=origin, why=why))
    return rows if unknown else []


def _nodes(path: Path) -> Iterator[Mapping[str, Any]]:
    """The nodes that call an op; nothing for a file that is no archive, which load explains."""
    try:
        with zipfile.ZipFile(path) as file:
            for entry in file.infolist():
                name = entry.filename
                if "/models/" in name and name.endswith(".json") and entry.file_size < _MOST_BYTES:
                    nodes = json.loads(file.read(entry))["graph_module"]["graph"]["nodes"]
                    yield from (n for n in nodes if str(n["target"]).startswith("torch.ops."))
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, RuntimeError):
        return


def _stack(note: Mapping[str, Any]) -> list[str]:
    """`key,path,class` of each module around a node, outermost first."""
    return [p for p in str(note.get("nn_module_stack", "")).split(";") if p.count(",") >= 2]


def _resolved(name: str) -> Any:
    """`aten.add.Tensor` → torch.ops.aten.add.Tensor; None when there is no such op here."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _decomposes(op: Any) -> bool:
    from anychip.frontends.torch.export import decompositions

    if not isinstance(op, torch._ops.OpOverload):
        return True  # a higher-order op: its branches are no part of this list
    has_parts = torch._C.DispatchKey.CompositeImplicitAutograd
    return op in decompositions() or op.has_kernel_for_dispatch_key(has_parts)
