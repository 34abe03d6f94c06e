"""Client HLO's binary ops that broadcast their operands first."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.ops import elementwise as pointwise
from anychip.ops.case import Draw, case
from anychip.ops.count import elementwise
from anychip.ops.table import Op, op
from anychip.ops.view import OpView

_BROADCASTING: dict[str, Callable[..., Any]] = {
    "add": pointwise.add,
    "subtract": lax.sub,
    "multiply": pointwise.multiply,
    "divide": lax.div,
    "remainder": lax.rem,
    "maximum": pointwise.maximum,
    "minimum": pointwise.minimum,
    "power": pointwise.power,
    "atan2": pointwise.atan2,
    "and": lax.bitwise_and,
    "or": lax.bitwise_or,
    "xor": lax.bitwise_xor,
    "shift_left": lax.shift_left,
    "shift_right_arithmetic": lax.shift_right_arithmetic,
    "shift_right_logical": lax.shift_right_logical,
    "complex": lax.complex,
    "next_after": lax.nextafter,
    "polygamma": lax.polygamma,
    "zeta": lax.zeta,
}
_ON_INTEGERS = ("and", "or", "xor", "shift_left", "shift_right_arithmetic", "shift_right_logical")
_FUNCTIONS = ("power", "atan2", "polygamma", "zeta")


def _together(op: OpView, *operands: Any) -> list[Any]:
    """Operands at one shape: numpy's broadcasting, or placed by `broadcast_dimensions`."""
    shape = np.broadcast_shapes(*(np.shape(x) for x in operands)) if _is_numpy(op) else ()
    dimensions = op.attributes.get("broadcast_dimensions")
    if dimensions is None:
        return [jnp.broadcast_to(x, shape) for x in operands]
    shape = max((np.shape(x) for x in operands), key=len)
    return [
        x if np.ndim(x) == len(shape) else lax.broadcast_in_dim(x, shape, dimensions)
        for x in operands
    ]


def _is_numpy(op: OpView) -> bool:
    return op.attributes.get("broadcast_dimensions") is None


def _broadcasting(name: str, rule: Callable[..., Any]) -> Op:
    element = "i32" if name in _ON_INTEGERS else "f32"
    result = "complex<f32>" if name == "complex" else element
    left, right = f"{element}[2,3]", f"{element}[3]"
    draw: Draw = "positive" if name in (*_FUNCTIONS, *_ON_INTEGERS) else "normal"
    is_function = name in _FUNCTIONS
    declare = op(
        f"chlo.broadcast_{name}",
        unit="vector",
        work=elementwise(0 if is_function else 1, 1 if is_function else 0),
        cases=[
            case(left, right, out=f"{result}[2,3]", draw=draw),
            case(
                left,
                f"{element}[2]",
                out=f"{result}[2,3]",
                attributes="broadcast_dimensions = array<i64: 0>",
                draw=draw,
                skip_reference=_PLACED,
            ),
            case(left, f"{element}[]", out=f"{result}[2,3]", draw=draw),
        ],
    )
    return declare(lambda op, *operands: rule(*_together(op, *operands)))


_PLACED = "upstream lowers only numpy's broadcasting"

BROADCASTING: tuple[Op, ...] = tuple(_broadcasting(n, rule) for n, rule in _BROADCASTING.items())


@op(
    "chlo.broadcast_compare",
    unit="vector",
    work=elementwise(),
    cases=[
        case(
            "f32[2,3]",
            "f32[3]",
            out="i1[2,3]",
            attributes="comparison_direction = #chlo<comparison_direction LT>",
            expect=np.less,
        )
    ],
)
def broadcast_compare(op: OpView, x: Any, y: Any) -> Any:
    """stablehlo.compare after broadcasting."""
    return pointwise.compare(op, *_together(op, x, y))[0]


@op(
    "chlo.broadcast_select",
    unit="vector",
    work=elementwise(),
    cases=[
        case("i1[2,3]", "f32[2,3]", "f32[2,3]", out="f32[2,3]", expect=np.where),
        case(
            "i1[3]",
            "f32[2,3]",
            "f32[]",
            out="f32[2,3]",
            expect=np.where,
        ),
    ],
    reference="upstream lowers it through the shape dialect, which it does not know",
)
def broadcast_select(op: OpView, which: Any, on_true: Any, on_false: Any) -> Any:
    """stablehlo.select after broadcasting."""
    return lax.select(*_together(op, which, on_true, on_false))
