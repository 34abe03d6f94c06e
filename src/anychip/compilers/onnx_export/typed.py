"""What elementwise rules share: the type computed in, pending broadcasts, formulas in one type."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anychip.compilers.onnx_export.graph import Graph, Shape, Tensor
from anychip.core import UnsupportedError, dtype
from anychip.ops.view import OpView

Make = Callable[[Graph, list[str], str], str]
"""`make(graph, inputs, element type)` → result, all of one computing type."""


def computing_type(element: str) -> str:
    """The type to compute in: f32 for narrow floats, i32 or i64 for integers."""
    kind, bits = dtype(element).kind, dtype(element).bits
    if kind == "complex":
        raise UnsupportedError("ONNX has no arithmetic on complex numbers")
    if kind == "float":
        return element if element in ("f32", "f64") else "f32"
    if kind == "bool":
        return element
    if element == "ui64":
        return "ui64"
    return "i64" if bits == 64 or element == "ui32" else "i32"


def broadcast(tensors: Sequence[Tensor]) -> tuple[Shape, Shape, str]:
    """(held shape, full shape, shape tensor) of an elementwise result."""
    rank = max(len(t.shape) for t in tensors)
    helds = [(1,) * (rank - len(t.held)) + t.held for t in tensors]
    shapes = [(1,) * (rank - len(t.shape)) + t.shape for t in tensors]

    def most(sizes: tuple[int | None, ...]) -> int | None:
        return next((d for d in sizes if d != 1), 1)

    held = tuple(map(most, zip(*helds, strict=True)))
    shape = tuple(map(most, zip(*shapes, strict=True)))
    target = next((t.target for t in tensors if t.target and t.shape == shape), "")
    return held, shape, target


def apply(g: Graph, op: OpView, tensors: Sequence[Tensor], make: Make, wide: str = "") -> Tensor:
    """One elementwise op on tensors of one type, in `wide` or its computing type."""
    element = tensors[-1].dtype
    wide = wide or computing_type(element)
    names = [t.name if t.dtype == wide else g.cast(t.name, wide) for t in tensors]
    out = op.outputs[0].dtype
    result = make(g, names, wide)
    if wide != out:
        result = g.cast(result, out)
    held, shape, target = broadcast(tensors)
    return Tensor(result, held, shape, out, target)


class Arithmetic:
    """Formulas in one type: constants by value, ops by name."""

    def __init__(self, graph: Graph, element: str):
        self._graph, self._element = graph, element

    def __getattr__(self, kind: str) -> Callable[..., str]:
        return lambda *xs: self._graph.node(kind, [self._name(x) for x in xs])

    def _name(self, x: str | float) -> str:
        return x if isinstance(x, str) else self._graph.constant(x, self._element)


def plain(kind: str, g: Graph, op: OpView, *tensors: Tensor) -> Tensor:
    return apply(g, op, tensors, lambda g, names, _: g.node(kind, names))
