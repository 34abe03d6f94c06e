"""The protobuf scan: large tensors are found in place, broken messages named by byte and field."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from anychip.core.errors import InputError
from anychip.frontends.onnx.wire import LARGE_BYTES, split

LARGE = np.arange(LARGE_BYTES, dtype=np.float32)


def model(*, constant_node: bool = False) -> bytes:
    weight = numpy_helper.from_array(LARGE, "w")
    node = helper.make_node("Constant", [], ["w"], value=weight)
    graph = helper.make_graph(
        [node] if constant_node else [],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [] if constant_node else [weight, numpy_helper.from_array(LARGE[:3], "small")],
    )
    return helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize("constant_node", [False, True])
def test_large_tensor_is_left_in_the_file(constant_node: bool) -> None:
    data = model(constant_node=constant_node)
    pieces = split(memoryview(data), "m.onnx")
    (start, end) = pieces.raw["w"]
    np.testing.assert_array_equal(np.frombuffer(data[start:end], np.float32), LARGE)
    assert len(pieces.message) < LARGE_BYTES
    assert list(pieces.raw) == ["w"]


def test_what_is_left_is_the_same_message() -> None:
    data = model()
    pieces = split(memoryview(data), "m.onnx")
    expected = ModelProto.FromString(data)
    expected.graph.initializer[0].ClearField("raw_data")
    assert ModelProto.FromString(pieces.message) == expected


@pytest.mark.parametrize("cut", [1, 7, 100, 2000])
def test_truncated_message_names_the_byte(cut: int) -> None:
    with pytest.raises(InputError, match=r"m\.onnx, .*(truncated|corrupt|byte)"):
        split(memoryview(model()[:-cut]), "m.onnx")


def test_absurd_length_is_refused_before_anything_is_read() -> None:
    claim = bytes([7 << 3 | 2]) + b"\xff\xff\xff\xff\x7f"  # graph of 34 GB in a file of 6 bytes
    with pytest.raises(InputError, match="ends at byte"):
        split(memoryview(claim), "m.onnx")


def test_two_tensors_of_one_name_are_refused() -> None:
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(LARGE, "w")] * 2)
    data = helper.make_model(graph).SerializeToString()
    with pytest.raises(InputError, match="two tensors have this name"):
        split(memoryview(data), "m.onnx")
