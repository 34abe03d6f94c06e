"""Client HLO: library functions, top-k, ragged products and scans, as frontends emit them."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.core.dtypes import dtype
from anychip.ops import elementwise as pointwise
from anychip.ops.attributes import RaggedDotDims
from anychip.ops.case import Draw, case, mlir_type
from anychip.ops.count import elementwise, moved, nothing, region
from anychip.ops.linear import contract
from anychip.ops.table import Op, op
from anychip.ops.view import OpView, Spec
from anychip.ops.work import Work

_REAL = ("f32[2,3]", "f32[]", "f64[4]", "bf16[3]", "f16[0]")
_COMPLEX = ("complex<f32>[2,3]", "complex<f64>[3]")


def _function(
    name: str,
    rule: Callable[..., Any],
    types: Sequence[str] = _REAL,
    *,
    draw: Draw | Sequence[Draw] = "normal",
    arity: int = 1,
    expect: Callable[..., Any] | None = None,
    out: Callable[[str], str] = lambda spec: spec,
    flops: int = 0,
    transcendentals: int = 1,
) -> Op:
    declare = op(
        f"chlo.{name}",
        unit="vector",
        work=elementwise(flops, transcendentals),
        cases=[
            case(
                *[spec] * arity,
                out=out(spec),
                draw=draw,
                expect=pointwise.wide(expect),
            )
            for spec in types
        ],
    )
    return declare(lambda op, *operands: rule(*operands))


def _error_function(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _log_gamma(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.lgamma, otypes=[np.float64])(x)


FUNCTIONS: tuple[Op, ...] = (
    _function("erf", lax.erf, expect=_error_function),
    _function("erfc", lax.erfc, expect=lambda x: 1 - _error_function(x)),
    _function("erf_inv", lax.erf_inv, draw="unit"),
    _function("lgamma", lax.lgamma, draw="positive", expect=_log_gamma),
    _function("digamma", lax.digamma, draw="positive"),
    _function("sinh", lax.sinh, (*_REAL, *_COMPLEX), expect=np.sinh),
    _function("cosh", lax.cosh, (*_REAL, *_COMPLEX), expect=np.cosh),
    _function("tan", lax.tan, (*_REAL, *_COMPLEX), draw="unit", expect=np.tan),
    _function("asin", lax.asin, (*_REAL, *_COMPLEX), draw="unit", expect=np.arcsin),
    _function("acos", lax.acos, (*_REAL, *_COMPLEX), draw="unit", expect=np.arccos),
    _function("atan", lax.atan, (*_REAL, *_COMPLEX), expect=np.arctan),
    _function("asinh", lax.asinh, (*_REAL, *_COMPLEX), expect=np.arcsinh),
    _function("acosh", lax.acosh, (*_REAL, *_COMPLEX), draw="positive", expect=np.arccosh),
    _function("atanh", lax.atanh, (*_REAL, *_COMPLEX), draw="unit", expect=np.arctanh),
    _function("bessel_i1e", lax.bessel_i1e),
    _function("polygamma", lax.polygamma, arity=2, draw=("positive", "positive")),
    _function("zeta", lax.zeta, arity=2, draw="positive"),
    _function(
        "next_after",
        lax.nextafter,
        ("f32[12]", "f64[12]", "f32[]"),
        arity=2,
        draw="any",
        expect=np.nextafter,
        flops=1,
        transcendentals=0,
    ),
    _function(
        "square",
        lax.square,
        (*_REAL, *_COMPLEX),
        expect=np.square,
        flops=1,
        transcendentals=0,
    ),
    _function("conj", lax.conj, _COMPLEX, expect=np.conj, flops=1, transcendentals=0),
    _function(
        "mulhi",
        lax.mulhi,
        ("i32[5]", "ui32[5]", "i64[3]", "ui64[3]"),
        arity=2,
        draw="bits",
        expect=lambda x, y: np.array(
            [(int(a) * int(b)) >> (x.dtype.itemsize * 8) for a, b in zip(x, y, strict=True)],
            x.dtype,
        ),
        flops=1,
        transcendentals=0,
    ),
    *(
        _function(
            name,
            rule,
            ("f32[12]", "bf16[12]", "f64[0]"),
            draw="any",
            out=lambda s: f"i1{s[s.index('[') :]}",
            expect=expect,
            flops=1,
            transcendentals=0,
        )
        for name, rule, expect in (
            ("is_inf", jnp.isinf, np.isinf),
            ("is_pos_inf", jnp.isposinf, lambda x: x == np.inf),
            ("is_neg_inf", jnp.isneginf, lambda x: x == -np.inf),
        )
    ),
)


@op(
    "chlo.constant",
    unit="move",
    work=nothing,
    cases=[
        case(
            out="f32[2]",
            attributes="value = dense<[1.5, 2.5]> : tensor<2xf32>",
            expect=lambda: np.array([1.5, 2.5]),
        )
    ],
)
def constant(op: OpView) -> Any:
    """The value written in the program."""
    return jnp.asarray(op.attributes["value"])


@op(
    "chlo.constant_like",
    unit="move",
    work=lambda op: Work(written_bytes=op.outputs[0].nbytes),
    cases=[
        case(
            "f32[2,3]",
            attributes="value = 2.5 : f32",
            expect=lambda x: np.full_like(x, 2.5),
        ),
        case("i32[0]", attributes="value = 3 : i32"),
    ],
)
def constant_like(op: OpView, x: Any) -> Any:
    """One value in the operand's shape."""
    element = dtype(op.outputs[0].dtype).numpy
    return jnp.full(np.shape(x), op.attributes["value"], element)


def _top_k_work(op: OpView) -> Work:
    """n·log₂k comparisons for each line: a heap of the k best."""
    k = op.attributes["k"]
    return moved(op) + Work(flops=op.inputs[0].size * max(1, math.ceil(math.log2(max(1, k)))))


def _best(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-x.astype(np.float64), axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(x, order, -1), order


_TOP_K_CASES: tuple[tuple[str, Draw], ...] = (
    ("f32", "normal"),
    ("i32", "small"),
    ("bf16", "small"),
)


@op(
    "chlo.top_k",
    unit="vector",
    work=_top_k_work,
    cases=[
        case(
            f"{element}[3,7]",
            out=(f"{element}[3,2]", "i32[3,2]"),
            attributes="k = 2 : i64",
            draw=how,
            expect=lambda x: _best(x, 2),
        )
        for element, how in _TOP_K_CASES
    ],
)
def top_k(op: OpView, x: Any) -> Any:
    """The k greatest of each line in falling order, the first of equals first, and their places."""
    return tuple(lax.top_k(x, op.attributes["k"]))


def _ragged(contracting: str, lhs_ragged: int, rhs_group: str, batch: str = "") -> str:
    left, right = contracting.split("x")
    return (
        "ragged_dot_dimension_numbers = #chlo.ragged_dot<"
        f"lhs_batching_dimensions = [{batch}], rhs_batching_dimensions = [{batch}], "
        f"lhs_contracting_dimensions = [{left}], rhs_contracting_dimensions = [{right}], "
        f"lhs_ragged_dimensions = [{lhs_ragged}], rhs_group_dimensions = [{rhs_group}]>"
    )


def _ragged_work(op: OpView) -> Work:
    """Each row meets one group's matrix: 2·rows·k·n, whatever the group sizes.

    A ragged contracting or batching dimension is cut into groups, which changes no count. All of
    rhs counts as read, as if no group were empty.
    """
    dims: RaggedDotDims = op.attributes["ragged_dot_dimension_numbers"]
    depth = math.prod(op.inputs[0].sizes[d] for d in dims.dot.lhs_contract)
    out = op.outputs[0].size
    if dims.lhs_ragged[0] in dims.dot.lhs_contract:  # every group has its own output
        out //= max(1, op.inputs[2].sizes[-1])
    return moved(op) + Work(flops=2 * out * depth)


def _numpy_grouped(x: np.ndarray, w: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    out = np.zeros((len(x), w.shape[-1]), x.dtype)
    start = 0
    for group, size in enumerate(sizes):
        out[start : start + size] = x[start : start + size] @ w[group]
        start += size
    return out


@op(
    "chlo.ragged_dot",
    unit="matmul",
    work=_ragged_work,
    cases=[
        case(
            "f32[6,4]",
            "f32[3,4,5]",
            "i32[3]",
            out="f32[6,5]",
            attributes=_ragged("1x1", 0, "0"),
            given={2: [1, 3, 2]},
            expect=_numpy_grouped,
            reduced=4,
        ),
        case(
            "f32[6,4]",
            "f32[3,4,5]",
            "i64[3]",
            out="f32[6,5]",
            attributes=_ragged("1x1", 0, "0"),
            given={2: [2, 0, 1]},
            expect=_numpy_grouped,
            reduced=4,
        ),
        case(
            "f32[6,4]",
            "f32[6,5]",
            "i32[3]",
            out="f32[3,4,5]",
            attributes=_ragged("0x0", 0, ""),
            given={2: [1, 3, 2]},
            expect=lambda x, w, s: np.stack(
                [x[a:b].T @ w[a:b] for a, b in ((0, 1), (1, 4), (4, 6))]
            ),
            reduced=3,
        ),
        case(
            "f32[4,2,3]",
            "f32[4,3,5]",
            "i32[2]",
            out="f32[4,2,5]",
            attributes=_ragged("2x1", 0, "", "0"),
            given={2: [1, 3]},
            expect=lambda x, w, s: x @ w,
            reduced=3,
        ),
    ],
)
def ragged_dot(op: OpView, lhs: Any, rhs: Any, sizes: Any) -> Any:
    """dot_general whose lhs is cut along one dimension into consecutive groups of these sizes.

    Cut along a free dimension, each group meets its own rhs (grouped experts); rows beyond the
    last group are zero. Cut along a contracting dimension, each group is summed apart into its own
    result. Cut along a batching dimension, nothing changes.
    """
    dims: RaggedDotDims = op.attributes["ragged_dot_dimension_numbers"]
    ragged = dims.lhs_ragged[0]
    out = op.outputs[0]
    if ragged in dims.dot.lhs_batch:
        return contract(lhs, rhs, dims.dot, out)
    numbers = lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(
            (dims.dot.lhs_contract, dims.dot.rhs_contract),
            (dims.dot.lhs_batch, dims.dot.rhs_batch),
        ),
        lhs_ragged_dimensions=dims.lhs_ragged,
        rhs_group_dimensions=dims.rhs_group,
    )
    element = dtype(out.dtype).numpy
    return lax.ragged_dot_general(
        lhs,
        rhs,
        sizes,
        numbers,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=element,
    ).astype(element)


def _scan_work(op: OpView) -> Work:
    """The body once per step. Its own operand bytes are counted at the boundary only."""
    steps = _steps(op)
    return moved(op) + region(op.regions[0]) * steps


def _steps(op: OpView) -> int:
    if "scan_dim_size" in op.attributes:
        return op.attributes["scan_dim_size"]
    dimension = op.attributes["dimension"]
    shaped: Spec = op.inputs[0] if _input_count(op) else op.outputs[0]
    return shaped.sizes[dimension]


def _input_count(op: OpView) -> int:
    return int(op.attributes["operandSegmentSizes"][0])


_RUNNING = """  %z = stablehlo.constant dense<0> : tensor<{carry}i32>
  %r:2 = chlo.scan(%a0) inits(%a1) dimension={dim} {reverse} {{
  ^bb0(%x: tensor<{carry}i32>, %sum: tensor<{carry}i32>):
    %0 = stablehlo.add %x, %sum : tensor<{carry}i32>
    stablehlo.return %0, %0 : tensor<{carry}i32>, tensor<{carry}i32>
  }} : ({whole}, tensor<{carry}i32>) -> ({whole}, tensor<{carry}i32>)
  return %r#0, %r#1 : {whole}, tensor<{carry}i32>"""


@op(
    "chlo.scan",
    unit="control",
    work=_scan_work,
    cases=[
        case(
            "i32[4]",
            "i32[]",
            out=("i32[4]", "i32[]"),
            body=_RUNNING.format(carry="", dim=0, reverse="", whole=mlir_type("i32[4]")),
            expect=lambda x, start: (np.cumsum(x) + start, x.sum() + start),
        ),
        case(
            "i32[2,3]",
            "i32[2]",
            out=("i32[2,3]", "i32[2]"),
            body=_RUNNING.format(
                carry="2x",
                dim=1,
                reverse="attributes {is_reverse = true}",
                whole=mlir_type("i32[2,3]"),
            ),
            expect=lambda x, start: (
                np.cumsum(x[:, ::-1], 1)[:, ::-1] + start[:, None],
                x.sum(1) + start,
            ),
        ),
    ],
    reference="upstream lowers it to real_dynamic_slice, which has no rule",
)
def scan(op: OpView, *operands: Any, bodies: tuple[Any, ...]) -> tuple[Any, ...]:
    """The region stepped along `dimension`: (slices, carries) → (slices, carries)."""
    count, dimension = _input_count(op), op.attributes["dimension"]
    outputs = int(op.attributes["resultSegmentSizes"][0])
    slices = tuple(jnp.moveaxis(x, dimension, 0) for x in operands[:count])

    def step(carries: tuple[Any, ...], inputs: tuple[Any, ...]) -> tuple[Any, Any]:
        results = bodies[0](*inputs, *carries)
        return results[outputs:], results[:outputs]

    carries, stacked = jax.lax.scan(
        step,
        operands[count:],
        slices,
        length=_steps(op),
        reverse=bool(op.attributes.get("is_reverse", False)),
    )
    return (*(jnp.moveaxis(y, 0, dimension) for y in stacked), *carries)
