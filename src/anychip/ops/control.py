"""Calls, composites, loops, branches, tuples, and the custom calls whose meaning is known."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.ops.case import case
from anychip.ops.count import moved, nothing
from anychip.ops.table import Op, op
from anychip.ops.view import OpView
from anychip.ops.work import Work

_DOUBLE = """func.func private @double(%x: tensor<3xf32>) -> tensor<3xf32> {
  %0 = stablehlo.add %x, %x : tensor<3xf32>
  return %0 : tensor<3xf32>
}"""


@op(
    "func.call",
    unit="control",
    work=nothing,
    cases=[
        case(
            "f32[3]",
            body="""  %0 = call @double(%a0) : (tensor<3xf32>) -> tensor<3xf32>
  %1 = call @double(%0) : (tensor<3xf32>) -> tensor<3xf32>
  return %1 : tensor<3xf32>""",
            functions=_DOUBLE,
            expect=lambda x: 4 * x,
        )
    ],
)
def call(op: OpView, *operands: Any) -> Any:
    """The callee's body with these arguments. Its work is its body's."""
    raise AssertionError("the interpreter follows calls itself")


@op(
    "stablehlo.composite",
    unit="control",
    work=nothing,
    cases=[
        case(
            "f32[3]",
            body="""  %0 = stablehlo.composite "test.double" %a0 {
    composite_attributes = {axis = 1 : i64}, decomposition = @double, version = 1 : i32
  } : (tensor<3xf32>) -> tensor<3xf32>
  return %0 : tensor<3xf32>""",
            functions=_DOUBLE,
            expect=lambda x: 2 * x,
        )
    ],
)
def composite(op: OpView, *operands: Any) -> Any:
    """What its decomposition computes. A target that knows it by name may do it in one piece."""
    raise AssertionError("the interpreter follows composites itself")


_COUNT_DOWN = """  %r:2 = stablehlo.while(%n = %a0, %x = %a1) : tensor<i32>, tensor<2xf32>
  cond {
    %zero = stablehlo.constant dense<0> : tensor<i32>
    %more = stablehlo.compare GT, %n, %zero : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %more : tensor<i1>
  } do {
    %one = stablehlo.constant dense<1> : tensor<i32>
    %next = stablehlo.subtract %n, %one : tensor<i32>
    %y = stablehlo.add %x, %a2 : tensor<2xf32>
    stablehlo.return %next, %y : tensor<i32>, tensor<2xf32>
  }
  return %r#0, %r#1 : tensor<i32>, tensor<2xf32>"""


@op(
    "stablehlo.while",
    unit="control",
    work=nothing,
    cases=[
        case(
            "i32[]",
            "f32[2]",
            "f32[2]",
            out=("i32[]", "f32[2]"),
            body=_COUNT_DOWN,
            given={0: trips},
            expect=lambda n, x, y: (np.minimum(n, 0), x + n * y),
            reduced=3,
        )
        for trips in (3, 0)
    ],
)
def while_(op: OpView, *carried: Any, bodies: tuple[Any, ...]) -> tuple[Any, ...]:
    """`body` applied to the carried values while `cond` of them is true."""
    condition, body = bodies
    return tuple(lax.while_loop(lambda c: condition(*c)[0], lambda c: body(*c), carried))


@op(
    "stablehlo.if",
    unit="control",
    work=nothing,
    cases=[
        case(
            "i1[]",
            "f32[2]",
            out="f32[2]",
            body="""  %r = "stablehlo.if"(%a0) ({
    %0 = stablehlo.negate %a1 : tensor<2xf32>
    stablehlo.return %0 : tensor<2xf32>
  }, {
    stablehlo.return %a1 : tensor<2xf32>
  }) : (tensor<i1>) -> tensor<2xf32>
  return %r : tensor<2xf32>""",
            given={0: which},
            expect=lambda which, x: -x if which else x,
        )
        for which in (True, False)
    ],
)
def if_(op: OpView, which: Any, bodies: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first region's results when true, else the second's."""
    return tuple(lax.cond(which, *bodies))


@op(
    "stablehlo.case",
    unit="control",
    work=nothing,
    cases=[
        case(
            "i32[]",
            "f32[]",
            out="f32[]",
            body="""  %r = "stablehlo.case"(%a0) ({
    stablehlo.return %a1 : tensor<f32>
  }, {
    %0 = stablehlo.add %a1, %a1 : tensor<f32>
    stablehlo.return %0 : tensor<f32>
  }, {
    %0 = stablehlo.negate %a1 : tensor<f32>
    stablehlo.return %0 : tensor<f32>
  }) : (tensor<i32>) -> tensor<f32>
  return %r : tensor<f32>""",
            given={0: index},
            expect=lambda index, x: (x, x + x, -x)[index if 0 <= index < 3 else 2],
        )
        for index in (0, 1, 2, 7, -1)
    ],
)
def case_(op: OpView, index: Any, bodies: tuple[Any, ...]) -> tuple[Any, ...]:
    """The results of region `index`; of the last one when there is no such region."""
    last = len(bodies) - 1
    inside = (index >= 0) & (index <= last)
    return tuple(lax.switch(jnp.where(inside, index, last), bodies))


@op(
    "stablehlo.optimization_barrier",
    unit="control",
    work=nothing,
    cases=[
        case(
            "f32[2]",
            "i32[3]",
            out=("f32[2]", "i32[3]"),
            expect=lambda x, y: (x, y),
        )
    ],
)
def optimization_barrier(op: OpView, *operands: Any) -> tuple[Any, ...]:
    """Its operands, all computed before any result is used."""
    return tuple(lax.optimization_barrier(operands))


_PACK = """  %t = stablehlo.tuple %a0, %a1 : tuple<tensor<2xf32>, tensor<i32>>
  %0 = stablehlo.get_tuple_element %t[0] : (tuple<tensor<2xf32>, tensor<i32>>) -> tensor<2xf32>
  %1 = stablehlo.get_tuple_element %t[1] : (tuple<tensor<2xf32>, tensor<i32>>) -> tensor<i32>
  return %1, %0 : tensor<i32>, tensor<2xf32>"""
_PACKED = case("f32[2]", "i32[]", out=("i32[]", "f32[2]"), body=_PACK, expect=lambda x, n: (n, x))


@op("stablehlo.tuple", unit="control", work=nothing, cases=[_PACKED])
def tuple_(op: OpView, *operands: Any) -> Any:
    """Its operands as one value."""
    return (operands,)


@op("stablehlo.get_tuple_element", unit="control", work=nothing, cases=[_PACKED])
def get_tuple_element(op: OpView, packed: Any) -> Any:
    """Member `index` of a tuple."""
    return (packed[op.attributes["index"]],)


def _same(op: OpView, *operands: Any) -> Any:
    return tuple(operands)


def _top_k_custom(op: OpView, x: Any) -> Any:
    a = op.attributes["mhlo.attributes"]
    if a.get("largest", True):
        return tuple(lax.top_k(x, a["k"]))
    values, places = lax.top_k(-x, a["k"])
    return -values, places


def _approximate_top_k(op: OpView, x: Any, places: Any, *starts: Any) -> Any:
    """Exact, which every recall target allows. Whether largest is best shows in the start value."""
    a = op.attributes["mhlo.backend_config"]
    dimension = a["reduction_dim"]
    largest = starts[0] < 0  # the start value is the worst there is
    order = jnp.argsort(jnp.where(largest, -x, x), axis=dimension, stable=True)
    best = lax.slice_in_dim(order, 0, a["top_k"], axis=dimension)
    take = lambda y: jnp.take_along_axis(y, best, axis=dimension)  # noqa: E731
    return take(x), take(places)


def _no_results(op: OpView, *operands: Any) -> Any:
    return ()


CUSTOM_CALLS: dict[str, tuple[Callable[..., Any], str]] = {
    "Sharding": (_same, "a hint where shards lie"),
    "annotate_device_placement": (_same, "a hint where a value lies"),
    "shape_assertion": (_no_results, "checked when the module was specialised"),
    "mhlo.topk": (_top_k_custom, "chlo.top_k as older exports spell it"),
    "mhlo.erf": (lambda op, x: lax.erf(x), "chlo.erf as older exports spell it"),
    "ApproxTopK": (_approximate_top_k, "jax.lax.approx_max_k and approx_min_k"),
}
"""Custom calls with a meaning, and what they are. All others are refused."""


def _unknown_target(op: OpView) -> str:
    target = op.attributes["call_target_name"]
    if target in CUSTOM_CALLS:
        return ""
    return (
        f"custom call @{target} has no portable meaning (known: {', '.join(sorted(CUSTOM_CALLS))})"
    )


def _custom_work(op: OpView) -> Work:
    target = op.attributes["call_target_name"]
    if target in ("Sharding", "annotate_device_placement", "shape_assertion"):
        return Work()
    return moved(op) + Work(flops=op.inputs[0].size)


@op(
    "stablehlo.custom_call",
    unit="vector",
    work=_custom_work,
    cases=[
        case(
            "f32[2,3]",
            attributes='call_target_name = "Sharding"',
            expect=lambda x: x,
        ),
        case(
            "f32[2,5]",
            out=("f32[2,2]", "i32[2,2]"),
            body="""  %r:2 = stablehlo.custom_call @mhlo.topk(%a0) {
    mhlo.attributes = {k = 2 : i64, largest = true}
  } : (tensor<2x5xf32>) -> (tensor<2x2xf32>, tensor<2x2xi32>)
  return %r#0, %r#1 : tensor<2x2xf32>, tensor<2x2xi32>""",
            expect=lambda x: (-np.sort(-x)[:, :2], np.argsort(-x)[:, :2]),
        ),
        case(
            "f32[3]",
            body="""  %r = stablehlo.custom_call @mhlo.erf(%a0) {mhlo.attributes = {}}
    : (tensor<3xf32>) -> tensor<3xf32>
  return %r : tensor<3xf32>""",
            law=lambda x, y: bool(np.all(np.sign(x) == np.sign(y)) and np.all(np.abs(y) < 1)),
        ),
    ],
    refusal=_unknown_target,
    reference="it knows no custom call targets of frameworks",
)
def custom_call(op: OpView, *operands: Any) -> Any:
    """What the target's name stands for, see CUSTOM_CALLS."""
    rule, _ = CUSTOM_CALLS[op.attributes["call_target_name"]]
    return rule(op, *operands)


SHARDING: tuple[Op, ...] = tuple(
    op(
        name,
        unit="control",
        work=nothing,
        cases=[
            case(
                "f32[4]",
                body=f"""  %0 = {name} %a0 <@mesh, [{{}}]> : tensor<4xf32>
  return %0 : tensor<4xf32>""",
                functions='sdy.mesh @mesh = <["x"=1]>',
                expect=lambda x: x,
            )
        ],
        reference="it does not know the Shardy dialect",
    )(_same)
    for name in ("sdy.sharding_constraint", "sdy.reshard")
)
