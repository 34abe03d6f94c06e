"""Complex numbers, which ONNX has not: inside a program each is a pair of real tensors.

What is written: making and taking apart, sums, products, absolute values, moves, and Fourier
transforms by ONNX's DFT. Arguments and results of a program are never pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anychip.compilers.onnx_export.graph import Graph, Tensor
from anychip.core import UnsupportedError, dtype
from anychip.ops.view import OpView

_PARTS = {"complex<f32>": "f32", "complex<f64>": "f64"}
_MOVES = frozenset(
    f"stablehlo.{name}"
    for name in (
        "broadcast_in_dim",
        "concatenate",
        "pad",
        "reshape",
        "reverse",
        "slice",
        "transpose",
    )
)
"""Their own rules do for each part what they do for a whole."""


@dataclass(frozen=True)
class Pair(Tensor):
    """`name` is the real part."""

    imaginary: str = ""


def is_complex(op: OpView) -> bool:
    return any(dtype(s.dtype).kind == "complex" for s in (*op.inputs, *op.outputs))


def write(g: Graph, op: OpView, tensors: list[Tensor], rule: Callable[..., Any] | None) -> Tensor:
    """The result of an op on complex numbers; UnsupportedError where it is not written."""
    if op.name in _MOVES and rule is not None:
        parts = [[_part(t, side) for t in tensors] for side in (0, 1)]
        real, imaginary = (_whole(g, op, rule(g, op, *one)) for one in parts)
        return _pair(op, real, imaginary)
    made = WRITTEN.get(op.name)
    if made is None:
        raise UnsupportedError(
            "ONNX has no complex numbers, and this is not written for pairs of reals"
        )
    return made(g, op, *tensors)


def _whole(g: Graph, op: OpView, made: Any) -> str:
    one = made[0] if isinstance(made, list | tuple) else made
    if isinstance(one, str):
        return one
    return g.whole(replace(one, dtype=_PARTS[op.outputs[0].dtype]))


def _part(t: Tensor, side: int) -> Tensor:
    if not isinstance(t, Pair):
        raise UnsupportedError("it reads complex numbers that are not written for ONNX")
    name = t.imaginary if side else t.name
    return Tensor(name, t.shape, t.shape, _PARTS[t.dtype])


def _pair(op: OpView, real: str, imaginary: str) -> Pair:
    out = op.outputs[0]
    return Pair(real, out.shape, out.shape, out.dtype, imaginary=imaginary)


def _sides(t: Tensor) -> tuple[str, str]:
    return _part(t, 0).name, _part(t, 1).name


def _complex(g: Graph, op: OpView, real: Tensor, imaginary: Tensor) -> Tensor:
    return _pair(op, g.whole(real), g.whole(imaginary))


def _constant(g: Graph, op: OpView) -> Tensor:
    value: Any = np.asarray(op.attributes["value"])
    return _pair(op, *(g.constant(np.ascontiguousarray(p)) for p in (value.real, value.imag)))


def _conjugate(g: Graph, op: OpView, t: Tensor) -> Tensor:
    real, imaginary = _sides(t)
    return _pair(op, real, g.node("Neg", [imaginary]))


def _taken(side: int) -> Callable[..., Tensor]:
    def take(g: Graph, op: OpView, t: Tensor) -> Tensor:
        return _part(t, side)

    return take


def _convert(g: Graph, op: OpView, t: Tensor) -> Tensor:
    element = _PARTS.get(op.outputs[0].dtype)
    if element is None:
        raise UnsupportedError("a complex number has no one real value; take its real part")
    if isinstance(t, Pair):
        return _pair(op, *(g.cast(name, element) for name in _sides(t)))
    real = g.cast(g.whole(t), element)
    return _pair(op, real, g.node("Mul", [real, _zero(g, element)]))


def _by_parts(kind: str) -> Callable[..., Tensor]:
    def make(g: Graph, op: OpView, *tensors: Tensor) -> Tensor:
        sides = zip(*map(_sides, tensors), strict=True)
        return _pair(op, *(g.node(kind, list(names)) for names in sides))

    return make


def _multiply(g: Graph, op: OpView, lhs: Tensor, rhs: Tensor) -> Tensor:
    (a, b), (c, d) = _sides(lhs), _sides(rhs)

    def product(x: str, y: str) -> str:
        return g.node("Mul", [x, y])

    real = g.node("Sub", [product(a, c), product(b, d)])
    return _pair(op, real, g.node("Add", [product(a, d), product(b, c)]))


def _abs(g: Graph, op: OpView, t: Tensor) -> Tensor:
    """By the larger part, so that no square overflows."""
    a, b = (g.node("Abs", [name]) for name in _sides(t))
    large, small = g.node("Max", [a, b]), g.node("Min", [a, b])
    element = op.outputs[0].dtype
    is_zero = g.node("Equal", [large, _zero(g, element)])
    one = g.constant(np.ones((), dtype(element).numpy))
    ratio = g.node("Div", [small, g.node("Where", [is_zero, one, large])])
    root = g.node("Sqrt", [g.node("Add", [one, g.node("Mul", [ratio, ratio])])])
    out = op.outputs[0]
    return Tensor(g.node("Mul", [large, root]), out.shape, out.shape, out.dtype)


def _fft(g: Graph, op: OpView, t: Tensor) -> Tensor:
    kind, lengths = op.attributes["fft_type"], [int(n) for n in op.attributes["fft_length"]]
    if None in t.shape:
        raise UnsupportedError("a Fourier transform of a size known only when running")
    sizes = [int(d or 0) for d in t.shape]
    axes = list(range(len(sizes) - len(lengths), len(sizes)))
    if kind == "RFFT":
        held = _dft(g, _lifted(g, g.whole(t)), sizes, axes.pop(), onesided=1)
    else:
        held = g.node("Concat", [_lifted(g, n) for n in _sides(t)], axis=-1)
    if kind == "IRFFT":
        last = axes.pop()
        for axis in axes:
            held = _dft(g, held, sizes, axis, inverse=1)
        held = _mirrored(g, held, last, lengths[-1], op.outputs[0].dtype)
        sizes[last] = lengths[-1]
        out = op.outputs[0]
        real = _lower(g, _dft(g, held, sizes, last, inverse=1), 0)
        return Tensor(real, out.shape, out.shape, out.dtype)
    for axis in reversed(axes):
        held = _dft(g, held, sizes, axis, inverse=int(kind == "IFFT"))
    return _pair(op, *(_lower(g, held, side) for side in (0, 1)))


def _dft(g: Graph, held: str, sizes: list[int], axis: int, **attributes: Any) -> str:
    """Along one axis, of three dimensions: OpenVINO 2026.4 transforms the second, whatever it is
    told. `sizes`, without the one of the parts, become those of the result."""
    order = [*(d for d in range(len(sizes)) if d != axis), axis, len(sizes)]
    is_real = bool(attributes.get("onesided"))
    turned = g.transpose(held, order)
    flat = g.node("Reshape", [turned, g.ints(-1, sizes[axis], 1 if is_real else 2)])
    made = g.node("DFT", [flat, "", g.constant(np.array(1, np.int64))], **attributes)
    if is_real:
        sizes[axis] = sizes[axis] // 2 + 1
    back = g.node("Reshape", [made, g.ints(*(sizes[d] for d in order[:-1]), 2)])
    return g.transpose(back, [order.index(d) for d in range(len(order))])


def _mirrored(g: Graph, held: str, axis: int, length: int, element: str) -> str:
    """The whole spectrum of a real signal: its other half is conjugate, in reverse."""
    rest = np.arange((length - 1) // 2, 0, -1, dtype=np.int64)
    if not rest.size:
        return held
    turned = g.node("Gather", [held, g.constant(rest)], axis=axis)
    signs = g.constant(np.array([1, -1], dtype(element).numpy))
    return g.node("Concat", [held, g.node("Mul", [turned, signs])], axis=axis)


def _lifted(g: Graph, name: str) -> str:
    return g.node("Unsqueeze", [name, g.ints(-1)])


def _lower(g: Graph, held: str, side: int) -> str:
    return g.node("Gather", [held, g.constant(np.array(side, np.int64))], axis=-1)


def _zero(g: Graph, element: str) -> str:
    return g.constant(np.zeros((), dtype(element).numpy))


WRITTEN: dict[str, Callable[..., Tensor]] = {
    "chlo.conj": _conjugate,
    "stablehlo.abs": _abs,
    "stablehlo.add": _by_parts("Add"),
    "stablehlo.complex": _complex,
    "stablehlo.constant": _constant,
    "stablehlo.convert": _convert,
    "stablehlo.fft": _fft,
    "stablehlo.imag": _taken(1),
    "stablehlo.multiply": _multiply,
    "stablehlo.negate": _by_parts("Neg"),
    "stablehlo.real": _taken(0),
    "stablehlo.subtract": _by_parts("Sub"),
}
