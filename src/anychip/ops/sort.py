"""Sorting by any comparator: lexicographic ones through XLA's sort, all others by a merge sort."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.core.dtypes import dtype
from anychip.ops.case import case
from anychip.ops.count import moved, region
from anychip.ops.elementwise import order_key
from anychip.ops.table import op
from anychip.ops.view import Block, OpView, Value
from anychip.ops.work import Work


def _by(direction: str, element: str, kind: str = "") -> str:
    suffix = f", {kind}" if kind else ""
    return f"""^bb0(%x: tensor<{element}>, %y: tensor<{element}>):
  %0 = stablehlo.compare {direction}, %x, %y{suffix} : (tensor<{element}>, tensor<{element}>)
    -> tensor<i1>
  stablehlo.return %0 : tensor<i1>"""


_TWO_KEYS = """^bb0(%a: tensor<i32>, %b: tensor<i32>, %x: tensor<f32>, %y: tensor<f32>):
  %0 = stablehlo.compare LT, %a, %b : (tensor<i32>, tensor<i32>) -> tensor<i1>
  %1 = stablehlo.compare EQ, %a, %b : (tensor<i32>, tensor<i32>) -> tensor<i1>
  %2 = stablehlo.compare GT, %x, %y : (tensor<f32>, tensor<f32>) -> tensor<i1>
  %3 = stablehlo.and %1, %2 : tensor<i1>
  %4 = stablehlo.or %0, %3 : tensor<i1>
  stablehlo.return %4 : tensor<i1>"""

_BY_SIZE = """^bb0(%x: tensor<f32>, %y: tensor<f32>):
  %0 = stablehlo.abs %x : tensor<f32>
  %1 = stablehlo.abs %y : tensor<f32>
  %2 = stablehlo.compare LT, %0, %1 : (tensor<f32>, tensor<f32>) -> tensor<i1>
  stablehlo.return %2 : tensor<i1>"""

_BY_SECOND = """^bb0(%a: tensor<i32>, %b: tensor<i32>, %x: tensor<f32>, %y: tensor<f32>):
  %0 = stablehlo.compare LT, %x, %y : (tensor<f32>, tensor<f32>) -> tensor<i1>
  stablehlo.return %0 : tensor<i1>"""


def _along(dimension: int) -> str:
    return f"dimension = {dimension} : i64, is_stable = true"


def _sort_work(op: OpView) -> Work:
    """n·log₂n comparisons for each sorted line."""
    length = op.inputs[0].sizes[op.attributes.get("dimension", -1)] if op.inputs[0].shape else 1
    lines = op.inputs[0].size // max(1, length)
    comparisons = lines * length * math.ceil(math.log2(max(2, length)))
    return moved(op) + region(op.regions[0]) * comparisons


@op(
    "stablehlo.sort",
    unit="vector",
    work=_sort_work,
    cases=[
        case(
            "f32[3,7]",
            attributes=_along(1),
            region=_by("LT", "f32"),
            expect=lambda x: np.sort(x, 1),
        ),
        case(
            "i32[9]",
            attributes=_along(0),
            region=_by("GT", "i32"),
            expect=lambda x: np.sort(x)[::-1],
        ),
        case("ui8[2,5]", attributes=_along(1), region=_by("LT", "ui8"), draw="bits"),
        case("ui64[5]", attributes=_along(0), region=_by("GT", "ui64"), draw="bits"),
        case("i1[5]", attributes=_along(0), region=_by("LT", "i1")),
        case("bf16[6,2]", attributes=_along(0), region=_by("GT", "bf16")),
        case(
            "f32[5]",
            attributes=_along(0),
            region=_by("LT", "f32", "TOTALORDER"),
            given={0: [np.nan, 0.0, -0.0, -np.inf, 1.0]},
            law=lambda x, y: bool(np.isnan(y[4]) and np.signbit(y[1]) and not np.signbit(y[2])),
            skip_reference="it has no total order comparison",
        ),
        case(
            "i32[12]",
            "f32[12]",
            out=("i32[12]", "f32[12]"),
            attributes=_along(0),
            region=_TWO_KEYS,
            draw="small",
        ),
        case(
            "i32[2,6]",
            "f32[2,6]",
            out=("i32[2,6]", "f32[2,6]"),
            attributes=_along(1),
            region=_BY_SECOND,
            draw=("normal", "small"),
        ),
        case(
            "f32[11]",
            attributes=_along(0),
            region=_BY_SIZE,
            draw="small",
            expect=lambda x: x[np.argsort(np.abs(x), kind="stable")],
        ),
        case("f32[4,5]", attributes=_along(0), region=_BY_SIZE, draw="small"),
        case("i32[8]", attributes=_along(0), region=_by("LE", "i32"), draw="small"),
        case("f32[2,3]", region=_by("LT", "f32"), expect=np.sort),
        case("f32[0]", attributes=_along(0), region=_by("LT", "f32")),
        case("f32[2,0]", attributes=_along(0), region=_BY_SIZE),
    ],
)
def sort(op: OpView, *operands: Any, bodies: tuple[Any, ...]) -> tuple[Any, ...]:
    """All operands permuted alike so that the comparator holds between neighbours; always stable.

    NaN under a comparator that is not a total order is nobody's guarantee; here it sorts last.
    """
    dimension = op.attributes.get("dimension", -1) % max(1, operands[0].ndim)
    keys = lexicographic(op.regions[0])
    if keys is None:
        return _merge_sort(operands, dimension, bodies[0])
    ranked = [_rank(operands[k.operand], k.is_descending, k.is_total) for k in keys]
    sorted_all = lax.sort(
        (*ranked, *operands), dimension=dimension, is_stable=True, num_keys=len(ranked)
    )
    return tuple(sorted_all[len(ranked) :])


class Key:
    """One key of a lexicographic comparator."""

    def __init__(self, operand: int, is_descending: bool, is_total: bool):
        self.operand, self.is_descending, self.is_total = operand, is_descending, is_total

    def matches(self, other: Key) -> bool:
        return (self.operand, self.is_total) == (other.operand, other.is_total)


def _rank(x: Any, is_descending: bool, is_total: bool) -> Any:
    """Integers that sort upward as the key asks."""
    kind = dtype(x.dtype).kind
    if kind == "float":
        if not is_total:  # both zeros are one value, and all NaNs
            x = jnp.where(x == 0, jnp.zeros_like(x), x)
            x = jnp.where(jnp.isnan(x), jnp.full_like(x, np.nan), x)
        x = order_key(x)
    elif kind == "bool":
        x = x.astype(np.uint8)
    elif dtype(x.dtype).bits < 8:
        x = x.astype(np.int32)
    return ~x if is_descending else x


def lexicographic(block: Block) -> list[Key] | None:
    """The keys of `a < b`, or `a < b or (a = b and rest)`; None for any other comparator.

    Sees through the selects that JAX wraps floats in to make all zeros and all NaNs alike.
    """
    made = {r: op for op in block.ops for r in op.results}

    def compared(value: Value, directions: set[str]) -> tuple[Key, str] | None:
        op = made.get(value)
        if op is None or op.name != "stablehlo.compare":
            return None
        direction = op.attributes["comparison_direction"]
        left, right = (_argument(v, block, made) for v in op.operands)
        if direction not in directions or left is None or right is None:
            return None
        (i, left_alike), (j, right_alike) = left, right
        if i // 2 != j // 2 or i == j or left_alike != right_alike:
            return None
        element = dtype(block.arguments[i].spec.dtype)
        if element.kind == "complex":
            return None
        is_total = op.attributes.get("compare_type") == "TOTALORDER"
        if is_total and len(left_alike) == 1:  # half way between the two orders known here
            return None
        is_total = is_total and not left_alike
        falls = (direction == "GT") != (i > j)
        return Key(i // 2, falls, is_total and element.kind == "float"), direction

    def keys(value: Value) -> list[Key] | None:
        first = compared(value, {"LT", "GT"})
        if first is not None:
            return [first[0]]
        either = made.get(value)
        if either is None or either.name != "stablehlo.or":
            return None
        first = compared(either.operands[0], {"LT", "GT"})
        both = made.get(either.operands[1])
        if first is None or both is None or both.name != "stablehlo.and":
            return None
        same, rest = compared(both.operands[0], {"EQ"}), keys(both.operands[1])
        if same is None or rest is None or not same[0].matches(first[0]):
            return None
        return [first[0], *rest]

    return keys(block.results[0])


def _argument(
    value: Value, block: Block, made: dict[Value, OpView]
) -> tuple[int, frozenset[str]] | None:
    """Which argument a value is, and what was made alike on the way: "zeros", "nans" or both."""
    alike: set[str] = set()
    tested: set[Value] = set()
    passed = {value}
    while value not in block.arguments:
        op = made.get(value)
        test = made.get(op.operands[0]) if op and op.name == "stablehlo.select" else None
        if op is None or test is None or test.name != "stablehlo.compare":
            return None
        put = made.get(op.operands[1])
        if put is None or put.name != "stablehlo.constant":
            return None
        constant = float(put.attributes["value"].reshape(()))
        direction = test.attributes["comparison_direction"]
        left, right = test.operands
        if direction == "EQ" and constant == 0 and _is_zero(made, right):
            alike.add("zeros")
        elif direction == "NE" and math.isnan(constant) and left is right:
            alike.add("nans")
        else:
            return None
        tested.add(left)
        value = op.operands[2]
        passed.add(value)
    if not tested <= passed:  # a test of something else
        return None
    return block.arguments.index(value), frozenset(alike)


def _is_zero(made: dict[Value, OpView], value: Value) -> bool:
    op = made.get(value)
    return op is not None and op.name == "stablehlo.constant" and not op.attributes["value"].any()


def _merge_sort(operands: tuple[Any, ...], dimension: int, comparator: Any) -> tuple[Any, ...]:
    """Bottom-up merge sort: positions come from binary searches with the comparator.

    Only `comparator(a, b)` is asked, so any strict weak order works, and equal elements keep
    their order. n·log²n comparisons.
    """
    length = operands[0].shape[dimension]
    if operands[0].size == 0 or length < 2:
        return operands
    lines = [jnp.moveaxis(x, dimension, -1).reshape(-1, length) for x in operands]
    sorted_lines = jax.vmap(lambda *line: _merge_sort_line(line, comparator))(*lines)
    shape = [s for d, s in enumerate(operands[0].shape) if d != dimension]
    return tuple(jnp.moveaxis(x.reshape(*shape, length), -1, dimension) for x in sorted_lines)


def _merge_sort_line(line: tuple[Any, ...], comparator: Any) -> tuple[Any, ...]:
    length = line[0].shape[0]
    position = jnp.arange(length)

    def precedes(i: Any, j: Any, order: Any) -> Any:
        pairs = [side for x in line for side in (x[order[i]], x[order[j]])]
        return comparator(*pairs)[0]

    order, run = position, 1
    while run < length:
        start = position // run * run  # of this element's run
        is_left = position // run % 2 == 0
        other = jnp.where(is_left, start + run, start - run)
        low = jnp.minimum(other, length)
        first, high = low, jnp.minimum(other + run, length)
        for _ in range(run.bit_length()):  # how many of the other run go before this element
            middle = (low + high) // 2
            probe = jnp.clip(middle, 0, length - 1)
            goes_before = jax.vmap(
                lambda i, j, left, order=order: jnp.where(
                    left, precedes(j, i, order), ~precedes(i, j, order)
                )
            )(position, probe, is_left)
            is_open = low < high
            low = jnp.where(is_open & goes_before, middle + 1, low)
            high = jnp.where(is_open & ~goes_before, middle, high)
        target = jnp.where(is_left, position, position - run) + (low - first)
        order = jnp.zeros_like(order).at[target].set(order)
        run *= 2
    return tuple(x[order] for x in line)
