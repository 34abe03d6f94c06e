"""Ops that combine many elements into one: reductions, windows, and windows run backwards."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.ops.case import case
from anychip.ops.count import moved, region
from anychip.ops.elementwise import add, maximum, minimum, multiply
from anychip.ops.reducer import monoid
from anychip.ops.table import op
from anychip.ops.view import OpView
from anychip.ops.work import Work


def combine(element: str, name: str) -> str:
    """A region that applies one binary op."""
    kind = f"tensor<{element}>"
    return (
        f"^bb0(%x: {kind}, %y: {kind}):\n%0 = stablehlo.{name} %x, %y : {kind}\n"
        f"stablehlo.return %0 : {kind}"
    )


_ARGMAX = """^bb0(%x: tensor<f32>, %i: tensor<i32>, %y: tensor<f32>, %j: tensor<i32>):
  %0 = stablehlo.compare GE, %x, %y : (tensor<f32>, tensor<f32>) -> tensor<i1>
  %1 = stablehlo.select %0, %x, %y : tensor<i1>, tensor<f32>
  %2 = stablehlo.select %0, %i, %j : tensor<i1>, tensor<i32>
  stablehlo.return %1, %2 : tensor<f32>, tensor<i32>"""

_LOG_ADD = """^bb0(%x: tensor<f32>, %y: tensor<f32>):
  %0 = stablehlo.exponential %x : tensor<f32>
  %1 = stablehlo.exponential %y : tensor<f32>
  %2 = stablehlo.add %0, %1 : tensor<f32>
  %3 = stablehlo.log %2 : tensor<f32>
  stablehlo.return %3 : tensor<f32>"""

# What XLA reduces by itself, without a scalar program: (over axes, with the initial value).
_REDUCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "stablehlo.add": (lax.reduce_sum, add),
    "stablehlo.multiply": (lax.reduce_prod, multiply),
    "stablehlo.maximum": (lax.reduce_max, maximum),
    "stablehlo.minimum": (lax.reduce_min, minimum),
    "stablehlo.and": (lax.reduce_and, lax.bitwise_and),
    "stablehlo.or": (lax.reduce_or, lax.bitwise_or),
    "stablehlo.xor": (lax.reduce_xor, lax.bitwise_xor),
}
_BOOLEAN = {"stablehlo.add": "stablehlo.or", "stablehlo.multiply": "stablehlo.and"}


def _reduce_work(op: OpView) -> Work:
    """The body once per input element (the initial value is combined once more, not counted)."""
    return moved(op) + region(op.regions[0]) * op.inputs[0].size


def _dims(dims: str) -> str:
    return f"dimensions = array<i64: {dims}>" if dims else "dimensions = array<i64>"


@op(
    "stablehlo.reduce",
    unit="vector",
    work=_reduce_work,
    cases=[
        case(
            "f32[4,5]",
            "f32[]",
            out="f32[4]",
            attributes=_dims("1"),
            region=combine("f32", "add"),
            expect=lambda x, start: x.sum(1) + start,
            reduced=5,
        ),
        *(
            case(
                f"{element}[3,4]",
                f"{element}[]",
                out=f"{element}[4]",
                attributes=_dims("0"),
                region=combine(element, name),
                reduced=3,
            )
            for element, name in (
                ("f32", "multiply"),
                ("f32", "maximum"),
                ("bf16", "add"),
                ("f64", "minimum"),
                ("i32", "add"),
                ("ui8", "maximum"),
                ("i32", "xor"),
                ("i1", "and"),
                ("i1", "or"),
                ("i1", "add"),
                ("complex<f32>", "add"),
                ("complex<f32>", "maximum"),
            )
        ),
        case("f32[2,3]", "f32[]", attributes=_dims(""), region=combine("f32", "add")),
        case(
            "f32[2,3]",
            "f32[]",
            out="f32[]",
            attributes=_dims("0, 1"),
            region=_LOG_ADD,
            reduced=6,
        ),
        case(
            "f32[3,4]",
            "i32[3,4]",
            "f32[]",
            "i32[]",
            out=("f32[3]", "i32[3]"),
            attributes=_dims("1"),
            region=_ARGMAX,
            given={1: [list(range(4))] * 3, 2: -np.inf, 3: 0},
            expect=lambda x, i, a, b: (x.max(1), x.argmax(1)),
        ),
        case(
            "f32[0,3]",
            "f32[]",
            out="f32[3]",
            attributes=_dims("0"),
            region=combine("f32", "add"),
            expect=lambda x, start: np.full(3, start),
        ),
    ],
)
def reduce(op: OpView, *operands: Any, bodies: tuple[Any, ...]) -> Any:
    """The region folded over these dimensions, starting at the initial values; any order."""
    count = len(op.results)
    arrays, starts = operands[:count], operands[count:]
    dimensions = op.attributes["dimensions"]
    name = monoid(op.regions[0])
    if name in _BOOLEAN and arrays[0].dtype == np.bool_:
        name = _BOOLEAN[name]
    is_plain = name in _REDUCTIONS and not jnp.iscomplexobj(arrays[0])
    if is_plain or (name == "stablehlo.add"):
        over, with_start = _REDUCTIONS[name or ""]
        reduced = over(arrays[0], dimensions)
        return with_start(reduced, jnp.broadcast_to(starts[0], reduced.shape))
    return tuple(lax.reduce(arrays, starts, lambda x, y: bodies[0](*x, *y), dimensions))


def _window(
    dimensions: str,
    *,
    strides: str = "",
    base: str = "",
    window: str = "",
    padding: str = "",
) -> str:
    rank = len(dimensions.split(","))
    parts = [f"window_dimensions = array<i64: {dimensions}>"]
    for name, value in (
        ("window_strides", strides),
        ("base_dilations", base),
        ("window_dilations", window),
    ):
        if value:
            parts.append(f"{name} = array<i64: {value}>")
    if padding:
        parts.append(f"padding = dense<{padding}> : tensor<{rank}x2xi64>")
    return ", ".join(parts)


def _window_work(op: OpView) -> Work:
    """The body once per element of each window, padding included."""
    points = op.outputs[0].size * math.prod(op.attributes["window_dimensions"])
    return moved(op) + region(op.regions[0]) * points


@op(
    "stablehlo.reduce_window",
    unit="vector",
    work=_window_work,
    cases=[
        case(
            "f32[4,4]",
            "f32[]",
            out="f32[2,2]",
            attributes=_window("2, 2", strides="2, 2"),
            region=combine("f32", "maximum"),
            given={1: -np.inf},
            expect=lambda x, start: x.reshape(2, 2, 2, 2).max((1, 3)),
        ),
        case(
            "f32[6]",
            "f32[]",
            out="f32[6]",
            attributes=_window("6", padding="[[5, 0]]"),
            region=combine("f32", "add"),
            given={1: 0},
            expect=lambda x, start: np.cumsum(x),
            reduced=6,
        ),
        case(
            "i32[3,5]",
            "i32[]",
            out="i32[3,4]",
            attributes=_window(
                "2, 3", strides="2, 1", base="2, 1", window="1, 2", padding="[[1, 1], [2, 1]]"
            ),
            region=combine("i32", "add"),
            given={1: 0},
        ),
        case(
            "f32[5]",
            "f32[]",
            out="f32[3]",
            attributes=_window("3"),
            region=_LOG_ADD,
            given={1: -np.inf},
            reduced=3,
        ),
        case(
            "f32[4]",
            "i32[4]",
            "f32[]",
            "i32[]",
            out=("f32[3]", "i32[3]"),
            attributes=_window("2"),
            region=_ARGMAX,
            given={1: [0, 1, 2, 3], 2: -np.inf, 3: 0},
        ),
        case(
            "bf16[0,2]",
            "bf16[]",
            out="bf16[0,1]",
            attributes=_window("1, 2"),
            region=combine("bf16", "add"),
        ),
    ],
)
def reduce_window(op: OpView, *operands: Any, bodies: tuple[Any, ...]) -> Any:
    """The region folded over each window, starting at the initial values, which also pad."""
    count = len(op.results)
    arrays, starts = operands[:count], operands[count:]
    a = op.attributes
    ones = (1,) * arrays[0].ndim
    padding = a.get("padding")
    geometry = (
        a["window_dimensions"],
        a.get("window_strides") or ones,
        [(0, 0)] * arrays[0].ndim
        if padding is None
        else [(int(low), int(high)) for low, high in padding],
        a.get("base_dilations") or ones,
        a.get("window_dilations") or ones,
    )
    if count == 1:
        combine_one = lambda x, y: bodies[0](x, y)[0]  # noqa: E731
        return lax.reduce_window(arrays[0], starts[0], combine_one, *geometry)
    return tuple(lax.reduce_window(arrays, starts, lambda x, y: bodies[0](*x, *y), *geometry))


_GREATER_OR_EQUAL = """^bb0(%x: tensor<f32>, %y: tensor<f32>):
  %0 = stablehlo.compare GE, %x, %y : (tensor<f32>, tensor<f32>) -> tensor<i1>
  stablehlo.return %0 : tensor<i1>"""


def _select_work(op: OpView) -> Work:
    """`select` for each element of each window, `scatter` for each source element."""
    windows = op.inputs[1].size
    points = windows * math.prod(op.attributes["window_dimensions"])
    return moved(op) + region(op.regions[0]) * points + region(op.regions[1]) * windows


def _select_case(
    operand: str, source: str, geometry: str, scatter: str = "add"
) -> Callable[[str], Any]:
    """`case` has room for one region; this op has two."""
    element = operand[: operand.index("[")]
    scalar = f"{element}[]"
    body_of = combine(element, scatter)
    from anychip.ops.case import mlir_type

    types = ", ".join(map(mlir_type, (operand, source, scalar)))
    return case(
        operand,
        source,
        scalar,
        body=f"""  %r = "stablehlo.select_and_scatter"(%a0, %a1, %a2) <{{{geometry}}}> ({{
{_GREATER_OR_EQUAL.replace("f32", element)}
  }}, {{
{body_of}
  }}) : ({types}) -> {mlir_type(operand)}
  return %r : {mlir_type(operand)}""",
        given={2: 0},
        reduced=4,
    )


@op(
    "stablehlo.select_and_scatter",
    unit="vector",
    work=_select_work,
    cases=[
        _select_case("f32[4,4]", "f32[2,2]", _window("2, 2", strides="2, 2")),
        _select_case("f32[5,4]", "f32[3,3]", _window("3, 2")),
        _select_case(
            "i32[4,3]", "i32[2,2]", _window("3, 2", strides="2, 2", padding="[[0, 1], [1, 0]]")
        ),
        _select_case("f32[4]", "f32[3]", _window("2"), scatter="maximum"),
        _select_case("f32[0]", "f32[0]", _window("1")),
    ],
)
def select_and_scatter(op: OpView, x: Any, source: Any, start: Any, bodies: tuple[Any, ...]) -> Any:
    """Each source element combined into the window element that `select` prefers to all others.

    Gradient of pooling. `select(kept, next)` is asked in row-major order; padding is never chosen.
    """
    select, scatter = bodies
    a = op.attributes
    window = a["window_dimensions"]
    strides = a.get("window_strides") or (1,) * x.ndim
    padding = a.get("padding")
    low = [0] * x.ndim if padding is None else [int(p[0]) for p in padding]
    corners = [
        lax.broadcasted_iota(np.int64, source.shape, d) * strides[d] - low[d] for d in range(x.ndim)
    ]
    best_value = jnp.zeros(source.shape, x.dtype)
    best_place = jnp.full(source.shape, -1, np.int64)
    for offset in itertools.product(*map(range, window)):
        place = jnp.zeros(source.shape, np.int64)
        inside = jnp.ones(source.shape, bool)
        for d, step in enumerate(offset):
            index = corners[d] + step
            inside &= (index >= 0) & (index < x.shape[d])
            place = place * x.shape[d] + index
        if x.size == 0:
            continue
        value = x.reshape(-1)[jnp.where(inside, place, 0)]
        keep = _elementwise(select, best_value, value) & (best_place >= 0)
        take = inside & ~keep
        best_value = jnp.where(take, value, best_value)
        best_place = jnp.where(take, place, best_place)
    return _combine_at(scatter, jnp.full(x.shape, start, x.dtype), best_place, source)


def _elementwise(body: Any, *arrays: Any) -> Any:
    import jax

    flat = jax.vmap(lambda *scalars: body(*scalars)[0])(*(a.reshape(-1) for a in arrays))
    return flat.reshape(arrays[0].shape)


def _combine_at(body: Any, x: Any, places: Any, updates: Any) -> Any:
    """x with body(update, x[place]) at each place, one after the other; -1 is nowhere."""
    if updates.size == 0 or x.size == 0:
        return x
    at, news = places.reshape(-1), updates.reshape(-1)

    def step(i: Any, flat: Any) -> Any:
        old = flat[at[i]]
        return flat.at[at[i]].set(jnp.where(at[i] >= 0, body(news[i], old)[0], old))

    return lax.fori_loop(0, at.size, step, x.reshape(-1)).reshape(x.shape)
