"""Ops that compute each output element from the same element of each operand."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.core.dtypes import dtype
from anychip.ops.case import Draw, case
from anychip.ops.count import elementwise, moved, region
from anychip.ops.table import Op, op
from anychip.ops.view import OpView
from anychip.ops.work import Work

REAL = ("f32[2,3]", "f32[]", "f32[0,2]", "bf16[3,1,2]", "f16[5]", "f64[4]")
COMPLEX = ("complex<f32>[2,3]", "complex<f64>[3]")
SIGNED = ("i32[2,3]", "i8[]", "i16[0]", "i64[5]", "i4[4]")
UNSIGNED = ("ui32[2,3]", "ui8[7]", "ui16[2]", "ui64[5]", "ui4[4]")
INTEGER = (*SIGNED, *UNSIGNED)
BOOL = ("i1[2,3]", "i1[]")


def _pointwise(
    name: str,
    rule: Callable[..., Any],
    types: Sequence[str],
    *,
    arity: int = 1,
    flops: int = 1,
    transcendentals: int = 0,
    draw: Draw | Sequence[Draw] = "normal",
    out: Callable[[str], str] = lambda spec: spec,
    expect: Callable[..., Any] | None = None,
) -> Op:
    """An op whose operands all have one type; cases are one for each of `types`."""
    declare = op(
        f"stablehlo.{name}",
        unit="vector",
        work=elementwise(flops, transcendentals),
        cases=[
            case(*[spec] * arity, out=out(spec), draw=draw, expect=wide(expect)) for spec in types
        ],
    )
    return declare(lambda op, *operands: rule(*operands))


def wide(expect: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """NumPy's answer at the operands' own precision, or at f32 for types NumPy lacks."""
    if expect is None:
        return None

    def judged(*operands: np.ndarray) -> Any:
        narrow = operands[0].dtype
        if dtype(narrow).kind == "float" and narrow.itemsize < 4:
            operands = tuple(o.astype(np.float32) for o in operands)
        elif dtype(narrow).bits < 8:
            operands = tuple(o.astype(np.int32) for o in operands)
        with np.errstate(all="ignore"):
            return expect(*operands)

    return judged


def _half_of_complex(spec: str) -> str:
    return spec.replace("complex<f32>", "f32").replace("complex<f64>", "f64")


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _widened(rule: Callable[..., Any]) -> Callable[..., Any]:
    """The rule on 2- and 4-bit integers through 8-bit ones; JAX does not do all ops on them."""

    def wide(x: Any) -> Any:
        bits, kind = dtype(x.dtype).bits, dtype(x.dtype).kind
        if kind not in ("int", "uint") or bits >= 8:
            return rule(x)
        return lax.convert_element_type(rule(lax.convert_element_type(x, f"{kind}8")), x.dtype)

    return wide


def _population(x: Any) -> Any:
    bits = dtype(x.dtype).bits
    if bits >= 8:
        return lax.population_count(x)
    low = lax.convert_element_type(x, np.uint8) & np.uint8((1 << bits) - 1)
    return lax.convert_element_type(lax.population_count(low), x.dtype)


def _cube_root(x: Any) -> Any:
    if dtype(x.dtype).kind == "complex":
        return lax.exp(lax.log(x) / 3)
    return lax.cbrt(x)


def _half_away_from_zero(x: np.ndarray) -> np.ndarray:
    return np.trunc(x + np.copysign(0.5, x))


UNARY: tuple[Op, ...] = (
    _pointwise(
        "abs",
        _widened(lax.abs),
        (*REAL, *COMPLEX, *SIGNED),
        draw="any",
        out=_half_of_complex,
        expect=np.abs,
    ),
    _pointwise("negate", lax.neg, (*REAL, *COMPLEX, *INTEGER), expect=np.negative),
    _pointwise("sign", _widened(lax.sign), (*REAL, *COMPLEX, *SIGNED), draw="any"),
    _pointwise("ceil", lax.ceil, REAL, draw="any", expect=np.ceil),
    _pointwise("floor", lax.floor, REAL, draw="any", expect=np.floor),
    _pointwise(
        "round_nearest_even",
        lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN),
        REAL,
        draw="any",
        expect=np.rint,
    ),
    _pointwise(
        "round_nearest_afz",
        lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO),
        REAL,
        draw="any",
        expect=_half_away_from_zero,
    ),
    _pointwise(
        "is_finite",
        lax.is_finite,
        REAL,
        draw="any",
        out=lambda s: f"i1{s[s.index('[') :]}",
        expect=np.isfinite,
    ),
    _pointwise("not", lax.bitwise_not, (*INTEGER, *BOOL), draw="bits"),
    _pointwise("popcnt", _population, INTEGER, draw="bits"),
    _pointwise("count_leading_zeros", lax.clz, INTEGER, draw="bits"),
    _pointwise("real", lax.real, COMPLEX, flops=0, out=_half_of_complex, expect=np.real),
    _pointwise("imag", lax.imag, COMPLEX, flops=0, out=_half_of_complex, expect=np.imag),
)

_LIBRARY: tuple[tuple[str, Callable[..., Any], Draw, Callable[..., Any] | None], ...] = (
    ("exponential", lax.exp, "normal", np.exp),
    ("exponential_minus_one", lax.expm1, "normal", np.expm1),
    ("log", lax.log, "positive", np.log),
    ("log_plus_one", lax.log1p, "positive", np.log1p),
    ("logistic", lax.logistic, "normal", _sigmoid),
    ("sqrt", lax.sqrt, "positive", np.sqrt),
    ("rsqrt", lax.rsqrt, "positive", lambda x: 1 / np.sqrt(x)),
    ("cbrt", _cube_root, "positive", None),
    ("cosine", lax.cos, "normal", np.cos),
    ("sine", lax.sin, "normal", np.sin),
    ("tan", lax.tan, "unit", np.tan),
    ("tanh", lax.tanh, "normal", np.tanh),
)

TRANSCENDENTAL: tuple[Op, ...] = tuple(
    _pointwise(name, rule, (*REAL, *COMPLEX), flops=0, transcendentals=1, draw=draw, expect=expect)
    for name, rule, draw, expect in _LIBRARY
)


def add(x: Any, y: Any) -> Any:
    """x + y; logical or on booleans."""
    return lax.bitwise_or(x, y) if x.dtype == np.bool_ else lax.add(x, y)


def multiply(x: Any, y: Any) -> Any:
    """x · y; logical and on booleans."""
    return lax.bitwise_and(x, y) if x.dtype == np.bool_ else lax.mul(x, y)


def _larger_complex(x: Any, y: Any, compare: Callable[..., Any]) -> Any:
    """The greater (or lesser) in lexicographic order of real and imaginary part."""
    re_x, re_y = lax.real(x), lax.real(y)
    first = compare(re_x, re_y) | ((re_x == re_y) & compare(lax.imag(x), lax.imag(y)))
    return lax.select(first, x, y)


def maximum(x: Any, y: Any) -> Any:
    """NaN when either is; lexicographic on complex numbers; logical or on booleans."""
    return _larger_complex(x, y, lax.gt) if dtype(x.dtype).kind == "complex" else lax.max(x, y)


def minimum(x: Any, y: Any) -> Any:
    """NaN when either is; lexicographic on complex numbers; logical and on booleans."""
    return _larger_complex(x, y, lax.lt) if dtype(x.dtype).kind == "complex" else lax.min(x, y)


def atan2(y: Any, x: Any) -> Any:
    """The angle of (x, y); on complex numbers -i·log((x + i·y) / sqrt(x² + y²))."""
    if dtype(x.dtype).kind != "complex":
        return lax.atan2(y, x)
    i = np.asarray(1j, x.dtype)
    return -i * lax.log((x + i * y) / lax.sqrt(x * x + y * y))


def power(x: Any, y: Any) -> Any:
    """x to the y; integers wrap around."""
    if dtype(x.dtype).kind not in ("int", "uint"):
        return lax.pow(x, y)
    return _integer_power(x, y)


def _integer_power(x: Any, y: Any) -> Any:
    """Exponentiation by squaring, wrapping around; a negative power is 1/x rounded toward zero."""
    result, square, rest = jnp.ones_like(x), x, y
    for _ in range(dtype(x.dtype).bits):
        result = lax.select((rest & 1) == 1, result * square, result)
        square = square * square
        rest = lax.shift_right_logical(rest, jnp.ones_like(rest))
    if dtype(x.dtype).kind == "uint":
        return result
    one = jnp.ones_like(x)
    odd = lax.select((y & 1) == 1, -one, one)
    inverse = lax.select(x == 1, one, lax.select(x == -1, odd, jnp.zeros_like(x)))
    return lax.select(y < 0, inverse, result)


_ARITHMETIC = (*REAL, *COMPLEX, *INTEGER)
_SHIFTS: tuple[Draw, Draw] = ("bits", "positive")

BINARY: tuple[Op, ...] = (
    _pointwise("add", add, (*_ARITHMETIC, *BOOL), arity=2),
    _pointwise("subtract", lax.sub, _ARITHMETIC, arity=2, expect=np.subtract),
    _pointwise("multiply", multiply, (*_ARITHMETIC, *BOOL), arity=2),
    _pointwise("divide", lax.div, _ARITHMETIC, arity=2, draw=("normal", "positive")),
    _pointwise("remainder", lax.rem, (*REAL, *INTEGER), arity=2, draw=("normal", "positive")),
    _pointwise("maximum", maximum, (*_ARITHMETIC, *BOOL), arity=2, draw="any"),
    _pointwise("minimum", minimum, (*_ARITHMETIC, *BOOL), arity=2, draw="any"),
    _pointwise("and", lax.bitwise_and, (*INTEGER, *BOOL), arity=2, draw="bits"),
    _pointwise("or", lax.bitwise_or, (*INTEGER, *BOOL), arity=2, draw="bits"),
    _pointwise("xor", lax.bitwise_xor, (*INTEGER, *BOOL), arity=2, draw="bits"),
    _pointwise("shift_left", lax.shift_left, INTEGER, arity=2, draw=_SHIFTS),
    _pointwise(
        "shift_right_arithmetic", lax.shift_right_arithmetic, INTEGER, arity=2, draw=_SHIFTS
    ),
    _pointwise("shift_right_logical", lax.shift_right_logical, INTEGER, arity=2, draw=_SHIFTS),
    _pointwise(
        "power",
        power,
        (*REAL, *COMPLEX, *INTEGER),
        arity=2,
        flops=0,
        transcendentals=1,
        draw=("positive", "small"),
    ),
    _pointwise("atan2", atan2, (*REAL, *COMPLEX), arity=2, flops=0, transcendentals=1),
    _pointwise(
        "complex",
        lax.complex,
        ("f32[2,3]", "f64[3]"),
        arity=2,
        flops=0,
        out=lambda s: s.replace("f32", "complex<f32>").replace("f64", "complex<f64>"),
        expect=lambda re, im: re + 1j * im,
    ),
)


def order_key(x: Any) -> Any:
    """Integers that sort as IEEE 754 totalOrder sorts x: -NaN, -inf, …, -0, +0, …, inf, NaN."""
    width = dtype(x.dtype).bits
    bits = lax.bitcast_convert_type(x, f"int{width}")
    return lax.select(bits < 0, bits ^ jnp.full_like(bits, np.iinfo(f"int{width}").max), bits)


_DIRECTIONS = {"EQ": lax.eq, "NE": lax.ne, "LT": lax.lt, "LE": lax.le, "GT": lax.gt, "GE": lax.ge}


def _direction(name: str, kind: str = "") -> str:
    suffix = f", compare_type = #stablehlo<comparison_type {kind}>" if kind else ""
    return f"comparison_direction = #stablehlo<comparison_direction {name}>{suffix}"


_COMPARED: tuple[tuple[str, Draw], ...] = (
    ("f32[12]", "any"),
    ("i32[2,3]", "small"),
    ("ui8[5]", "small"),
)


@op(
    "stablehlo.compare",
    unit="vector",
    work=elementwise(),
    cases=[
        *(
            case(spec, spec, out=f"i1{spec[spec.index('[') :]}", attributes=_direction(d), draw=how)
            for d in _DIRECTIONS
            for spec, how in _COMPARED
        ),
        case("f32[0]", "f32[0]", out="i1[0]", attributes=_direction("EQ")),
        case("bf16[12]", "bf16[12]", out="i1[12]", attributes=_direction("LE"), draw="any"),
        case("i1[6]", "i1[6]", out="i1[6]", attributes=_direction("GT"), expect=np.greater),
        case("complex<f32>[4]", "complex<f32>[4]", out="i1[4]", attributes=_direction("NE")),
        case(
            "f32[6]",
            "f32[6]",
            out="i1[6]",
            attributes=_direction("LT", "TOTALORDER"),
            given={0: [-0.0, 0.0, 1, np.nan, -np.nan, 2], 1: [0.0, -0.0, np.nan, 1, -1, 2]},
            expect=lambda x, y: np.array([True, False, True, False, True, False]),
            skip_reference="it has no total order comparison",
        ),
    ],
)
def compare(op: OpView, x: Any, y: Any) -> Any:
    """Element by element; comparisons with NaN are false, except NE. TOTALORDER has no such gap."""
    if op.attributes.get("compare_type") == "TOTALORDER":
        x, y = order_key(x), order_key(y)
    return _DIRECTIONS[op.attributes["comparison_direction"]](x, y)


@op(
    "stablehlo.select",
    unit="vector",
    work=elementwise(),
    cases=[
        case("i1[2,3]", "f32[2,3]", "f32[2,3]", out="f32[2,3]", expect=np.where),
        case("i1[]", "i32[4]", "i32[4]", out="i32[4]", expect=np.where),
        case("i1[0]", "bf16[0]", "bf16[0]", out="bf16[0]", expect=np.where),
    ],
)
def select(op: OpView, which: Any, on_true: Any, on_false: Any) -> Any:
    """on_true where `which`, else on_false; a scalar `which` chooses a whole operand."""
    return lax.select(which, on_true, on_false)


@op(
    "stablehlo.clamp",
    unit="vector",
    work=elementwise(2),
    cases=[
        case(
            "f32[]",
            "f32[2,3]",
            "f32[]",
            out="f32[2,3]",
            given={0: -0.5, 2: 0.5},
            expect=lambda low, x, high: np.clip(x, low, high),
        ),
        case("i32[4]", "i32[4]", "i32[4]", draw=("small", "normal", "positive")),
        case("f16[0]", "f16[0]", "f16[0]"),
    ],
)
def clamp(op: OpView, low: Any, x: Any, high: Any) -> Any:
    """min(max(x, low), high); scalar bounds are for all elements."""
    return lax.clamp(low, x, high)


_CONVERSIONS: tuple[tuple[str, str, Draw], ...] = (
    ("f32[12]", "bf16[12]", "any"),
    ("f32[12]", "f16[12]", "normal"),
    ("f32[8]", "f8E4M3FN[8]", "normal"),
    ("f32[8]", "f8E5M2[8]", "normal"),
    ("f8E4M3FN[8]", "f32[8]", "normal"),
    ("f8E5M2[8]", "bf16[8]", "normal"),
    ("f32[8]", "f4E2M1FN[8]", "normal"),
    ("f4E2M1FN[8]", "f32[8]", "normal"),
    ("f32[2,3]", "i32[2,3]", "normal"),
    ("f64[]", "f32[]", "normal"),
    ("i32[5]", "f32[5]", "bits"),
    ("i64[5]", "i8[5]", "bits"),
    ("i8[5]", "ui32[5]", "bits"),
    ("i4[5]", "f32[5]", "bits"),
    ("i32[5]", "i4[5]", "normal"),
    ("ui8[0]", "f32[0]", "bits"),
    ("f32[12]", "i1[12]", "any"),
    ("i1[4]", "f32[4]", "bool"),
    ("i32[5]", "i1[5]", "small"),
    ("f32[3]", "complex<f32>[3]", "normal"),
    ("complex<f32>[3]", "f32[3]", "normal"),
)


@op(
    "stablehlo.convert",
    unit="vector",
    work=elementwise(),
    cases=[case(a, out=b, draw=how) for a, b, how in _CONVERSIONS],
)
def convert(op: OpView, x: Any) -> Any:
    """Nearest even among floats, toward zero from float to integer, modulo 2ⁿ among integers.

    To boolean: whether not zero. From complex to real: the real part.
    """
    target = dtype(op.outputs[0].dtype)
    if dtype(x.dtype).kind == "complex" and target.kind not in ("complex", "bool"):
        x = lax.real(x)
    return lax.convert_element_type(x, target.numpy)


@op(
    "stablehlo.bitcast_convert",
    unit="move",
    work=lambda op: Work(),
    cases=[
        case("f32[2,3]", out="i32[2,3]", expect=lambda x: x.view(np.int32)),
        case("ui32[3]", out="ui8[3,4]", draw="bits", expect=lambda x: x.view("u1").reshape(3, 4)),
        case("i8[3,2]", out="f16[3]", expect=lambda x: x.view(np.float16)[:, 0]),
        case("bf16[]", out="ui16[]"),
        case("f64[0]", out="i64[0]"),
        case("i1[3]", out="i1[3]", expect=lambda x: x),
    ],
)
def bitcast_convert(op: OpView, x: Any) -> Any:
    """The same bits under another type; a last dimension holds the parts of a wider element."""
    target = dtype(op.outputs[0].dtype).numpy
    return x if x.dtype == target else lax.bitcast_convert_type(x, target)


@op(
    "stablehlo.reduce_precision",
    unit="vector",
    work=elementwise(),
    cases=[
        case("f32[12]", attributes="exponent_bits = 8 : i32, mantissa_bits = 7 : i32", draw="any"),
        case("f32[12]", attributes="exponent_bits = 4 : i32, mantissa_bits = 3 : i32"),
        case("bf16[]", attributes="exponent_bits = 5 : i32, mantissa_bits = 2 : i32"),
        case("f64[0]", attributes="exponent_bits = 5 : i32, mantissa_bits = 10 : i32"),
    ],
)
def reduce_precision(op: OpView, x: Any) -> Any:
    """Round to a float of these widths (nearest even) and back; too large becomes infinite."""
    return lax.reduce_precision(x, op.attributes["exponent_bits"], op.attributes["mantissa_bits"])


def _map_work(op: OpView) -> Work:
    return moved(op) + region(op.regions[0]) * op.outputs[0].size


@op(
    "stablehlo.map",
    unit="vector",
    work=_map_work,
    cases=[
        case(
            "f32[2,3]",
            "f32[2,3]",
            attributes="dimensions = array<i64: 0, 1>",
            region="""^bb0(%x: tensor<f32>, %y: tensor<f32>):
              %0 = stablehlo.multiply %x, %y : tensor<f32>
              stablehlo.return %0 : tensor<f32>""",
            expect=np.multiply,
        ),
        case(
            "i32[0]",
            attributes="dimensions = array<i64: 0>",
            region="""^bb0(%x: tensor<i32>):
              %0 = stablehlo.negate %x : tensor<i32>
              stablehlo.return %0 : tensor<i32>""",
        ),
    ],
)
def map_(op: OpView, *operands: Any, bodies: tuple[Any, ...]) -> Any:
    """The region applied to each element."""
    flat = jax.vmap(lambda *scalars: bodies[0](*scalars)[0])(
        *(lax.collapse(x, 0) for x in operands)
    )
    return lax.reshape(flat, op.outputs[0].sizes)
