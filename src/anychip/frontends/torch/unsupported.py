"""What cannot be expressed, all of it at once, each with the user's line and the nearest remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import fx

from anychip.core.errors import UnsupportedError
from anychip.core.origin import Origin
from anychip.core.target import OpCoverage
from anychip.frontends.torch.nodes import is_known_function, origin_of, overload_name
from anychip.frontends.torch.random import RULES as RANDOM
from anychip.frontends.torch.table import Rule

_SIZE = "its result has a size that depends on the data, and compiled programs have fixed sizes; "
_FOLLOW = ", or load with follow_example=True where it is always as many as in the example"
_REMEDIES: Mapping[str, str] = {
    "nonzero": _SIZE + "use torch.where(condition, a, b), multiply by the mask" + _FOLLOW,
    "masked_select": _SIZE + "use torch.where(mask, x, neutral value) and reduce over all of it",
    "argwhere": _SIZE + "use torch.where(condition, a, b)",
    "unique": _SIZE + "keep duplicates and sort, or do it before the model",
    "_unique2": _SIZE + "keep duplicates and sort, or do it before the model",
    "unique_dim": _SIZE + "keep duplicates and sort, or do it before the model",
    "unique_consecutive": _SIZE + "keep duplicates, or do it before the model",
    "bincount": _SIZE + "use torch.nn.functional.one_hot(x, n).sum(0) with a known n",
    "repeat_interleave": _SIZE + "pass a number instead of a tensor of repeats",
    "nms": "run non-maximum suppression on the host after the model",
    "_pack_padded_sequence": "run the recurrent layer on the padded batch and mask its outputs",
    "_thnn_fused_lstm_cell": "use torch.nn.LSTM or LSTMCell",
    "triton_kernel_wrapper_functional": "a Triton kernel is for one vendor; use its torch form",
}
_FACTORS = ("linalg_", "cholesky", "lu_", "geqrf", "ormqr", "orgqr", "triangular_solve", "pinverse")
_FACTORED = (
    "a factorisation or a solution of equations, which is a library's work and no chip's op; do it "
    "before or after the model, or once for constant matrices"
)
_RANDOM = (
    "it draws random numbers; call .eval() if it is dropout, pass the noise as an input, or load "
    "with seed=0 to draw the same numbers at every call"
)


def missing(graph: fx.GraphModule, rules: Mapping[str, Rule], seed: int | None) -> list[OpCoverage]:
    """A row for every op, also in branches and loop bodies, that has no rule."""
    rows: list[OpCoverage] = []
    for part in graph.modules():
        if not isinstance(part, fx.GraphModule):
            continue
        for node in part.graph.nodes:
            if node.op == "call_function" and (why := why_not(node.target, rules, seed)):
                name = overload_name(node.target) or getattr(node.target, "__name__", "?")
                rows.append(
                    OpCoverage(op=name, fate="unsupported", origin=origin_of(node), why=why)
                )
    return rows


def why_not(target: object, rules: Mapping[str, Rule], seed: int | None) -> str:
    name = overload_name(target)
    if name is None:
        return (
            ""
            if is_known_function(target)
            else "it is a Python function with no rule; move it out of forward"
        )
    if name in RANDOM and seed is None:
        return _RANDOM
    if name in rules:
        return ""
    packet = name.split(".")[1]
    if packet in _REMEDIES:
        return _REMEDIES[packet]
    if packet.lstrip("_").startswith(_FACTORS):
        return _FACTORED
    near = difflib.get_close_matches(name, rules, n=1, cutoff=0.75)
    hint = f"; the nearest that has one is {near[0]}" if near else ""
    if isinstance(target, torch._ops.OpOverload) and target.namespace != "aten":
        return f"the custom op {name} has no rule; call torch's own functions instead{hint}"
    return f"there is no rule for it{hint}; rewrite the line with supported functions"


def grouped(rows: Iterable[OpCoverage]) -> tuple[OpCoverage, ...]:
    """One row an op and source line, with its count; the first layer stands for the others."""
    merged: dict[tuple[str, str, str], OpCoverage] = {}
    for row in rows:
        key = (row.op, row.origin.source, row.why)
        seen = merged.get(key)
        merged[key] = (
            row
            if seen is None
            else OpCoverage(
                op=row.op,
                fate="unsupported",
                count=seen.count + row.count,
                origin=seen.origin,
                why=row.why,
            )
        )
    return tuple(merged.values())


def unsupported(rows: Sequence[OpCoverage]) -> UnsupportedError:
    """The error that lists all of them, most frequent first."""
    report = sorted(grouped(rows), key=lambda row: -row.count)
    lines = [f"the model uses {len(report)} thing(s) that cannot be expressed:"]
    for row in report:
        times = f" ({row.count}×)" if row.count > 1 else ""
        lines.append(f"  {row.op}{times} at {_where(row.origin)}: {row.why}")
    return UnsupportedError("\n".join(lines), report=report)


def _where(origin: Origin) -> str:
    if origin.layer and not origin.source:
        return f"layer {origin.layer}"  # torch's own, whose lines are not the user's
    return str(origin) if origin != Origin() else "an op without a source line"
