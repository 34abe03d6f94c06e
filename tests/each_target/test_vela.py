"""ethos-u…:vela: a convolutional network quantised and compiled, with Arm's own cycles."""

from __future__ import annotations

import csv
import importlib.util
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anychip.compilers.cache import Cache
from anychip.compilers.vela.target import VelaTarget
from anychip.core import (
    Argument,
    CompileError,
    CompileOptions,
    InputError,
    Module,
    Target,
    UnsupportedError,
    UsageError,
    Weights,
    discover,
)
from anychip.frontends.trace import to_module

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None or importlib.util.find_spec("tensorflow") is None,
    reason="ethos-u-vela and tensorflow-cpu (extra ethos-u) are not installed",
)

OPTIONS = CompileOptions()


def _network(w1, w2, wf, x):
    numbers = ("NCHW", "OIHW", "NCHW")
    x = jax.lax.conv_general_dilated(x, w1, (2, 2), "SAME", dimension_numbers=numbers)
    x = jnp.maximum(x, 0)
    y = jax.lax.conv_general_dilated(x, w2, (1, 1), "SAME", dimension_numbers=numbers)
    x = jnp.maximum(x + y, 0)
    return jax.nn.softmax(jnp.mean(x, axis=(2, 3)) @ wf)


@pytest.fixture(scope="module")
def network() -> Module:
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "wf": (16, 10)}
    weights = {n: (rng.standard_normal(s) * 0.2).astype(np.float32) for n, s in shapes.items()}
    arguments = [Argument(n, s, "f32", "weight") for n, s in shapes.items()]
    arguments.append(Argument("x", (1, 3, 32, 32), "f32"))
    module = to_module(_network, arguments, name="small", result_names=["y"])
    return module.with_weights(Weights.from_arrays(weights))


@pytest.fixture(scope="module")
def made(network, tmp_path_factory):
    chip = discover().chip("ethos-u55")
    target = chip.target("vela")
    assert isinstance(target, VelaTarget)
    kept = VelaTarget(target.name, target.configuration, Cache(tmp_path_factory.mktemp("vela")))
    return kept, kept.compile(network, OPTIONS)


def test_the_network_becomes_a_file_for_the_npu(made):
    target, executable = made
    assert isinstance(target, Target)
    assert not target.runs
    assert executable.artifacts["vela.tflite"][4:8] == b"TFL3"  # the file identifier of TFLite
    assert b"ethos-u" in executable.artifacts["vela.tflite"]
    coverage = executable.coverage
    assert coverage.count("native") == coverage.total > 0
    assert {"tflite.Conv2D", "tflite.Softmax"} <= {row.op for row in coverage.rows}
    with pytest.raises(UnsupportedError, match="no Ethos-U"):
        executable.run()


def test_the_trace_has_velas_cycles(made):
    _, executable = made
    trace = executable.trace()
    (summary,) = csv.DictReader(io.StringIO(executable.artifacts["summary.csv"]))
    clock = discover().chip("ethos-u55").spec.clock_hz
    assert clock is not None
    assert float(summary["core_clock"]) == clock.value
    assert trace.kind == "estimated"
    assert trace.seconds == pytest.approx(float(summary["cycles_total"]) / clock.value, rel=0.1)
    products = 2 * (16 * 16 * 16 * 27 + 16 * 16 * 16 * 144)
    assert products <= sum(s.flops or 0 for s in trace.spans) < 1.2 * products
    peak = discover().chip("ethos-u55").spec.matmul_flops_per_s["i8"].value
    assert trace.seconds > products / peak


def test_the_int8_numbers_are_near_the_networks(made):
    _, executable = made
    quality = json.loads(executable.artifacts["int8.json"])
    assert quality["calibrated_on"] == "standard normals"
    assert 15 < quality["sqnr_db"]["y"] < 80


def test_weights_calibration_and_types_it_cannot_use_are_refused(made, network, tmp_path):
    target, _ = made
    with pytest.raises(InputError, match="needs the weights' values"):
        target.compile(Module.from_mlir(network.bytecode, signature=network.signature), OPTIONS)
    np.savez(tmp_path / "bad.npz", z=np.zeros((2, 1, 3, 32, 32), np.float32))
    with pytest.raises(UsageError, match=r"array .samples, …. for each of x"):
        target.compile(network, CompileOptions(extra={"calibration": str(tmp_path / "bad.npz")}))
    with pytest.raises(UsageError, match="no option of"):
        target.compile(network, CompileOptions(extra={"optimise": "Size"}))
    half = to_module(
        lambda x: x + x, [Argument("x", (4,), "bf16")], name="half", result_names=["y"]
    )
    with pytest.raises(UnsupportedError, match="x is bf16"):
        target.compile(half, OPTIONS)


def test_what_the_converter_cannot_make_is_a_verdict_with_its_log(made):
    target, _ = made
    odd = to_module(
        lambda x: jax.lax.population_count(x.astype(jnp.int32)).astype(jnp.float32),
        [Argument("x", (4, 4), "f32")],
        name="odd",
        result_names=["y"],
    )
    with pytest.raises(CompileError, match="cannot make odd an int8 TFLite file") as caught:
        target.compile(odd, OPTIONS)
    assert "PopulationCount" in caught.value.log


def test_another_ethos_u_takes_the_same_quantised_file(made, network, monkeypatch):
    kept, executable = made

    def never(*_, **__):
        raise AssertionError("quantised again")

    monkeypatch.setattr("anychip.compilers.vela.target.child.run", never)
    other = discover().chip("ethos-u65").target("vela")
    again = VelaTarget(other.name, other.configuration, kept.cache).compile(network, OPTIONS)
    assert again.artifacts["model.tflite"] == executable.artifacts["model.tflite"]
    assert again.artifacts["vela.tflite"] != executable.artifacts["vela.tflite"]
