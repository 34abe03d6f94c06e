"""What softmax, norms, activations and attention look like when spelled out.

A pattern is called with the block's expressions and the op that would be its last; it returns what
the composite takes and its attributes, or raises Mismatch. Spellings seen: JAX, Flax, ONNX
exporters, TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from anychip.ops.composite import attributes_of
from anychip.ops.view import OpView, Value
from anychip.passes.expression import Expressions, Mismatch

Found = tuple[tuple[Value, ...], Mapping[str, Any]]
Pattern = Callable[[Expressions, OpView], Found]


def softmax(e: Expressions, root: OpView) -> Found:
    """exp(x - max x) / sum of it."""
    if root.name != "stablehlo.divide":
        raise Mismatch
    top, under = root.operands
    summed, axis = e.kept(under, "add", 0.0)
    if not e.same(top, summed):
        raise Mismatch
    (shifted,) = e.op(top, "exponential").operands
    e.op(summed, "exponential")
    x, most = e.op(shifted, "subtract").operands
    others = [d for d in range(len(x.spec.shape)) if d != axis]
    peak = e.spread(most, others)
    made = e.peek(peak)
    if made is not None and made.name == "stablehlo.maximum":  # JAX: never below -inf
        least, peak = e.split(e.op(peak, "maximum"))
        if least != -math.inf:
            raise Mismatch
        if len(peak.spec.shape) == len(x.spec.shape):
            peak = e.spread(peak, others)
    source, along = e.reduced(peak, "maximum", -math.inf)
    if source is not x or along != axis:
        raise Mismatch
    return (x,), {"axis": axis}


def _mean(e: Expressions, value: Value) -> tuple[Value, int]:
    """(x, dimension) of a mean along one dimension that was spread along it again.

    The division may come before or after the spreading.
    """
    rank = len(value.spec.shape)
    for dim in range(rank):
        others = [d for d in range(rank) if d != dim]
        try:
            with e.attempt():
                return _row_mean(e, e.spread(value, others), dim), dim
        except Mismatch:
            continue
    raise Mismatch


def _row_mean(e: Expressions, value: Value, dim: int) -> Value:
    """x of sum(x) / n, where the result lacks `dim` or has it as 1."""
    made = e.op(value, "divide", "multiply")
    number, total = e.split(made)
    if made.name == "stablehlo.divide" and total is not made.operands[0]:
        raise Mismatch
    made_total = e.peek(total)
    if made_total is not None and made_total.name != "stablehlo.reduce":
        others = [d for d in range(len(total.spec.shape)) if d != dim]
        total = e.spread(total, others)
    x, along = e.reduced(total, "add", 0.0)
    size = x.spec.shape[along]
    count = number if made.name == "stablehlo.divide" else 1 / number if number else 0.0
    if along != dim or size is None or abs(count - size) > 1e-5 * size:
        raise Mismatch
    return x


def _square(e: Expressions, value: Value) -> Value:
    made = e.op(value, "multiply", "power", "square")
    if made.name == "chlo.square":
        return made.operands[0]
    if made.name == "stablehlo.power":
        if e.number(made.operands[1]) != 2.0:
            raise Mismatch
        return made.operands[0]
    a, b = made.operands
    if not e.same(a, b):
        raise Mismatch
    return a


def _over_root(e: Expressions, root: OpView) -> tuple[Value, Value, float]:
    """(y, x, eps) of y / sqrt(mean(x²) + eps) along the last dimension."""
    if root.name == "stablehlo.divide":
        y, under = root.operands
        kinds = ("sqrt",)
    elif root.name == "stablehlo.multiply":
        return either(e, root, lambda y, under: _normed(e, y, under, ("rsqrt", "divide")))
    else:
        raise Mismatch
    return _normed(e, y, under, kinds)


def either(e: Expressions, op: OpView, match: Callable[[Value, Value], Any]) -> Any:
    """What `match` finds in the two operands, in whichever order."""
    a, b = op.operands
    try:
        with e.attempt():
            return match(a, b)
    except Mismatch:
        return match(b, a)


def _normed(
    e: Expressions, y: Value, under: Value, kinds: tuple[str, ...]
) -> tuple[Value, Value, float]:
    rank = len(under.spec.shape)
    inner = _through(e, under, rank)
    made = e.op(inner, *kinds)
    if made.name == "stablehlo.divide":
        if e.number(made.operands[0]) != 1.0:
            raise Mismatch
        made = e.op(made.operands[1], "sqrt")
    eps, variance = e.split(e.op(made.operands[0], "add"))
    if len(variance.spec.shape) == rank and variance.spec.shape[-1] != 1:
        raise Mismatch
    squared = _row_mean(e, _through_ones(e, variance), rank - 1)
    if eps <= 0 or eps > 0.1:
        raise Mismatch
    return y, _square(e, squared), eps


def _through(e: Expressions, value: Value, rank: int) -> Value:
    """What was spread along the last dimension."""
    return e.spread(value, range(rank - 1))


def _through_ones(e: Expressions, value: Value) -> Value:
    """The mean itself, before its lost dimension came back as 1."""
    made = e.peek(value)
    while made is not None and made.name in ("stablehlo.broadcast_in_dim", "stablehlo.reshape"):
        if made.operands[0].spec.size != value.spec.size:
            raise Mismatch
        value = e.op(value, "broadcast_in_dim", "reshape").operands[0]
        made = e.peek(value)
    return value


def _last(e: Expressions, value: Value) -> Value:
    """A vector of the last dimension that was spread over the others."""
    rank = len(value.spec.shape)
    made = e.spread(value, [rank - 1])
    if made.spec.shape != value.spec.shape[-1:]:
        raise Mismatch
    return made


def layer_norm(e: Expressions, root: OpView) -> Found:
    """((x - mean) / sqrt(variance + eps)) [* scale [+ bias]]."""
    for vectors in (2, 1, 0):
        try:
            with e.attempt():
                return _layer_norm(e, root, vectors)
        except Mismatch:
            continue
    raise Mismatch


def _layer_norm(e: Expressions, root: OpView, vectors: int) -> Found:
    given, op = list[Value](), root
    for kind in ("add", "multiply")[2 - vectors :]:
        if op.name != f"stablehlo.{kind}":
            raise Mismatch
        inner, vector = _vector(e, op)
        given.insert(0, vector)
        op = e.op(inner, "multiply", "divide")
    centred, x, eps = _over_root(e, op)
    if not e.same(centred, x):
        raise Mismatch
    source, mean = e.op(centred, "subtract").operands
    of, dim = _mean(e, mean)
    if of is not source or dim != len(source.spec.shape) - 1:
        raise Mismatch
    return (source, *given), {"eps": eps}


def _vector(e: Expressions, op: OpView) -> tuple[Value, Value]:
    """(the rest, the vector) of a sum or product with a vector of the last dimension."""
    return either(e, op, lambda rest, vector: (rest, _last(e, vector)))


def rms_norm(e: Expressions, root: OpView) -> Found:
    """x / sqrt(mean(x²) + eps) [* scale]."""
    try:
        with e.attempt():
            inner, scale = _vector(e, root) if root.name == "stablehlo.multiply" else _fail()
            y, x, eps = _over_root(e, e.op(inner, "multiply", "divide"))
            if y is not x:
                raise Mismatch
            return (x, scale), {"eps": eps, "offset": 0.0}
    except Mismatch:
        y, x, eps = _over_root(e, root)
        if y is not x:
            raise
        return (x,), {"eps": eps, "offset": 0.0}


def _fail() -> Any:
    raise Mismatch


def _factors(e: Expressions, root: OpView) -> tuple[float, list[Value]]:
    """A product as (its numbers multiplied, its other factors); divisions by numbers count."""
    number, values, waiting = 1.0, list[Value](), [root]
    while waiting:
        op = waiting.pop()
        for at, value in enumerate(op.operands):
            try:
                with e.attempt():
                    found = e.number(value)
                    number = number / found if at and op.name.endswith("divide") else number * found
                    continue
            except (Mismatch, ZeroDivisionError):
                if at and op.name.endswith("divide"):
                    raise Mismatch from None
            made = e.peek(value)
            is_scaled = made is not None and made.name == "stablehlo.multiply"
            if is_scaled or (made is not None and _by_number(e, made)):
                assert made is not None
                e.inside.add(e.makers[value])
                waiting.append(made)
            else:
                values.append(value)
    return number, values


def _by_number(e: Expressions, op: OpView) -> bool:
    if op.name != "stablehlo.divide":
        return False
    before = set(e.inside)
    try:
        e.number(op.operands[1])
    except Mismatch:
        return False
    finally:
        e.inside = before
    return True


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-4 * abs(b)


def gelu(e: Expressions, root: OpView) -> Found:
    """x/2 (1 + erf(x/√2)), x/2 erfc(-x/√2), x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    if root.name not in ("stablehlo.multiply", "stablehlo.divide"):
        raise Mismatch
    number, values = _factors(e, root)
    if len(values) != 2 or not _near(number, 0.5):
        raise Mismatch
    return _either_value(values, lambda x, gate: _gelu_gate(e, x, gate))


def _either_value(values: list[Value], match: Callable[[Value, Value], Found]) -> Found:
    try:
        return match(values[0], values[1])
    except Mismatch:
        return match(values[1], values[0])


def _gelu_gate(e: Expressions, x: Value, gate: Value) -> Found:
    with e.attempt():
        made = e.op(gate, "add", "erfc")
        if made.name == "chlo.erfc":
            number = _scaled(e, made.operands[0], x)
            if not _near(number, -math.sqrt(0.5)):
                raise Mismatch
            return (x,), {"approximate": False}
        one, curve = e.split(made)
        if one != 1.0:
            raise Mismatch
        inner = e.op(curve, "erf", "tanh")
        if inner.name == "chlo.erf":
            if not _near(_scaled(e, inner.operands[0], x), math.sqrt(0.5)):
                raise Mismatch
            return (x,), {"approximate": False}
        scale, values = _factors(e, e.op(inner.operands[0], "multiply"))
        if len(values) != 1 or not _near(scale, math.sqrt(2 / math.pi)):
            raise Mismatch
        a, b = e.op(values[0], "add").operands
        cube = b if a is x else a if b is x else _fail()
        factor, cubed = _factors(e, e.op(cube, "multiply"))
        if not _near(factor, 0.044715):
            raise Mismatch
        if len(cubed) == 1:
            base, power = e.op(cubed[0], "power").operands
            cubed = [base] * 3 if e.number(power) == 3.0 else []
        if len(cubed) != 3 or any(v is not x for v in cubed):
            raise Mismatch
        return (x,), {"approximate": True}


def _scaled(e: Expressions, value: Value, x: Value) -> float:
    """c of value = c x."""
    sign = 1.0
    made = e.peek(value)
    if made is not None and made.name == "stablehlo.negate":
        sign, value = -1.0, e.op(value, "negate").operands[0]
    number, values = _factors(e, e.op(value, "multiply", "divide"))
    if len(values) == 1 and values[0] is not x:
        (values[0],) = e.op(values[0], "negate").operands
        sign = -sign
    if len(values) != 1 or values[0] is not x:
        raise Mismatch
    return sign * number


def silu(e: Expressions, root: OpView) -> Found:
    """x sigmoid(x), x / (1 + exp(-x))."""
    if root.name == "stablehlo.divide":
        x, under = root.operands
        _one_plus_exp(e, under, x)
        return (x,), {}
    if root.name != "stablehlo.multiply":
        raise Mismatch

    def gated(x: Value, gate: Value) -> Found:
        made = e.op(gate, "logistic", "divide")
        if made.name == "stablehlo.logistic":
            if made.operands[0] is not x:
                raise Mismatch
        else:
            if e.number(made.operands[0]) != 1.0:
                raise Mismatch
            _one_plus_exp(e, made.operands[1], x)
        return (x,), {}

    return either(e, root, gated)


def _one_plus_exp(e: Expressions, value: Value, x: Value) -> None:
    one, grown = e.split(e.op(value, "add"))
    (turned,) = e.op(grown, "exponential").operands
    if one != 1.0 or e.op(turned, "negate").operands[0] is not x:
        raise Mismatch


def attention(e: Expressions, root: OpView) -> Found:
    """softmax(q kᵀ scale [+ mask]) v, heads second, with softmax already a composite."""
    if root.name != "stablehlo.dot_general" or len(root.inputs[0].shape) != 4:
        raise Mismatch
    weights, v = root.operands
    _dims(root, (3,), (2,))
    made = e.op(weights, "composite")
    if made.attributes["name"] != "anychip.softmax" or attributes_of(made)["axis"] not in (-1, 3):
        raise Mismatch
    (logits,) = made.operands
    masks: list[Value] = []
    op = e.op(logits, "add", "dot_general", "multiply", "divide")
    if op.name == "stablehlo.add":
        logits, mask = _masked(e, op)
        masks.append(mask)
        op = e.op(logits, "dot_general", "multiply", "divide")
    scale = 1.0
    if op.name != "stablehlo.dot_general":
        scale, values = _factors(e, op)
        if len(values) != 1:
            raise Mismatch
        op = e.op(values[0], "dot_general")
    q, k = op.operands
    if tuple(op.attributes["dot_dimension_numbers"].rhs_contract) == (2,):
        _dims(op, (3,), (2,))
        turned = e.op(k, "transpose")
        if list(turned.attributes["permutation"]) != [0, 1, 3, 2]:
            raise Mismatch
        (k,) = turned.operands
    else:
        _dims(op, (3,), (3,))
    for side in (q, k):
        factor, source = _prescaled(e, side)
        scale *= factor
        q, k = (source, k) if side is q else (q, source)
    return (q, k, v, *masks), {"scale": scale, "causal": False, "window": 0, "softcap": 0.0}


def _prescaled(e: Expressions, value: Value) -> tuple[float, Value]:
    made = e.peek(value)
    if made is None or made.name not in ("stablehlo.multiply", "stablehlo.divide"):
        return 1.0, value
    try:
        with e.attempt():
            number, other = e.split(e.op(value, "multiply", "divide"))
    except Mismatch:
        return 1.0, value
    if made.name == "stablehlo.divide":
        if other is not made.operands[0] or not number:
            raise Mismatch
        number = 1 / number
    return number, other


def _masked(e: Expressions, op: OpView) -> tuple[Value, Value]:
    """(the logits, the mask before it was spread) of logits + mask."""

    def pair(logits: Value, mask: Value) -> tuple[Value, Value]:
        e.op(logits, "dot_general", "multiply", "divide")
        spread = e.peek(mask)
        if spread is not None and spread.name == "stablehlo.broadcast_in_dim":
            if list(spread.attributes["broadcast_dimensions"]) == [0, 1, 2, 3]:
                (mask,) = e.op(mask, "broadcast_in_dim").operands
        return logits, mask

    return either(e, op, pair)


def _dims(op: OpView, lhs: tuple[int, ...], rhs: tuple[int, ...]) -> None:
    dims = op.attributes["dot_dimension_numbers"]
    batch = (tuple(dims.lhs_batch), tuple(dims.rhs_batch))
    if batch != ((0, 1), (0, 1)):
        raise Mismatch
    if (tuple(dims.lhs_contract), tuple(dims.rhs_contract)) != (lhs, rhs):
        raise Mismatch
