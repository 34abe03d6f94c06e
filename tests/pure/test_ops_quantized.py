"""Uniform quantisation, on types no parsed program can hold yet: ops are made by hand."""

import numpy as np
import pytest

from anychip.ops import OPS, OpView, Value
from anychip.ops.interp import why_unsupported
from anychip.ops.view import parse_spec

REAL = "tensor<2x3xf32>"
PER_TENSOR = "tensor<2x3x!quant.uniform<i8<-100:100>:f32, 0.5:3>>"
PER_AXIS = "tensor<2x3x!quant.uniform<i8:f32:0, {0.5:3, 0.25}>>"


def view(name: str, source: str, target: str) -> OpView:
    return OpView(
        name=f"stablehlo.{name}",
        attributes={},
        operands=(Value(parse_spec(source)),),
        results=(Value(parse_spec(target)),),
    )


def run(name: str, source: str, target: str, x: np.ndarray) -> np.ndarray:
    op = view(name, source, target)
    return np.asarray(OPS[op.name](op, x)[0])


def test_quantise_rounds_half_to_even_and_clamps_to_the_storage_range():
    x = np.array([[0, 0.25, 0.75], [1.0, 1000, -1000]], np.float32)
    q = run("uniform_quantize", REAL, PER_TENSOR, x)
    assert q.dtype == np.int8
    assert q.tolist() == [[3, 3, 5], [5, 100, -100]]


def test_each_slice_of_an_axis_has_its_own_scale_and_zero_point():
    x = np.ones((2, 3), np.float32)
    q = run("uniform_quantize", REAL, PER_AXIS, x)
    assert q.tolist() == [[5] * 3, [4] * 3]
    assert np.array_equal(run("uniform_dequantize", PER_AXIS, REAL, q), x)


@pytest.mark.parametrize("kind", [PER_TENSOR, PER_AXIS])
def test_values_on_the_grid_survive_the_round_trip(kind):
    q = np.random.default_rng(0).integers(-100, 101, (2, 3)).astype(np.int8)
    real = run("uniform_dequantize", kind, REAL, q)
    assert np.array_equal(run("uniform_quantize", REAL, kind, real), q)


def test_requantising_reads_the_old_type_first():
    q = np.full((2, 3), 5, np.int8)  # (5 - 3) · 0.5 = 1
    assert run("uniform_quantize", PER_TENSOR, PER_AXIS, q).tolist() == [[5] * 3, [4] * 3]


def test_arithmetic_on_quantised_types_is_refused_with_the_remedy():
    assert "legalise" in why_unsupported(view("negate", PER_TENSOR, PER_TENSOR))
