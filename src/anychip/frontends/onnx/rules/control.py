"""If, Loop and Scan: followed while loading when the choice is known, else lax control flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.core.errors import UnsupportedError
from anychip.frontends.onnx.fold import Sizes
from anychip.frontends.onnx.graph import Graph, Node
from anychip.frontends.onnx.table import Call, op

UNROLL = 64
"""Loops of at most this many known turns are unrolled, so that shapes may differ by turn."""


def _known_flag(value: Any) -> bool | None:
    """A condition that is known while loading."""
    if isinstance(value, np.ndarray | np.generic | bool) and np.size(value) == 1:
        return bool(np.asarray(value).reshape(()))
    return None


def _if_known(node: Node) -> tuple[int, ...]:
    """Branches that give sequences or optionals must be chosen while loading."""
    ports = [p for g in node.subgraphs for p in g.outputs]
    return (0,) if any(p.kind != "tensor" for p in ports) else ()


@op("If", raw=True, known=_if_known)
def if_(call: Call, condition: Any) -> Any:
    branches: tuple[Graph, Graph] = (call.required("then_branch"), call.required("else_branch"))
    chosen = _known_flag(condition)
    if chosen is not None:
        return tuple(call.evaluator.subgraph(branches[0] if chosen else branches[1], ()))

    def branch(graph: Graph) -> Any:
        return lambda: tuple(call.evaluator.traced(v) for v in call.evaluator.subgraph(graph, ()))

    flag = call.evaluator.traced(condition).reshape(())
    try:
        return lax.cond(flag, branch(branches[0]), branch(branches[1]))
    except TypeError as error:
        raise UnsupportedError(
            "chooses at run time between branches whose results differ in shape or type; "
            "pass the input that decides with constants={…}, or fix sizes with dims={…} "
            f"({str(error).splitlines()[0][:160]})"
        ) from None


def _scan_outputs(node: Node) -> int:
    """How many outputs of a Loop collect one value a turn."""
    body = node.attributes.get("body")
    carried = max(len(node.inputs) - 2, 0)
    return len(body.outputs) - 1 - carried if isinstance(body, Graph) else 0


def _loop_known(node: Node) -> tuple[int, ...]:
    body = node.attributes.get("body")
    ports = body.outputs if isinstance(body, Graph) else ()
    lists = any(p.kind != "tensor" for p in ports)
    return (0, 1) if _scan_outputs(node) > 0 or lists else ()


@op("Loop", raw=True, known=_loop_known)
def loop(call: Call, trips: Any = None, condition: Any = None, *state: Any) -> Any:
    body: Graph = call.required("body")
    known_trips = _known_count(trips)
    if trips is not None and known_trips is None and isinstance(trips, Sizes):
        trips = call.evaluator.traced(trips)
    sequences = any(isinstance(s, list) or s is None for s in state)
    going = True if condition is None else _known_flag(condition)
    if known_trips is not None and going is not None:
        most = call.evaluator.turns_left
        small = known_trips <= (most if sequences else min(UNROLL, most))
        unrolled = _unroll(call, body, known_trips, going, list(state)) if small else None
        if unrolled is not None:
            return unrolled
    if trips is None and going is not None:  # runs until its own condition says stop
        unrolled = _unroll(call, body, UNROLL, going, list(state), endless=True)
        if unrolled is not None:
            return unrolled
    if sequences:
        raise UnsupportedError(
            "grows a sequence for a number of turns that is not known while loading; "
            "pass the trip count and condition with constants={…}"
        )
    collected = len(body.outputs) - 1 - len(state)
    if collected and known_trips is not None and going:
        return _loop_scan(call, body, known_trips, state)
    if collected:
        raise UnsupportedError(
            "collects one result a turn for a number of turns that is not known while loading; "
            "pass the trip count with constants={…}"
        )
    return _loop_while(call, body, trips, condition, state)


def _known_count(trips: Any) -> int | None:
    if isinstance(trips, np.ndarray | np.generic | int):
        return max(0, int(np.asarray(trips).reshape(())))
    return None


def _unroll(
    call: Call, body: Graph, trips: int, going: bool, state: list[Any], *, endless: bool = False
) -> Any:
    """Turn by turn, while the condition stays known; None when it does not (or never ends)."""
    columns: list[list[Any]] = [[] for _ in body.outputs[1 + len(state) :]]
    turn = 0
    while going and turn < trips:
        call.evaluator.turns_left -= 1
        if call.evaluator.turns_left < 0:
            return None
        outputs = call.evaluator.subgraph(
            body, [np.asarray(turn, np.int64), np.asarray(True), *state]
        )
        flag = _known_flag(outputs[0])
        if flag is None:
            return None
        going = flag
        state = outputs[1 : 1 + len(state)]
        for column, value in zip(columns, outputs[1 + len(state) :], strict=True):
            column.append(value)
        turn += 1
    if endless and going:
        return None
    stacked = [
        _stacked(call, column, port)
        for column, port in zip(columns, body.outputs[1 + len(state) :], strict=True)
    ]
    return (*state, *stacked)


def _stacked(call: Call, column: list[Any], port: Any) -> Any:
    if all(isinstance(v, np.ndarray | np.generic) for v in column) and column:
        return np.stack(column)
    if column:
        return jnp.stack([call.evaluator.traced(v) for v in column])
    from anychip.core.dtypes import dtype

    shape = tuple(d if isinstance(d, int) else 0 for d in port.shape or ())
    return np.zeros((0, *shape), dtype(port.dtype or "f32").numpy)


def _body(call: Call, graph: Graph) -> Any:
    def run(turn: Any, state: Sequence[Any]) -> list[Any]:
        outputs = call.evaluator.subgraph(graph, [turn, np.asarray(True), *state])
        return [call.evaluator.traced(v) for v in outputs]

    return run


def _loop_scan(call: Call, body: Graph, trips: int, state: Sequence[Any]) -> Any:
    """A known number of turns; a body that may stop early is refused: fewer results."""
    start = tuple(call.evaluator.traced(s) for s in state)
    stops: list[bool] = []

    def step(carry: tuple[Any, ...], turn: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        outputs = call.evaluator.subgraph(body, [turn, np.asarray(True), *carry])
        stops.append(_known_flag(outputs[0]) is not True)
        outputs = [call.evaluator.traced(v) for v in outputs]
        return tuple(outputs[1 : 1 + len(carry)]), tuple(outputs[1 + len(carry) :])

    last, columns = lax.scan(step, start, jnp.arange(trips, dtype=np.int64))
    if any(stops):
        raise UnsupportedError(
            "may stop early while it collects one result a turn, so their number is not known; "
            "pass the inputs its condition depends on with constants={…}"
        )
    return (*last, *columns)


def _loop_while(call: Call, body: Graph, trips: Any, condition: Any, state: Sequence[Any]) -> Any:
    run, start = _body(call, body), tuple(call.evaluator.traced(s) for s in state)
    limit = None if trips is None else call.evaluator.traced(trips).reshape(()).astype(np.int64)
    going = jnp.asarray(True) if condition is None else call.evaluator.traced(condition).reshape(())

    def more(carry: tuple[Any, ...]) -> Any:
        turn, going, *_ = carry
        return going if limit is None else going & (turn < limit)

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        turn, _, *values = carry
        flag, *outputs = run(turn, values)
        return (turn + 1, flag.reshape(()), *outputs)

    return lax.while_loop(more, step, (jnp.zeros((), np.int64), going, *start))[2:]


@op("Scan", raw=True)
def scan(call: Call, *inputs: Any) -> Any:
    values = [v if v is None else call.evaluator.traced(v) for v in inputs]
    if call.version < 9:
        if values[0] is not None:
            raise UnsupportedError("gives each sequence its own length; use Scan of opset 9 on")
        batched = jax.vmap(lambda *arrays: _scan(call, list(arrays), old=True))
        return tuple(batched(*values[1:]))
    return tuple(_scan(call, values))


def _scan(call: Call, values: list[Any], *, old: bool = False) -> list[Any]:
    body: Graph = call.required("body")
    count = call.required("num_scan_inputs")
    states, xs = tuple(values[:-count]), values[-count:]
    outputs = len(body.outputs) - len(states)
    names = (
        ("directions", "directions")
        if old
        else (
            "scan_input_directions",
            "scan_output_directions",
        )
    )
    in_axes = call.attr("scan_input_axes") or [0] * count
    out_axes = call.attr("scan_output_axes") or [0] * outputs
    in_back = call.attr(names[0]) or [0] * count
    out_back = (None if old else call.attr(names[1])) or [0] * outputs
    xs = [jnp.moveaxis(x, axis, 0) for x, axis in zip(xs, in_axes, strict=True)]
    xs = [jnp.flip(x, 0) if back else x for x, back in zip(xs, in_back, strict=True)]

    def step(carry: tuple[Any, ...], at: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
        made = [call.evaluator.traced(v) for v in call.evaluator.subgraph(body, [*carry, *at])]
        return tuple(made[: len(carry)]), tuple(made[len(carry) :])

    last, columns = lax.scan(step, states, tuple(xs))
    columns = [jnp.flip(c, 0) if b else c for c, b in zip(columns, out_back, strict=True)]
    columns = [jnp.moveaxis(c, 0, a) for c, a in zip(columns, out_axes, strict=True)]
    return [*last, *columns]
