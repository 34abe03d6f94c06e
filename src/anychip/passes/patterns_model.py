"""What rotary embeddings and products with dequantised weights look like when spelled out.

As patterns.py; these two take values of other types than they give. Spellings seen: transformers,
JAX, ONNX exporters.
"""

from __future__ import annotations

from collections.abc import Sequence

from anychip.ops.view import OpView, Value
from anychip.passes.expression import Expressions, Mismatch
from anychip.passes.patterns import Found, either

_NARROW = ("i8", "f8E4M3FN", "f8E5M2")


def rope(e: Expressions, root: OpView) -> Found:
    """x cos(p f) + (-x₂, x₁) sin(p f), or the two halves of that apart and joined.

    Cosines and sines may be read by others too: queries, keys and all layers share them.
    """
    if len(root.outputs[0].shape) != 4:
        raise Mismatch
    if root.name == "stablehlo.add":
        x, angles = either(e, root, lambda a, b: _turned(e, a, b))
    elif root.name == "stablehlo.concatenate":
        x, angles = _halves(e, root)
    else:
        raise Mismatch
    return (x, *angles), {"interleaved": False}


Angles = tuple[Value, Value]
"""Positions [B or 1, Q] and frequencies [R/2]."""


def _turned(e: Expressions, straight: Value, cross: Value) -> tuple[Value, Angles]:
    """(x, angles) of x cos + (-x₂, x₁) sin."""
    wide = straight.spec.sizes[-1]
    if wide % 2:
        raise Mismatch
    half = wide // 2

    def crossed(turned: Value, sine: Value) -> tuple[Value, Angles]:
        joined = e.op(turned, "concatenate")
        if joined.attributes["dimension"] != 3 or len(joined.operands) != 2:
            raise Mismatch
        second, first = joined.operands
        x = _part(e, first, 0, half)
        if _part(e, e.op(second, "negate").operands[0], half, wide) is not x:
            raise Mismatch
        return x, _wave(e, sine, "sine", joined=True)

    x, angles = either(e, e.op(cross, "multiply"), crossed)

    def kept(source: Value, cosine: Value) -> None:
        if source is not x or _wave(e, cosine, "cosine", joined=True) != angles:
            raise Mismatch

    either(e, e.op(straight, "multiply"), kept)
    return x, angles


def _halves(e: Expressions, root: OpView) -> tuple[Value, Angles]:
    """(x, angles) of a cos - b sin joined with b cos + a sin [and the rest of x]."""
    if root.attributes["dimension"] != 3 or len(root.operands) not in (2, 3):
        raise Mismatch
    top, bottom, *rest = root.operands
    half = top.spec.sizes[-1]
    minuend, subtrahend = e.op(top, "subtract").operands
    a, angles = _waved(e, minuend, "cosine")
    b, again = _waved(e, subtrahend, "sine")
    x = _part(e, a, 0, half)
    if again != angles or _part(e, b, half, 2 * half) is not x:
        raise Mismatch

    def sums(one: Value, other: Value) -> None:
        if _waved(e, one, "cosine") != (b, angles) or _waved(e, other, "sine") != (a, angles):
            raise Mismatch

    either(e, e.op(bottom, "add"), sums)
    width = x.spec.sizes[-1]
    if [_part(e, r, 2 * half, width) for r in rest] != [x] * (width > 2 * half):
        raise Mismatch
    return x, angles


def _waved(e: Expressions, value: Value, kind: str) -> tuple[Value, Angles]:
    def pair(source: Value, wave: Value) -> tuple[Value, Angles]:
        return source, _wave(e, wave, kind, joined=False)

    return either(e, e.op(value, "multiply"), pair)


def _part(e: Expressions, value: Value, start: int, end: int) -> Value:
    """What [start, end) of the last dimension was taken of."""
    made = e.op(value, "slice")
    (x,) = made.operands
    rank = len(x.spec.sizes)
    begins = [*made.attributes["start_indices"]]
    ends, steps = [*made.attributes["limit_indices"]], [*made.attributes["strides"]]
    whole = [0] * (rank - 1), [*x.spec.sizes[:-1]]
    if (begins[:-1], ends[:-1]) != whole or (begins[-1], ends[-1]) != (start, end):
        raise Mismatch
    if any(s != 1 for s in steps):
        raise Mismatch
    return x


def _wave(e: Expressions, value: Value, kind: str, *, joined: bool) -> Angles:
    """The angles of a cosine or sine over batch, positions and width; heads share it.

    `joined`: the frequencies lie twice along the width.
    """
    with e.shared_with_others():
        value, dims = _down(e, value, (0, 2, 3))
        made = e.op(value, kind, "multiply")
        if made.name == "stablehlo.multiply":  # what transformers calls attention_scaling
            number, value = e.split(made)
            if number != 1.0:
                raise Mismatch
            value, dims = _down(e, value, dims)
            made = e.op(value, kind)
        angle, dims = _down(e, made.operands[0], dims)
        if joined:
            twice = e.op(angle, "concatenate")
            if twice.attributes["dimension"] != dims[-1] or len(twice.operands) != 2:
                raise Mismatch
            angle, other = twice.operands
            if angle is not other:
                raise Mismatch
            angle, dims = _down(e, angle, dims)
        return either(e, e.op(angle, "multiply"), lambda p, f: _angles(e, p, f, dims))


def _down(e: Expressions, value: Value, dims: Sequence[int]) -> tuple[Value, Sequence[int]]:
    """(what was spread to lie at `dims`, where they lie in it)."""
    found = e.spread(value, dims)
    rank = len(found.spec.sizes)
    if rank not in (len(dims), len(value.spec.sizes)):
        raise Mismatch
    return found, dims if rank == len(value.spec.sizes) else range(rank)


def _angles(e: Expressions, position: Value, frequency: Value, dims: Sequence[int]) -> Angles:
    found = e.spread(frequency, dims[-1:])
    if len(found.spec.sizes) != 1 or found.spec.sizes[0] != frequency.spec.sizes[-1]:
        raise Mismatch
    at, where = _down(e, position, dims[:-1])
    made = e.peek(at)
    if made is not None and made.name == "stablehlo.convert":
        at, where = _down(e, e.op(at, "convert").operands[0], where)
    if len(at.spec.sizes) != 2 or found.spec.dtype != "f32":
        raise Mismatch
    return at, found


def scaled_matmul(e: Expressions, root: OpView) -> Found:
    """(x · wᵀ) * scale, or x · (w * scale)ᵀ: w[N,K] narrow, a scale for each of its rows."""
    if root.name == "stablehlo.multiply":
        return either(e, root, lambda product, scale: _scaled_after(e, product, scale))
    if root.name != "stablehlo.dot_general":
        raise Mismatch
    x, rows = _product(e, root)
    return either(
        e, e.op(rows, "multiply"), lambda w, s: (_weights(e, x, w, s, 0), {"activation": ""})
    )


def _scaled_after(e: Expressions, product: Value, scale: Value) -> Found:
    x, rows = _product(e, e.op(product, "dot_general"))
    last = len(product.spec.sizes) - 1
    return _weights(e, x, rows, scale, last), {"activation": ""}


def _product(e: Expressions, op: OpView) -> tuple[Value, Value]:
    """(x, what is w[N,K]) of a product over the last dimension of both."""
    x, w = op.operands
    dims = op.attributes["dot_dimension_numbers"]
    if tuple(dims.lhs_batch) or len(w.spec.sizes) != 2:
        raise Mismatch
    if tuple(dims.lhs_contract) != (len(x.spec.sizes) - 1,):
        raise Mismatch
    if tuple(dims.rhs_contract) == (0,):
        turned = e.op(w, "transpose")
        if [*turned.attributes["permutation"]] != [1, 0]:
            raise Mismatch
        (w,) = turned.operands
    return x, w


def _weights(
    e: Expressions, x: Value, rows: Value, scale: Value, along: int
) -> tuple[Value, Value, Value]:
    made = e.op(rows, "convert", "subtract")
    if made.name == "stablehlo.subtract":  # a zero point of 0
        rows, zero = made.operands
        if e.number(zero) != 0.0:
            raise Mismatch
        made = e.op(rows, "convert")
    (w,) = made.operands
    found = e.spread(scale, [along])
    if w.spec.dtype not in _NARROW or x.spec.dtype != "f32" or found.spec.dtype != "f32":
        raise Mismatch
    if found.spec.sizes != w.spec.sizes[:1]:
        raise Mismatch
    return x, w, found
