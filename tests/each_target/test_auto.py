"""cpu:auto: the fastest that is exact enough, with its evidence; wrong and slow ones lose."""

import json
import time
from importlib.util import find_spec

import numpy as np
import pytest

from anychip.compilers.auto import AutoTarget
from anychip.compilers.contest import Entrant, contest, distance
from anychip.core import CompileError, CompileOptions, Module, SetupError, UsageError, discover

TEXT = """func.func @main(%x: tensor<64x64xf32>) -> tensor<64x64xf32> {
  %0 = stablehlo.dot_general %x, %x, contracting_dims = [1] x [0]
    : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32>
  return %0 : tensor<64x64xf32>
}"""


def slowly(x):
    time.sleep(0.02)
    return [x + x]


def test_a_fast_wrong_program_loses_to_a_slow_right_one():
    entrants = [
        Entrant("xla", slowly),
        Entrant("wrong", lambda x: [x * 2.1]),
        Entrant("right", lambda x: [2 * x]),
    ]
    outcome = contest(entrants, [np.ones(4, np.float32)], reference="xla", seconds=0.1)
    assert outcome.fastest == "right"
    assert "differs by 0.05" in outcome.rows["wrong"].failure
    assert outcome.rows["wrong"].samples_s == []
    loose = contest(entrants[:2], [np.ones(4, np.float32)], reference="xla", tolerance=0.1)
    assert loose.fastest == "wrong"


def scripted(clock, **seconds):
    """Entrants whose runs take what their lists say, in turn, on a clock that is moved along."""

    def entrant(name, took):
        turns = iter(range(1_000_000))

        def run(x):
            clock[0] += took[next(turns) % len(took)]
            return [x]

        return Entrant(name, run)

    return [entrant(name, took) for name, took in seconds.items()]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("anychip.compilers.contest.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("anychip.compilers.contest.time.sleep", lambda s: None)
    return now


def test_a_program_whose_threads_often_stall_loses_to_a_steady_one(clock):
    stalls = scripted(clock, stalls=[0.009, 0.0045, 0.009], steady=[0.005])
    assert contest(stalls, [np.ones(2)]).fastest == "steady"


def test_of_those_not_told_apart_the_first_is_taken_and_who_is_behind_drops_out(clock):
    equal = scripted(clock, first=[0.0051, 0.005], second=[0.005, 0.0051], behind=[0.007])
    outcome = contest(equal, [np.ones(2)])
    assert outcome.fastest == "first"
    bursts = {name: len(row.bursts_s) for name, row in outcome.rows.items()}
    assert bursts["behind"] == 7 < bursts["first"]
    told = scripted(clock, first=[0.00505], second=[0.005])
    assert contest(told, [np.ones(2)]).fastest == "second"
    unsure = scripted(clock, first=[0.0052], second=[0.005] * 60 + [0.0058] * 40)
    assert contest(unsure, [np.ones(2)]).fastest == "first"  # 4 % ahead, in some rounds only


def test_distance_sees_shapes_nans_and_integers():
    one = np.ones(3)
    assert distance([one], [one]) == 0
    assert distance([one * 1.5], [one]) == 0.5
    assert distance([one], [one[:2]]) == np.inf
    assert distance([np.array([np.nan])], [np.array([1.0])]) == np.inf
    assert distance([np.array([np.nan])], [np.array([np.nan])]) == 0
    assert distance([np.array([1])], [np.array([2])]) == np.inf


def test_what_the_caller_has_compiled_is_not_compiled_again():
    class Counted:
        name, runs, toolchain, asked = "cpu:xla", True, "xla 1", 0

        def compile(self, module, options):
            Counted.asked += 1
            return discover().target("cpu:xla").compile(module, options)

    module = Module.from_mlir(TEXT)
    target = AutoTarget({"xla": Counted})
    ready = {"cpu:xla": Counted().compile(module, CompileOptions())}
    inputs = [np.ones([int(d) for d in a.shape], np.float32) for a in module.signature.arguments]
    made = target.given(ready).compile(module, CompileOptions())
    made.run(*inputs)
    assert Counted.asked == 1
    target.compile(module, CompileOptions())
    assert Counted.asked == 2


def makers():
    def absent():
        raise SetupError("not here")

    registry = discover()
    return {"xla": lambda: registry.target("cpu:xla"), "absent": absent}


def test_the_choice_and_its_evidence_are_kept(tmp_path):
    target = AutoTarget(makers(), tmp_path)
    module = Module.from_mlir(TEXT)
    options = CompileOptions(extra={"seconds": "0.1"})
    executable = target.compile(module, options)
    assert json.loads(executable.artifacts["evidence"])["chosen"] is None
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    (got,) = executable.run(x)
    np.testing.assert_allclose(np.asarray(got), x @ x, rtol=1e-3, atol=1e-3)
    evidence = json.loads(executable.artifacts["evidence"])
    assert evidence["chosen"] == "xla"
    assert evidence["not_compiled"] == {"absent": "not here"}
    assert len(evidence["entrants"]["xla"]["samples_s"]) >= 3
    again = target.compile(module, options)
    assert json.loads(again.artifacts["evidence"]) == evidence
    for file in tmp_path.iterdir():
        file.write_text("{broken")
    assert json.loads(target.compile(module, options).artifacts["evidence"])["chosen"] is None


def test_what_rounds_more_than_the_tolerance_is_not_even_compiled():
    def never():
        class Coarse:
            toolchain = "coarse"

            def compile(self, module, options):
                raise AssertionError("compiled")

        return Coarse()

    target = AutoTarget({**makers(), "coarse": never}, None, {"coarse": 2e-3})
    executable = target.compile(Module.from_mlir(TEXT), CompileOptions(extra={"seconds": "0.1"}))
    executable.run(np.ones((64, 64), np.float32))
    evidence = json.loads(executable.artifacts["evidence"])
    assert evidence["not_compiled"]["coarse"] == "rounds by up to 0.002, tolerance is 0.001"


def test_a_wide_tolerance_lets_bf16_take_part():
    if find_spec("openvino") is None:  # importing it here would start its telemetry, a fork
        pytest.skip("OpenVINO is not installed")
    registry = discover()
    target = registry.target("cpu:auto")
    assert target.finest["openvino-bf16"] > 1e-3
    only = {how: target.makers[how] for how in ("xla", "openvino-bf16")}
    target = AutoTarget(only, None, target.finest)
    options = CompileOptions(extra={"seconds": "0.1", "tolerance": "0.05"})
    executable = target.compile(Module.from_mlir(TEXT), options)
    executable.run(np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32))
    row = json.loads(executable.artifacts["evidence"])["entrants"]["openvino-bf16"]
    assert row["failure"] is None
    assert row["samples_s"]


def test_what_cannot_be_is_said():
    module = Module.from_mlir(TEXT)
    with pytest.raises(UsageError, match="tolerance must be a number above 0"):
        AutoTarget(makers()).compile(module, CompileOptions(extra={"tolerance": "much"}))
    with pytest.raises(UsageError, match="Did you mean 'tolerance'"):
        AutoTarget(makers()).compile(module, CompileOptions(extra={"tolerence": "1"}))
    with pytest.raises(CompileError, match="absent: not here"):
        AutoTarget({"absent": makers()["absent"]}).compile(module, CompileOptions())


def test_a_torch_model_runs_through_auto(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from anychip.frontends.torch import optimize

    monkeypatch.setenv("ANYCHIP_HOME", str(tmp_path))
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU()).eval()
    fast = optimize(model, target="cpu:auto", options=CompileOptions(extra={"seconds": "0.1"}))
    x = torch.randn(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert [*(tmp_path / "auto").glob("*.json")]


def test_bench_times_targets_and_the_runtimes_on_the_file(tmp_path):
    """The verb, on a small ONNX file; a target that cannot be is a row, not an end."""
    import onnx
    from onnx import TensorProto, helper
    from typer.testing import CliRunner

    from anychip.cli.app import application

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [value("x", TensorProto.FLOAT, [4, 8])],
        [value("y", TensorProto.FLOAT, [4, 8])],
    )
    path = tmp_path / "relu.onnx"
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    arguments = ["bench", str(path), "-t", "cpu:xla", "-t", "cpu:onnxruntime", "--seconds", "0.1"]
    done = CliRunner().invoke(application(), [*arguments, "-f", "json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    names = [row["name"].partition(" ")[0] for row in document["rows"]]
    assert names == ["cpu:xla", "cpu:onnxruntime", "onnxruntime", "openvino"]
    assert document["not_compiled"]["torch"] == "PyTorch does not run ONNX files"
    assert all(row["max_error"] == 0 and row["median_s"] > 0 for row in document["rows"])


def test_beside_a_torch_file_stands_torch_and_beside_others_a_reason(tmp_path):
    torch = pytest.importorskip("torch")
    from anychip.api import load
    from anychip.cli.bench_peers import peers

    path = tmp_path / "net.pt2"
    x = torch.randn(2, 4)
    torch.export.save(torch.export.export(torch.nn.Linear(4, 3).eval(), (x,)), path)
    module = load(path)
    found = peers(str(path), module, [x.numpy()])
    assert ["compile" in name for name in found.makers] == [False, True]
    eager = next(make for name, make in found.makers.items() if "compile" not in name)()
    (want,) = discover().target("cpu:xla").compile(module, CompileOptions()).run(x.numpy())
    np.testing.assert_allclose(eager(x.numpy())[0], np.asarray(want), rtol=1e-4, atol=1e-5)
    assert "reads other.mlir" in peers("other.mlir", module, []).absent["peers"]
