"""A few random ONNX graphs against ONNX Runtime; `tools/random_onnx.py` runs as many as asked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
sys.path.append(str(Path(__file__).parents[2] / "tools"))
import random_onnx


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_nodes_agree_with_onnx_runtime(seed: int) -> None:
    graph, nodes = random_onnx.random_graph(seed, 8)
    assert random_onnx.disagreement(graph, nodes) == ""
