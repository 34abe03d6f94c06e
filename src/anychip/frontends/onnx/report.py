"""What cannot be expressed, all of it at once: ops, node names, counts and the nearest remedy."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from anychip.core.errors import UnsupportedError
from anychip.core.target import OpCoverage
from anychip.frontends.onnx.graph import Graph, Node
from anychip.frontends.onnx.table import EXPLAINED, TABLE

_NAMES_SHOWN = 6


@dataclass(frozen=True)
class Failure:
    """A node that could not be expressed: it `needs` a value while loading, or `why` says why.

    Both are "" for an op that has no rule.
    """

    node: Node
    why: str = ""
    needs: str = ""


def raise_failures(path: str, graph: Graph, failures: Sequence[Failure]) -> None:
    """Raise one UnsupportedError for all failures, ops without a rule in any branch included."""
    if not failures:
        return
    found = list(failures)
    seen = {id(f.node) for f in found}
    for node in graph.walk():
        if (node.domain, node.op) not in TABLE and id(node) not in seen:
            found.append(Failure(node))
    groups: dict[tuple[str, str], list[Node]] = {}
    for failure in found:
        why = _why(graph, failure)
        groups.setdefault((failure.node.kind, why), []).append(failure.node)
    rows: list[str] = []
    report: list[OpCoverage] = []
    for (kind, why), nodes in groups.items():
        names = [n.label for n in nodes[:_NAMES_SHOWN]]
        more = f" and {len(nodes) - len(names)} more" if len(nodes) > len(names) else ""
        rows.append(f"  {kind} × {len(nodes)} (at {', '.join(names)}{more}): {why}")
        report += [
            OpCoverage(op=kind, fate="unsupported", origin=node.origin(path), why=why)
            for node in nodes
        ]
    count = (
        f"{len(found)} node{'s' * (len(found) > 1)} of {len(groups)} kind{'s' * (len(groups) > 1)}"
    )
    raise UnsupportedError(
        f"{path}: {count} cannot be expressed:\n" + "\n".join(rows), report=report
    )


def _why(graph: Graph, failure: Failure) -> str:
    node, why = failure.node, failure.why
    if failure.needs:
        return _needs_known(graph, failure.needs)
    if why:
        return why
    if (node.domain, node.op) in EXPLAINED:
        return EXPLAINED[node.domain, node.op]
    near = difflib.get_close_matches(node.op, [op for _, op in TABLE], n=1, cutoff=0.75)
    hint = f"; the nearest that has one is {near[0]}" if near else ""
    if node.domain:
        return (
            f"no rule for this op of domain {node.domain}{hint}; "
            "export the model with standard ops or with its function body included"
        )
    return (
        f"no rule for this op{hint}; rewrite it with other ops, or run this part outside the model"
    )


def _needs_known(graph: Graph, name: str) -> str:
    inputs = sources_of(graph, name)
    if not inputs:
        return (
            f"needs the value of {name!r} while loading, but it is computed from the data; "
            "fix symbolic sizes with dims={…} if it follows from a shape"
        )
    wanted = ", ".join(f"{i!r}: …" for i in inputs)
    return (
        f"needs the value of {name!r} while loading, because it decides a shape or a choice; "
        f"pass constants={{{wanted}}}, or fix symbolic sizes with dims={{…}}"
    )


def sources_of(graph: Graph, name: str) -> list[str]:
    """The graph inputs whose values (not shapes) a value is computed from, in graph order."""
    made_by = {o: node for node in graph.walk() for o in node.outputs if o}
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        value = waiting.pop()
        if value in seen or not value:
            continue
        seen.add(value)
        node = made_by.get(value)
        if node is not None and node.op not in ("Shape", "Size"):
            waiting.extend(node.inputs)
            waiting.extend(o.name for g in node.subgraphs for o in g.outputs)
    return [p.name for p in graph.inputs if p.name in seen]


def constant_inputs(graph: Graph) -> list[str]:
    """The graph inputs that must be known while loading: what rules need known, traced back."""
    wanted: dict[str, None] = {}
    for node in graph.walk():
        entry = TABLE.get((node.domain, node.op))
        for index in entry.known_positions(node) if entry else ():
            if index < len(node.inputs) and node.inputs[index]:
                wanted.update(dict.fromkeys(sources_of(graph, node.inputs[index])))
    return [p.name for p in graph.inputs if p.name in wanted]
