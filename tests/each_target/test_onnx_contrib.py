"""Ops of com.microsoft and ai.onnx.ml against ONNX Runtime, one node a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

MS, ML = "com.microsoft", "ai.onnx.ml"
R = np.random.default_rng(7)


def f32(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (R.standard_normal(shape) * scale).astype(np.float32)


def u8(*shape: int) -> np.ndarray:
    return R.integers(0, 256, shape, np.uint8)


def scalar(value: Any, kind: Any = np.float32) -> np.ndarray:
    return np.array(value, kind)


@dataclass
class Node:
    """One node and its inputs; `weights` are initializers, `fixed` are known while loading."""

    op: str
    arrays: Mapping[str, Any]
    outputs: Sequence[str] = ("y",)
    domain: str = MS
    weights: Sequence[str] = ()
    fixed: Sequence[str] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    atol: float = 2e-5
    name: str = ""


def rotary_tables(length: int, half: int) -> dict[str, np.ndarray]:
    angle = np.arange(length)[:, None] * 10000.0 ** (-np.arange(half) / half)
    return {"cos": np.cos(angle).astype(np.float32), "sin": np.sin(angle).astype(np.float32)}


def grouped_query(past: int, length: int, total: int, lasts: Sequence[int], **more: Any) -> Node:
    """GroupQueryAttention with 4 query heads on 2 key heads of 8 (16 with rotary)."""
    width = 16
    batch = len(lasts)
    cache = {n: f32(batch, 2, past, width) for n in ("past_k", "past_v")}
    for row, last in enumerate(lasts):  # what lies behind a sequence is anybody's
        for one in cache.values():
            one[row, :, max(last + 1 - length, 0) :] = 0
    arrays = {
        "q": f32(batch, length, 4 * width),
        "k": f32(batch, length, 2 * width),
        "v": f32(batch, length, 2 * width),
        **cache,
        "last": np.array(lasts, np.int32),
        "total": np.array([total], np.int32).reshape(()),
    }
    if more.get("do_rotary"):
        arrays |= rotary_tables(64, width // 2)
    return Node(
        "GroupQueryAttention",
        arrays,
        ("y", "k2", "v2"),
        weights=("total",),
        attributes={"num_heads": 4, "kv_num_heads": 2, **more},
    )


def n_bits(bits: int, block: int, k: int, n: int, *, zero: bool, float_zero: bool = False) -> Node:
    blocks = -(-k // block)
    arrays: dict[str, Any] = {
        "a": f32(3, k),
        "w": u8(n, blocks, block * bits // 8),
        "s": f32(n * blocks, scale=0.1),
    }
    if zero:
        arrays["z"] = u8(n * (-(-blocks * bits // 8)))
    if float_zero:
        arrays["z"] = np.abs(f32(n * blocks))
    return Node(
        "MatMulNBits",
        arrays,
        weights=tuple(n for n in arrays if n != "a"),
        attributes={"K": k, "N": n, "bits": bits, "block_size": block},
        atol=2e-3,
        name=f"{bits}bits",
    )


def q_pair(op: str) -> Node:
    return Node(
        op,
        {
            "a": u8(2, 5),
            "sa": scalar(0.02),
            "za": scalar(120, np.uint8),
            "b": u8(2, 5),
            "sb": scalar(0.03),
            "zb": scalar(130, np.uint8),
            "sy": scalar(0.05),
            "zy": scalar(110, np.uint8),
        },
        atol=1.01,
    )


def q_one(op: str, shape: Sequence[int] = (2, 5), /, **attributes: Any) -> Node:
    arrays = {"x": u8(*shape), "sx": scalar(0.02), "zx": scalar(128, np.uint8)}
    arrays |= {"sy": scalar(0.004), "zy": scalar(0, np.uint8)}
    weights = ("sx", "zx", "sy", "zy")
    return Node(op, arrays, weights=weights, attributes=attributes, atol=1.01)


def tree(kind: str) -> Node:
    """Two trees over three features."""
    common: dict[str, Any] = {
        "nodes_treeids": [0, 0, 0, 1, 1, 1, 1, 1],
        "nodes_nodeids": [0, 1, 2, 0, 1, 2, 3, 4],
        "nodes_featureids": [0, 0, 0, 2, 0, 1, 0, 0],
        "nodes_values": [0.1, 0.0, 0.0, -0.2, 0.0, 0.4, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "BRANCH_GT"]
        + ["LEAF"] * 2,
        "nodes_truenodeids": [1, 0, 0, 1, 0, 3, 0, 0],
        "nodes_falsenodeids": [2, 0, 0, 2, 0, 4, 0, 0],
        "post_transform": "NONE",
    }
    prefix = "target" if kind == "TreeEnsembleRegressor" else "class"
    common |= {
        f"{prefix}_treeids": [0, 0, 1, 1, 1],
        f"{prefix}_nodeids": [1, 2, 1, 3, 4],
        f"{prefix}_ids": [0, 1, 0, 1, 2],
        f"{prefix}_weights": [0.5, 1.5, 0.25, 2.0, 3.0],
    }
    if prefix == "target":
        return Node(kind, {"x": f32(9, 3)}, domain=ML, attributes=common | {"n_targets": 3})
    more = {"classlabels_int64s": [4, 5, 9]}
    return Node(kind, {"x": f32(9, 3)}, ("y", "p"), domain=ML, attributes=common | more)


HIDDEN = 16
NODES = [
    Node(
        "SkipLayerNormalization",
        {"x": f32(2, 3, 8), "s": f32(2, 3, 8), "g": f32(8), "b": f32(8), "c": f32(8)},
        ("y", "", "", "sum"),
        weights=("g", "b", "c"),
        attributes={"epsilon": 1e-5},
    ),
    Node(
        "SkipSimplifiedLayerNormalization",
        {"x": f32(2, 3, 8), "s": f32(2, 3, 8), "g": f32(8)},
        ("y", "", "", "sum"),
        weights=("g",),
        attributes={"epsilon": 1e-6},
    ),
    Node(
        "EmbedLayerNormalization",
        {
            "ids": R.integers(0, 9, (2, 3)).astype(np.int32),
            "seg": R.integers(0, 2, (2, 3)).astype(np.int32),
            "words": f32(9, 8),
            "places": f32(5, 8),
            "kinds": f32(2, 8),
            "g": f32(8),
            "b": f32(8),
        },
        ("y", "count"),
    ),
    Node("Gelu", {"x": f32(3, 5)}),
    Node("BiasGelu", {"x": f32(3, 5), "b": f32(5)}),
    Node("FastGelu", {"x": f32(3, 5), "b": f32(5)}),
    Node("QuickGelu", {"x": f32(3, 5)}, attributes={"alpha": 1.5}),
    Node(
        "FusedMatMul",
        {"a": f32(2, 4, 3), "b": f32(2, 5, 4)},
        attributes={"transA": 1, "transB": 1, "alpha": 0.5},
    ),
    Node(
        "FusedMatMul",
        {"a": f32(4, 2, 3), "b": f32(2, 3, 5)},
        attributes={"transBatchA": 1},
        name="batch",
    ),
    Node(
        "FusedConv",
        {"x": f32(1, 2, 5, 5), "w": f32(3, 2, 3, 3), "b": f32(3)},
        attributes={"activation": "LeakyRelu", "activation_params": [0.2], "pads": [1, 1, 1, 1]},
    ),
    Node("Inverse", {"x": f32(2, 4, 4)}, atol=1e-3),
    Node("ExpandDims", {"x": f32(2, 4), "axis": scalar(1, np.int32)}, weights=("axis",)),
    Node(
        "RotaryEmbedding",
        {
            "x": f32(2, 3, 32),
            "p": np.array([[0, 1, 2], [5, 6, 7]], np.int64),
            **rotary_tables(16, 8),
        },
        attributes={},
    ),
    Node(
        "RotaryEmbedding",
        {"x": f32(2, 2, 3, 16), "p": np.array([4], np.int64), **rotary_tables(16, 8)},
        attributes={"interleaved": 1},
        name="interleaved",
    ),
    Node(
        "MultiHeadAttention",
        {"q": f32(2, 3, HIDDEN), "k": f32(2, 5, HIDDEN), "v": f32(2, 5, HIDDEN)},
        attributes={"num_heads": 4},
    ),
    Node(
        "MultiHeadAttention",
        {
            "q": f32(2, 3, HIDDEN),
            "k": f32(2, 3, HIDDEN),
            "v": f32(2, 3, HIDDEN),
            "bias": f32(3 * HIDDEN),
            "mask": None,
            "ab": f32(1, 4, 3, 7),
            "pk": f32(2, 4, 4, 4),
            "pv": f32(2, 4, 4, 4),
        },
        ("y", "k2", "v2"),
        attributes={"num_heads": 4},
        name="past",
    ),
    Node(
        "Attention",
        {"x": f32(2, 3, 8), "w": f32(8, 48), "b": f32(48)},
        attributes={"num_heads": 4, "unidirectional": 1},
    ),
    Node(
        "Attention",
        {
            "x": f32(2, 3, 8),
            "w": f32(8, 48),
            "b": f32(48),
            "mask": np.array([[1, 1, 1], [1, 1, 0]], np.int32),
        },
        attributes={"num_heads": 4},
        name="masked",
        atol=1e-3,
    ),
    grouped_query(0, 5, 5, [4, 4]),
    grouped_query(8, 1, 8, [6, 7], do_rotary=1),
    grouped_query(8, 1, 8, [3, 7], local_window_size=3, softcap=5.0),
    grouped_query(12, 2, 9, [8], do_rotary=1, rotary_interleaved=1, scale=0.2),
    n_bits(4, 32, 64, 5, zero=False),
    n_bits(4, 32, 80, 5, zero=True),
    n_bits(8, 32, 64, 4, zero=False),
    n_bits(4, 16, 48, 6, zero=False, float_zero=True),
    Node(
        "MatMulIntegerToFloat",
        {
            "a": u8(3, 4),
            "b": u8(4, 5),
            "sa": scalar(0.1),
            "sb": scalar(0.2),
            "za": scalar(3, np.uint8),
            "zb": scalar(7, np.uint8),
            "bias": f32(5),
        },
        atol=1e-3,
    ),
    Node(
        "DynamicQuantizeMatMul",
        {"a": f32(3, 4), "b": u8(4, 5), "sb": scalar(0.2), "zb": scalar(9, np.uint8)},
        weights=("b", "sb", "zb"),
        atol=1e-3,
    ),
    Node(
        "QGemm",
        {
            "a": u8(3, 4),
            "sa": scalar(0.02),
            "za": scalar(128, np.uint8),
            "b": u8(4, 5),
            "sb": scalar(0.03),
            "zb": scalar(128, np.uint8),
            "c": R.integers(-9, 9, 5).astype(np.int32),
            "sy": scalar(0.1),
            "zy": scalar(128, np.uint8),
        },
        weights=("sa", "za", "b", "sb", "zb", "c", "sy", "zy"),
        atol=1.01,
    ),
    q_pair("QLinearAdd"),
    q_pair("QLinearMul"),
    q_one("QLinearSigmoid"),
    q_one("QLinearLeakyRelu", alpha=0.2),
    q_one("QLinearGlobalAveragePool", (1, 3, 4, 4)),
    q_one("QLinearAveragePool", (1, 3, 4, 4), kernel_shape=[2, 2]),
    q_one("QLinearSoftmax", opset=13),
    Node(
        "QLinearConcat",
        {
            "sy": scalar(0.05),
            "zy": scalar(3, np.uint8),
            "a": u8(2, 3),
            "sa": scalar(0.02),
            "za": scalar(1, np.uint8),
            "b": u8(2, 4),
            "sb": scalar(0.03),
            "zb": scalar(2, np.uint8),
        },
        weights=("sy", "zy", "sa", "za", "sb", "zb"),
        attributes={"axis": 1},
        atol=1.01,
    ),
    tree("TreeEnsembleRegressor"),
    tree("TreeEnsembleClassifier"),
    Node(
        "LinearClassifier",
        {"x": f32(4, 2)},
        ("y", "p"),
        domain=ML,
        attributes={
            "coefficients": [0.5, -1.0, 0.2, 0.3, 1.0, -0.4],
            "intercepts": [0.1, 0.0, -0.1],
            "classlabels_ints": [1, 5, 7],
            "post_transform": "SOFTMAX",
        },
    ),
    Node(
        "LinearRegressor",
        {"x": f32(4, 2)},
        domain=ML,
        attributes={"coefficients": [0.5, -1.0], "intercepts": [0.1], "targets": 1},
    ),
    Node("Scaler", {"x": f32(4, 2)}, domain=ML, attributes={"offset": [1.0, 2], "scale": [2.0, 3]}),
    *(
        Node("Normalizer", {"x": f32(4, 3)}, domain=ML, attributes={"norm": norm}, name=norm)
        for norm in ("MAX", "L1", "L2")
    ),
    Node(
        "Imputer",
        {"x": np.array([[1, np.nan], [np.nan, 4]], np.float32)},
        domain=ML,
        attributes={"imputed_value_floats": [7.0, 8.0], "replaced_value_float": float("nan")},
    ),
    Node(
        "OneHotEncoder",
        {"x": np.array([3, 5, 9], np.int64)},
        domain=ML,
        attributes={"cats_int64s": [5, 3], "zeros": 1},
    ),
]


@pytest.mark.parametrize("node", NODES, ids=[f"{n.op}-{n.name}".strip("-") for n in NODES])
def test_node_agrees_with_onnx_runtime(
    node: Node, one_node: Callable, run_onnx: Callable, run_onnxruntime: Callable
) -> None:
    def model(types: Mapping[str, np.dtype] | None = None) -> bytes:
        return one_node(
            node.op,
            node.arrays,
            node.outputs,
            node.attributes,
            domain=node.domain,
            weights=node.weights,
            types=types,
        )

    feeds = {n: a for n, a in node.arrays.items() if a is not None and n not in node.weights}
    expected = run_onnxruntime(model(), feeds)
    names = [o for o in node.outputs if o]
    types = {n: a.dtype for n, a in zip(names, expected, strict=True)}
    got = run_onnx(model(types), feeds)
    assert len(got) == len(expected)
    for have, want in zip(got, expected, strict=True):
        assert have.dtype == want.dtype
        np.testing.assert_allclose(
            have.astype(np.float64), want.astype(np.float64), atol=node.atol, rtol=1e-4
        )
