"""core/weights.py: read when touched, and only as declared."""

import numpy as np
import pytest

from anychip.core import InputError, UsageError, Weight, Weights


class Reader:
    """Counts its calls."""

    def __init__(self, value: np.ndarray):
        self.value, self.calls = value, 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return self.value


def test_reader_is_not_called_until_touched():
    reader = Reader(np.ones((2, 3), np.float32))
    weights = Weights((Weight("w", (2, 3), "f32", read=reader),))
    weight = weights["w"]
    assert (weight.nbytes, weights.nbytes, weights.is_shape_only, list(weights)) == (
        24,
        24,
        False,
        ["w"],
    )
    assert reader.calls == 0
    assert weight.array() is reader.value
    assert reader.calls == 1


@pytest.mark.parametrize("value", [np.ones((3, 2), np.float32), np.ones((2, 3), np.float64)])
def test_reader_that_gives_something_else_is_an_error_naming_file_and_weight(value):
    weight = Weight("w", (2, 3), "f32", read=lambda: value, source="model.gguf")
    with pytest.raises(InputError, match=r"model\.gguf: weight w should be f32\[2, 3\]") as caught:
        weight.array()
    assert str(value.dtype) in str(caught.value)


def test_shape_only_weight_cannot_be_read():
    weights = Weights((Weight("w", (2, 3), "f32"),))
    assert weights.is_shape_only
    with pytest.raises(InputError, match=r"weight w .* known by shape only"):
        weights["w"].array()


def test_unknown_weight_is_an_error_but_get_and_in_are_not():
    weights = Weights.from_arrays({"layers.0.q": np.ones(2, np.float32)})
    with pytest.raises(UsageError, match=r"no weight named 'layers\.0\.k'.*layers\.0\.q"):
        weights["layers.0.k"]
    assert "layers.0.k" not in weights
    assert weights.get("layers.0.k") is None
    assert weights.get("layers.0.q") is weights["layers.0.q"]


def test_doubled_names_are_refused():
    with pytest.raises(InputError, match="weight names must differ; doubled: w"):
        Weights((Weight("w", (), "f32"), Weight("w", (), "f32")))


def test_arrays_in_memory_keep_order_type_and_identity():
    arrays = {"b": np.zeros(3, np.int8), "a": np.ones((), np.float64)}
    weights = Weights.from_arrays(arrays)
    assert list(weights) == ["b", "a"]
    assert [w.dtype for w in weights.entries] == ["i8", "f64"]
    assert all(weights[name].array() is array for name, array in arrays.items())
    assert len(weights) == 2
