"""core/dtypes.py: one table of element types."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anychip.core import DTYPES, UsageError, dtype, nbytes


@pytest.mark.parametrize("name", DTYPES)
def test_name_and_numpy_type_find_each_other(name):
    one = dtype(name)
    assert one.name == name
    assert dtype(one.numpy) is one
    assert dtype(one) is one


@pytest.mark.parametrize("name", [n for n, d in DTYPES.items() if d.bits >= 8])
def test_whole_byte_types_are_as_wide_as_numpys(name):
    assert dtype(name).numpy.itemsize * 8 == dtype(name).bits


@pytest.mark.parametrize(
    ("name", "bits", "kind"),
    [
        ("i1", 1, "bool"),
        ("i4", 4, "int"),
        ("ui2", 2, "uint"),
        ("f8E4M3FN", 8, "float"),
        ("f6E2M3FN", 6, "float"),
        ("f4E2M1FN", 4, "float"),
        ("complex<f32>", 64, "complex"),
    ],
)
def test_width_and_kind(name, bits, kind):
    assert (dtype(name).bits, dtype(name).kind) == (bits, kind)


def test_numpy_scalar_types_and_spellings_are_understood():
    assert dtype(np.float32).name == "f32"
    assert dtype("float32").name == "f32"
    assert dtype(ml_dtypes.bfloat16).name == "bf16"
    assert dtype(bool).name == "i1"


@pytest.mark.parametrize(
    "name", ["float33", "f31", "", "U8", np.dtype("datetime64[s]"), ">f4", None]
)
def test_type_that_stablehlo_lacks_is_refused_with_the_list(name):
    with pytest.raises(UsageError, match=r"no element type named .* Known: bf16"):
        dtype(name)


@pytest.mark.parametrize(
    ("shape", "element", "expected"),
    [
        ((), "f32", 4),
        ((3,), "i4", 2),
        ((3, 3), "i4", 5),
        ((5,), "i2", 2),
        ((9,), "i1", 2),
        ((4,), "f6E2M3FN", 3),
        ((0, 7), "f64", 0),
        ((2, 3), "complex<f64>", 96),
    ],
)
def test_sub_byte_elements_are_packed_and_rounded_up_once(shape, element, expected):
    assert nbytes(shape, element) == expected


@given(
    st.lists(st.integers(0, 1000), max_size=4).map(tuple),
    st.sampled_from(sorted(n for n, d in DTYPES.items() if d.bits % 8 == 0)),
)
def test_whole_byte_arrays_take_what_numpy_takes(shape, element):
    assert nbytes(shape, element) == math.prod(shape) * dtype(element).numpy.itemsize
