"""…:qnn: a small network becomes a context binary for Hexagon; what QNN leaves is in the ledger."""

import importlib.util
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anychip.compilers.cache import Cache
from anychip.compilers.qnn import Soc
from anychip.compilers.qnn.target import QnnTarget
from anychip.compilers.toolchains import QNN
from anychip.core import Argument, CompileOptions, InputError, UnsupportedError, UsageError, Weights
from anychip.frontends.trace import to_module

pytestmark = pytest.mark.skipif(
    QNN.installed is None or importlib.util.find_spec("onnxruntime") is None,
    reason="onnxruntime-qnn is not installed in its folder (see anychip doctor)",
)
SHAPES = {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "wf": (16, 10)}


def network(w1, w2, wf, x):
    numbers = ("NCHW", "OIHW", "NCHW")
    x = jax.lax.conv_general_dilated(x, w1, (2, 2), "SAME", dimension_numbers=numbers)
    x = jnp.maximum(x, 0)
    y = jax.lax.conv_general_dilated(x, w2, (1, 1), "SAME", dimension_numbers=numbers)
    return jax.nn.softmax(jnp.mean(jnp.maximum(x + y, 0), axis=(2, 3)) @ wf)


def module_of(function):
    rng = np.random.default_rng(0)
    weights = {n: (rng.standard_normal(s) * 0.2).astype(np.float32) for n, s in SHAPES.items()}
    arguments = [Argument(n, s, "f32", "weight") for n, s in SHAPES.items()]
    arguments.append(Argument("x", (1, 3, 32, 32), "f32"))
    made = to_module(function, arguments, name="small", result_names=["y"])
    return made.with_weights(Weights.from_arrays(weights))


def test_a_network_compiles_and_is_found_again(tmp_path):
    target = QnnTarget("hexagon:qnn", Soc(60, 73), cache=Cache(tmp_path))
    module = module_of(network)
    made = target.compile(module, CompileOptions())
    assert len(made.artifacts["context.onnx"]) > 10_000
    assert "finalize" in made.artifacts["profile.csv"]
    assert made.coverage.count("native") == made.coverage.total > 3
    assert {row.op for row in made.coverage.rows} >= {"onnx.Conv", "onnx.Softmax"}
    again = target.compile(module, CompileOptions(timeout_s=0.5))  # too short to compile anew
    assert again.artifacts["context.onnx"] == made.artifacts["context.onnx"]
    with pytest.raises(UnsupportedError, match="no Hexagon"):
        made.run(np.ones((1, 3, 32, 32), np.float32))
    with pytest.raises(UnsupportedError, match="no times"):
        made.trace()


def test_what_qnn_leaves_is_in_the_ledger():
    def odd(w1, w2, wf, x):
        y = network(w1, w2, wf, x)
        return jnp.cumsum(jnp.sinh(y) + jnp.mod(y, 0.3), axis=1)

    made = QnnTarget("hexagon:qnn", Soc(60, 73)).compile(module_of(odd), CompileOptions())
    left = [row for row in made.coverage.rows if row.fate == "fallback"]
    assert {row.op for row in left} >= {"onnx.Mod", "onnx.Sinh"}
    assert all(row.falls_back_to == "the CPU beside the NPU" for row in left)
    assert made.coverage.count("native") > made.coverage.count("fallback")


def test_what_cannot_be_is_said():
    target = QnnTarget("hexagon:qnn", Soc(60, 73))
    module = module_of(network)
    with pytest.raises(UsageError, match="option of"):
        target.compile(module, CompileOptions(extra={"precision": "i8"}))
    with pytest.raises(UsageError, match="threads"):
        target.compile(module, CompileOptions(threads=1))
    with pytest.raises(InputError, match="needs the weights' values"):
        target.compile(replace(module, weights=Weights()), CompileOptions())
