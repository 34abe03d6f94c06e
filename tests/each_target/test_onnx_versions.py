"""Ops as they were in older opsets, against ONNX Runtime: attributes that became inputs, and rules
that changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

R = np.random.default_rng(5)


def f32(*shape: int) -> np.ndarray:
    return R.standard_normal(shape).astype(np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass
class Old:
    """One node at one opset."""

    op: str
    opset: int
    arrays: Mapping[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: Sequence[str] = ("y",)
    weights: Sequence[str] = ()


X = {"x": f32(2, 3, 4)}
IMAGE = {"x": f32(1, 2, 4, 6)}
SCALES = {"scales": np.array([1, 1, 0.5, 1.5], np.float32)}
GROW = {"scales": np.array([1, 1, 2, 3], np.float32)}
OLD = [
    Old("Softmax", 11, X, {"axis": 1}),
    Old("LogSoftmax", 11, X, {"axis": 2}),
    Old("Hardmax", 11, X, {"axis": 1}),
    Old("Clip", 7, X, {"min": -0.5, "max": 0.25}),
    Old("Slice", 9, X, {"starts": [0, 1], "ends": [2, -1], "axes": [1, 2]}),
    Old("Pad", 7, X, {"pads": [0, 1, 0, 0, 0, 2], "value": 3.0}),
    Old("Pad", 10, X, {"pads": [0, 0, 1, 0, 0, 2], "mode": "reflect"}),
    Old("Squeeze", 11, {"x": f32(1, 3, 1)}, {"axes": [0]}),
    Old("Unsqueeze", 11, X, {"axes": [0, 4]}),
    Old("Split", 11, X, {"axis": 2, "split": [1, 3]}, ("a", "b")),
    Old("Split", 11, X, {"axis": 2}, ("a", "b")),
    Old("Split", 13, {**X, "s": i64(1, 3)}, {"axis": 2}, ("a", "b"), ("s",)),
    Old("ReduceSum", 11, X, {"axes": [1], "keepdims": 0}),
    Old("ReduceSum", 13, {**X, "axes": i64(0, 2)}, {}, ("y",), ("axes",)),
    Old("ReduceMean", 13, X, {"axes": [1, 2]}),
    Old("ReduceMax", 12, X, {}),
    Old("ReduceLogSumExp", 13, X, {"axes": [-1]}),
    Old("ArgMax", 11, X, {"axis": 1, "keepdims": 0}),
    Old("TopK", 7, X, {"k": 2, "axis": 2}, ("v", "i")),
    Old("TopK", 10, {**X, "k": i64(2)}, {"axis": 1}, ("v", "i"), ("k",)),
    Old("Dropout", 7, X, {"ratio": 0.5}),
    Old("Upsample", 7, IMAGE, {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "nearest"}),
    Old("Upsample", 9, {**IMAGE, **GROW}, {"mode": "linear"}, ("y",), ("scales",)),
    Old("Resize", 10, {**IMAGE, **GROW}, {"mode": "nearest"}, ("y",), ("scales",)),
    Old("Resize", 10, {**IMAGE, **SCALES}, {"mode": "nearest"}, ("y",), ("scales",)),
    Old("Resize", 10, {**IMAGE, **SCALES}, {"mode": "linear"}, ("y",), ("scales",)),
    Old(
        "BatchNormalization",
        7,
        {**IMAGE, "s": f32(2), "b": f32(2), "m": f32(2), "v": np.abs(f32(2))},
    ),
    Old(
        "BatchNormalization",
        9,
        {**IMAGE, "s": f32(2), "b": f32(2), "m": f32(2), "v": np.abs(f32(2))},
        {"epsilon": 0.01},
    ),
    Old("Gemm", 7, {"a": f32(3, 4), "b": f32(5, 4), "c": f32(5)}, {"transB": 1, "alpha": 0.5}),
    Old("PRelu", 9, {**X, "s": f32(3, 1)}),
    Old("Equal", 7, {"a": i64(1, 2, 3), "b": i64(1, 0, 3)}),
    Old("Pow", 7, {"a": np.abs(f32(3)), "b": f32(3)}),
    Old("Mod", 10, {"a": i64(7, -7, 7), "b": i64(3, 3, -3)}),
    Old("Scatter", 9, {"d": f32(3, 3), "i": i64(2, 0, 1).reshape(1, 3), "u": f32(1, 3)}),
    Old(
        "OneHot",
        9,
        {"i": i64(1, 0, 2), "d": i64(3), "v": np.array([0, 5], np.float32)},
        weights=("d",),
    ),
    Old("CumSum", 11, {**X, "axis": np.array(1, np.int32)}, {"reverse": 1}, weights=("axis",)),
    Old("GRU", 7, {"x": f32(4, 2, 3), "w": f32(1, 15, 3), "r": f32(1, 15, 5)}, {"hidden_size": 5}),
    Old(
        "LSTM",
        7,
        {"x": f32(4, 2, 3), "w": f32(2, 20, 3), "r": f32(2, 20, 5), "b": f32(2, 40)},
        {"hidden_size": 5, "direction": "bidirectional"},
        ("y", "h", "c"),
    ),
    Old(
        "RoiAlign",
        10,
        {
            "x": f32(1, 2, 8, 8),
            "r": np.array([[1, 1, 6, 5], [0, 0, 3, 7]], np.float32),
            "b": i64(0, 0),
        },
        {"output_height": 2, "output_width": 3, "sampling_ratio": 2},
    ),
    Old(
        "RoiAlign",
        16,
        {
            "x": f32(1, 2, 8, 8),
            "r": np.array([[1, 1, 6, 5], [0, 0, 3, 7]], np.float32),
            "b": i64(0, 0),
        },
        {"output_height": 2, "output_width": 3},
        weights=("r",),
    ),
    Old(
        "MaxRoiPool",
        7,
        {"x": f32(1, 2, 8, 8), "r": np.array([[0, 1, 1, 6, 5]], np.float32)},
        {"pooled_shape": [2, 2]},
    ),
    Old("LRN", 7, IMAGE, {"size": 3}),
    Old("InstanceNormalization", 7, {**IMAGE, "s": f32(2), "b": f32(2)}),
    Old("GlobalLpPool", 7, IMAGE, {"p": 3}),
    Old("MaxPool", 8, IMAGE, {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    Old(
        "AveragePool",
        10,
        IMAGE,
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1, "strides": [2, 2]},
    ),
    Old("DepthToSpace", 7, {"x": f32(1, 8, 2, 3)}, {"blocksize": 2}),
    Old(
        "QLinearConv",
        10,
        {
            "x": R.integers(0, 255, (1, 2, 5, 5), np.uint8),
            "sx": np.float32(0.1),
            "zx": np.uint8(120),
            "w": R.integers(0, 255, (3, 2, 3, 3), np.uint8),
            "sw": np.float32(0.05),
            "zw": np.uint8(128),
            "sy": np.float32(0.5),
            "zy": np.uint8(100),
        },
        weights=("sx", "zx", "w", "sw", "zw", "sy", "zy"),
    ),
]


@pytest.mark.parametrize("old", OLD, ids=[f"{o.op}-{o.opset}" for o in OLD])
def test_older_op_agrees_with_onnx_runtime(
    old: Old, one_node: Callable, run_onnx: Callable, run_onnxruntime: Callable
) -> None:
    arrays = {n: np.asarray(a) for n, a in old.arrays.items()}
    options: dict[str, Any] = {"opset": old.opset, "weights": old.weights}
    feeds = {n: a for n, a in arrays.items() if n not in old.weights}
    expected = run_onnxruntime(
        one_node(old.op, arrays, old.outputs, old.attributes, **options), feeds
    )
    types = {n: a.dtype for n, a in zip(old.outputs, expected, strict=True)}
    model = one_node(old.op, arrays, old.outputs, old.attributes, types=types, **options)
    got = run_onnx(model, feeds)
    for have, want in zip(got, expected, strict=True):
        assert (have.dtype, have.shape) == (want.dtype, want.shape)
        atol = 1.01 if want.dtype == np.uint8 else 1e-5
        np.testing.assert_allclose(
            have.astype(np.float64), want.astype(np.float64), atol=atol, rtol=1e-4
        )
