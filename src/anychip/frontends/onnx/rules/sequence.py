"""Sequences as Python lists and optionals as None-or-value: both must be known in length."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from anychip.core.errors import InputError, UnsupportedError
from anychip.frontends.onnx.rules.tensor import cut
from anychip.frontends.onnx.table import Call, ints, op

MOST_PIECES = 4096


def _position(call: Call, value: Any, what: str) -> int:
    if isinstance(value, np.ndarray | np.generic | int):
        return int(np.asarray(value).reshape(()))
    raise UnsupportedError(f"uses a {what} that is not known while loading; pass constants={{…}}")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InputError("wants a sequence")
    return value


@op("SequenceEmpty", raw=True)
def sequence_empty(call: Call) -> Any:
    return ([],)


@op("SequenceConstruct", raw=True)
def sequence_construct(call: Call, *values: Any) -> Any:
    return (list(values),)


@op("SequenceInsert", raw=True, known=(2,))
def sequence_insert(call: Call, sequence: Any, value: Any, position: Any = None) -> Any:
    out = list(_list(sequence))
    at = len(out) if position is None else _position(call, position, "position")
    if not -len(out) <= at <= len(out):
        raise InputError(f"position {at} in a sequence of {len(out)}")
    out.insert(at, value)
    return (out,)


@op("SequenceAt", raw=True, known=(1,))
def sequence_at(call: Call, sequence: Any, position: Any) -> Any:
    return (_list(sequence)[_position(call, position, "position")],)


@op("SequenceErase", raw=True, known=(1,))
def sequence_erase(call: Call, sequence: Any, position: Any = None) -> Any:
    out = list(_list(sequence))
    out.pop(-1 if position is None else _position(call, position, "position"))
    return (out,)


@op("SequenceLength", raw=True)
def sequence_length(call: Call, sequence: Any) -> Any:
    return np.asarray(len(_list(sequence)), np.int64)


@op("SplitToSequence", raw=True, known=(1,))
def split_to_sequence(call: Call, x: Any, lengths: Any = None) -> Any:
    axis = call.attr("axis", 0)
    array = call.evaluator.traced(x)
    total = array.shape[axis]
    if not isinstance(total, int):
        raise UnsupportedError(f"splits the symbolic size {total}; fix it with dims={{…}}")
    if lengths is None:
        step, parts = 1, [1] * min(total, MOST_PIECES + 1)
    elif np.ndim(lengths):
        step, parts = 0, ints(lengths)
    else:
        step = _position(call, lengths, "length")
        if step < 1:
            raise InputError(f"splits into pieces of {step}")
        whole = min(total // step, MOST_PIECES + 1)
        parts = [step] * whole + ([total % step] if total % step else [])
    if len(parts) > MOST_PIECES:
        raise UnsupportedError(f"splits into {len(parts)} pieces; up to {MOST_PIECES} work")
    starts = np.concatenate([[0], np.cumsum(parts)]).astype(int)
    pieces = [cut(array, axis, int(a), int(a) + n) for a, n in zip(starts, parts, strict=False)]
    if lengths is None and not call.attr("keepdims", 1):
        pieces = [jnp.squeeze(p, axis) for p in pieces]
    return (pieces,)


@op("ConcatFromSequence", raw=True)
def concat_from_sequence(call: Call, sequence: Any) -> Any:
    values = [call.evaluator.traced(v) for v in _list(sequence)]
    join = jnp.stack if call.attr("new_axis", 0) else jnp.concatenate
    return join(values, axis=call.required("axis"))


@op("SequenceMap", raw=True)
def sequence_map(call: Call, sequence: Any, *others: Any) -> Any:
    columns = [
        call.evaluator.subgraph(
            call.required("body"),
            [value, *(o[i] if isinstance(o, list) else o for o in others)],
        )
        for i, value in enumerate(_list(sequence))
    ]
    return tuple([row[i] for row in columns] for i in range(call.outputs))


@op("Optional", raw=True)
def optional(call: Call, value: Any = None) -> Any:
    return (value,)


@op("OptionalHasElement", raw=True)
def optional_has_element(call: Call, value: Any = None) -> Any:
    return np.asarray(value is not None)


@op("OptionalGetElement", raw=True)
def optional_get_element(call: Call, value: Any) -> Any:
    if value is None:
        raise UnsupportedError("takes the element of an optional that is absent")
    return (value,)
