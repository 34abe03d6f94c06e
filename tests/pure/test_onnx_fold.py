"""Shape chains: what is known while loading, with symbolic sizes as expressions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anychip.core.errors import UnsupportedError
from anychip.frontends.onnx.fold import Sizes, at_least, at_most, from_shape, same, settle


@pytest.fixture
def batch() -> Any:
    from jax import export

    (dim,) = export.symbolic_shape("batch")
    return dim


def test_static_shape_is_a_plain_vector() -> None:
    got = from_shape((2, 3))
    assert got.dtype == np.int64
    assert got.tolist() == [2, 3]


def test_symbolic_shape_keeps_its_expression(batch: Any) -> None:
    got = from_shape((batch, 3))
    assert isinstance(got, Sizes)
    assert str(got.values[0] * 2 + got.values[1]) == "2*batch + 3"


def test_expressions_that_cancel_become_numbers(batch: Any) -> None:
    values = np.array([batch - batch + 4, 5], object)
    assert settle(values).tolist() == [4, 5]


def test_sizes_that_cannot_be_equal_are_told_apart(batch: Any) -> None:
    assert not same(batch, -1)
    assert not same(batch + 1, batch)
    assert same(batch * 2, batch + batch)


def test_equality_that_depends_on_the_size_is_refused(batch: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"dims=\{'batch': …\}"):
        same(batch, 1)


def test_bounds_of_sizes(batch: Any) -> None:
    assert at_most(7, 3) == 3
    assert at_least(7, 3) == 7
    assert str(at_most(batch, batch)) == "batch"
