"""How often a `stablehlo.while` runs, where that is evident from constants. No execution."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from anychip.ops.view import Block, OpView, Value

_PASS_THROUGH = {"stablehlo.convert", "stablehlo.reshape", "stablehlo.optimization_barrier"}
_SWAPPED = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE", "NE": "NE", "EQ": "EQ"}


def trip_count(loop: OpView, constants: Mapping[Value, np.ndarray]) -> int | None:
    """Trips of a loop over a counter with constant start, step and bound; None for any other loop.

    `constants` are the known values of the block the loop stands in.
    """
    condition, body = loop.regions
    compare = _definition(condition, condition.results[0])
    if compare is None or compare.name != "stablehlo.compare":
        return None
    inside = known(condition, constants)
    for index, argument in enumerate(condition.arguments):  # carried and never changed
        if body.results[index] is body.arguments[index] and loop.operands[index] in constants:
            inside[argument] = constants[loop.operands[index]]
    inside = known(condition, inside)
    direction = compare.attributes["comparison_direction"]
    left, right = (_source(condition, v) for v in compare.operands)
    if right not in inside:
        left, right, direction = right, left, _SWAPPED[direction]
    if right not in inside or left not in condition.arguments:
        return None
    counter = condition.arguments.index(left)
    if loop.operands[counter] not in constants:
        return None
    step = _step(body, counter, constants)
    if step is None:
        return None
    start, bound = (int(x) for x in (constants[loop.operands[counter]], inside[right]))
    return _trips(start, bound, step, direction)


def known(block: Block, outer: Mapping[Value, np.ndarray]) -> dict[Value, np.ndarray]:
    """`outer` and the one-element integer constants this block defines."""
    values = dict(outer)
    for op in block.ops:
        note(op, values)
    return values


def note(op: OpView, values: dict[Value, np.ndarray]) -> None:
    """Add the results of `op` to the known one-element integers, if they are."""
    if op.name == "stablehlo.constant":
        value = op.attributes["value"]
        if value.size == 1 and value.dtype.kind in "iu":
            values[op.results[0]] = value.reshape(())
    elif op.name in _PASS_THROUGH:
        for operand, result in zip(op.operands, op.results, strict=True):
            if operand in values:
                values[result] = values[operand]


def _definition(block: Block, value: Value) -> OpView | None:
    return next((op for op in block.ops if value in op.results), None)


def _source(block: Block, value: Value) -> Value:
    """The value behind converts and reshapes."""
    op = _definition(block, value)
    while op is not None and op.name in _PASS_THROUGH:
        value = op.operands[op.results.index(value)]
        op = _definition(block, value)
    return value


def _step(body: Block, counter: int, constants: Mapping[Value, np.ndarray]) -> int | None:
    op = _definition(body, _source(body, body.results[counter]))
    if op is None or op.name not in ("stablehlo.add", "stablehlo.subtract"):
        return None
    inside = known(body, constants)
    left, right = (_source(body, v) for v in op.operands)
    if op.name == "stablehlo.add" and right is body.arguments[counter]:
        left, right = right, left
    if left is not body.arguments[counter] or right not in inside:
        return None
    return int(inside[right]) * (-1 if op.name == "stablehlo.subtract" else 1)


def _trips(start: int, bound: int, step: int, direction: str) -> int | None:
    """Trips of `for (i = start; i direction bound; i += step)`; None when it would not end."""
    distance = bound - start
    if direction == "NE":
        return distance // step if step and distance % step == 0 and distance * step >= 0 else None
    if direction in ("GT", "GE"):
        distance, step = -distance, -step
    if direction in ("LE", "GE"):
        distance += 1
    if direction == "EQ":
        return 0 if distance else None
    if distance <= 0:
        return 0
    return math.ceil(distance / step) if step > 0 else None
