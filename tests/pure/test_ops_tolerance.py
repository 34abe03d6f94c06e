"""One table of tolerances: by element type, grown by the length of sums."""

import ml_dtypes
import numpy as np
import pytest

from anychip.core import DTYPES
from anychip.testing.tolerance import mismatch, tolerance


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_has_a_tolerance_and_integers_are_exact(name):
    rtol, atol = tolerance(name)
    is_real = DTYPES[name].kind in ("float", "complex")
    assert (rtol > 0, atol > 0) == (is_real, is_real)


def test_tolerance_grows_with_the_root_of_the_length():
    assert tolerance("f32", 400)[0] == pytest.approx(20 * tolerance("f32")[0])
    assert tolerance("i32", 400) == (0, 0)


def test_nan_equals_nan_and_infinities_must_agree():
    a = np.array([np.nan, np.inf, 1], np.float32)
    assert mismatch([a], [a.copy()]) is None
    found = mismatch([a], [np.array([np.nan, -np.inf, 1], np.float32)])
    assert str(found).startswith("result 0: 1 of 3 elements differ; the worst at [1] is inf")
    assert mismatch([a], [np.array([0, np.inf, 1], np.float32)]) is not None
    assert mismatch([np.array([1e38], np.float32)], [np.array([np.inf], np.float32)]) is not None


def test_differences_of_number_type_and_shape_are_named():
    a = np.zeros(2, np.float32)
    assert mismatch([a], []) == "1 results, should be 0"
    assert "float32[2], should be float64[2]" in str(mismatch([a], [a.astype(np.float64)]))


def test_one_step_of_a_narrow_float_is_within_tolerance_and_three_are_not():
    one = np.array([1.0], ml_dtypes.bfloat16)
    step = ml_dtypes.finfo(ml_dtypes.bfloat16).eps
    near = np.array([1.0 + float(step)], ml_dtypes.bfloat16)
    far = np.array([1.0 + 6 * float(step)], ml_dtypes.bfloat16)
    assert mismatch([near], [one]) is None
    assert mismatch([far], [one]) is not None
