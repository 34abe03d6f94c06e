"""rk…:rknn: a small network compiles for a Rockchip NPU and its simulator gives the numbers."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anychip.compilers import child
from anychip.compilers.cache import Cache
from anychip.compilers.rknn.job import build
from anychip.compilers.rknn.target import Layer, RknnTarget, layers
from anychip.compilers.toolchains import RKNN
from anychip.core import Argument, CompileOptions, InputError, Module, UsageError, Weights
from anychip.frontends.trace import to_module
from anychip.ops.interp import evaluate

needs_toolkit = pytest.mark.skipif(
    RKNN.installed is None or importlib.util.find_spec("onnx") is None,
    reason="rknn-toolkit2 is not installed in its folder (see anychip doctor)",
)
SHAPES = {"w1": (16, 3, 3, 3), "wf": (16, 10)}
AT = "D RKNN: [21:09:23.952]"
LOG = "\n".join(
    [
        f"{AT}                Network Layer Information Table",
        f"{AT} ID OpType DataType Target InputShape OutputShape Cycles(DDR/NPU/Total) RW FullName",
        f"{AT} 0  InputOperator FLOAT16  CPU  \\ (1,3,32,32)  0/0/0  0  InputOperator:x",
        f"{AT} 1  ConvRelu  FLOAT16  NPU  (1,3,32,32),(16,3,3,3)  (1,16,16,16)  704/2304/2304  8"
        "  Conv:small/Conv_5",
        f"{AT} 7  Reshape  FLOAT16  CPU  (1,10,1,1),(2)  (1,10)  0/0/0  0  Reshape:MatMul_18_rs  ",
    ]
)

MESSY = """
from pathlib import Path

class RKNN:
    def __init__(self, verbose): pass
    def config(self, target_platform): return 0
    def load_onnx(self, model): return 0
    def build(self, do_quantization): return Path("check0_base_optimize.onnx").write_text("") * 0
    def export_rknn(self, path): return Path(path).write_text("made") * 0
    def release(self): pass
"""
"""A toolkit that writes where it works, as RKNN-Toolkit2 does."""


def network(w1, wf, x):
    numbers = ("NCHW", "OIHW", "NCHW")
    x = jax.lax.conv_general_dilated(x, w1, (2, 2), "SAME", dimension_numbers=numbers)
    return jax.nn.softmax(jnp.mean(jnp.maximum(x, 0), axis=(2, 3)) @ wf)


@pytest.fixture(scope="module")
def module():
    rng = np.random.default_rng(0)
    weights = {n: (rng.standard_normal(s) * 0.2).astype(np.float32) for n, s in SHAPES.items()}
    arguments = [Argument(n, s, "f32", "weight") for n, s in SHAPES.items()]
    arguments.append(Argument("x", (1, 3, 32, 32), "f32"))
    made = to_module(network, arguments, name="small", result_names=["y"])
    return made.with_weights(Weights.from_arrays(weights))


def test_the_table_of_layers_is_read():
    assert [*layers(f"earlier\n{LOG}")] == [
        Layer("ConvRelu", "NPU", (704, 2304, 2304), "small/Conv_5"),
        Layer("Reshape", "CPU", (0, 0, 0), "MatMul_18_rs"),
    ]


def test_what_the_toolkit_leaves_lying_does_not_lie_with_the_user(tmp_path, monkeypatch):
    work, model, packages = (tmp_path / name for name in ("work", "model", "packages"))
    for folder in (work, model, packages / "rknn"):
        folder.mkdir(parents=True)
    (packages / "rknn" / "__init__.py").touch()
    (packages / "rknn" / "api.py").write_text(MESSY)
    monkeypatch.chdir(work)
    arguments = (str(packages), str(model / "model.onnx"), "rk3588")
    made = child.run(build, *arguments, timeout_s=60, what="a messy toolkit")
    assert made["rknn"] == b"made"
    assert not [*work.iterdir()]


@needs_toolkit
def test_a_network_compiles_and_its_simulator_agrees(module, tmp_path):
    target = RknnTarget("rk3588:rknn", "rk3588", 1e9, cache=Cache(tmp_path))
    made = target.compile(module, CompileOptions())
    assert made.artifacts["model.rknn"][:4] == b"RKNN"
    fates = {row.op: row.fate for row in made.coverage.rows}
    assert fates["rknn.ConvRelu"] == "native"
    assert {r.falls_back_to for r in made.coverage.rows if r.fate == "fallback"} <= {
        "the CPU beside the NPU"
    }
    trace = made.trace()
    assert trace.kind == "estimated"
    assert 1e-7 < sum(span.seconds for span in trace.spans) < 1e-3
    x = np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)
    (got,) = made.run(x)
    (want,) = evaluate(module, *(module.weights[n].array() for n in SHAPES), x)
    want = np.asarray(want)
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < made.tolerance
    assert not np.array_equal(got, want)  # it is f16
    again = target.compile(module, CompileOptions(timeout_s=0.5))  # too short to compile anew
    assert again.artifacts["model.rknn"] == made.artifacts["model.rknn"]


@needs_toolkit
def test_what_cannot_be_is_said(module):
    target = RknnTarget("rk3588:rknn", "rk3588", 1e9)
    with pytest.raises(UsageError, match="option of"):
        target.compile(module, CompileOptions(extra={"precision": "i8"}))
    with pytest.raises(InputError, match="needs the weights"):
        target.compile(
            Module.from_mlir(module.bytecode, signature=module.signature), CompileOptions()
        )
