"""A chip that lacks an op: the ledger says so, the rest runs on it, and the numbers match."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anychip.core import (
    Argument,
    Chip,
    CompileError,
    CompileOptions,
    Module,
    OpCoverage,
    Result,
    Signature,
    UnsupportedError,
    Weights,
    discover,
)
from anychip.fallback import compile_with_fallback
from anychip.ops.interp import evaluate

ACME = Path(__file__).parents[2] / "examples" / "acme-n1" / "src" / "acme_n1" / "spec.toml"

PLANTED = '''
"""A chip that has all of XLA:CPU but the exponential, which it refuses."""
from pathlib import Path
from anychip.compilers.xla import XlaTarget
from anychip.core import Chip, CompileError
from anychip.core.spec import read_chip


class Strict:
    name, runs, toolchain = "planted:xla", True, "planted 1"

    def compile(self, module, options):
        if "stablehlo.exponential" in module.text():
            raise CompileError("planted has no exponential; it should not have been asked")
        return XlaTarget("planted:xla").compile(module, options)


def read():
    return read_chip(Path(__file__).with_name("planted.toml"))


chip = Chip(read, targets={"xla": lambda chip: Strict()})
'''

MODEL = """
module @block {
  func.func public @main(%w: tensor<16x16xf32> loc("w"), %x: tensor<4x16xf32> loc("x"))
      -> tensor<4x16xf32> {
    %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0]
      : (tensor<4x16xf32>, tensor<16x16xf32>) -> tensor<4x16xf32>
    %1 = stablehlo.exponential %0 : tensor<4x16xf32> loc("layers.3.act/exp"("net.py":12:1))
    %2 = stablehlo.dot_general %1, %w, contracting_dims = [1] x [0]
      : (tensor<4x16xf32>, tensor<16x16xf32>) -> tensor<4x16xf32>
    return %2 : tensor<4x16xf32>
  }
}
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """A folder with the package in it, as an installer would leave it."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "planted.py").write_text(PLANTED)
    spec = ACME.read_text().replace('name = "acme-n1"', 'name = "planted"')
    spec = spec.replace(
        'op = "stablehlo.exponential"\ndtype = "f16"', 'op = "stablehlo.exponential"'
    )
    (folder / "planted.toml").write_text(spec)
    info = folder / "planted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[anychip.chips]\nplanted = planted:chip\n")
    return folder


@pytest.fixture
def chip(planted, monkeypatch) -> Chip:
    monkeypatch.syspath_prepend(str(planted))
    return discover().chip("planted")


def _module() -> Module:
    signature = Signature(
        (Argument("w", (16, 16), "f32", "weight"), Argument("x", (4, 16), "f32")),
        (Result("y", (4, 16), "f32"),),
    )
    weight = np.random.default_rng(1).normal(0, 0.2, (16, 16)).astype(np.float32)
    module = Module.from_mlir(MODEL, signature=signature)
    return module.with_weights(Weights.from_arrays({"w": weight}))


def test_the_lacking_op_runs_elsewhere_at_a_price_and_the_numbers_match(chip):
    module = _module()
    target, rest = chip.target("xla"), discover().target("cpu:xla")
    with pytest.raises(CompileError, match="should not have been asked"):
        target.compile(module, CompileOptions())
    executable = compile_with_fallback(module, target, rest, CompileOptions(), chip=chip)
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    (got,) = executable.run(x)
    (want,) = evaluate(module, module.weights["w"].array(), x)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    (row,) = (r for r in executable.coverage.rows if r.fate == "fallback")
    assert (row.op, row.count, row.falls_back_to) == ("stablehlo.exponential", 1, "cpu:xla")
    assert row.origin.layer == "layers.3.act"
    assert "no half-precision" in row.why
    assert row.price_s is not None
    assert 0 < row.price_s.low <= row.price_s.value <= row.price_s.high
    assert executable.coverage.to_json() == {
        "total": 3,
        "native": 2,
        "emulated": 0,
        "fallback": 1,
        "unsupported": 0,
    }
    assert "3 ops: 2 native, 1 fall back to cpu:xla: +" in executable.coverage.summary()
    plan = json.loads(executable.artifacts["split.json"])
    assert [p["target"] for p in plan["pieces"]] == ["planted:xla", "cpu:xla", "planted:xla"]
    trace = executable.trace(x)
    assert trace.kind == "measured"
    assert [s.start_s for s in trace.spans] == sorted(s.start_s for s in trace.spans)


def test_a_report_of_what_a_target_lacks_leads_to_a_split(chip):
    class Reports:
        name, runs, toolchain = "cpu:reports", True, "test 1"

        def compile(self, module, options):
            if "exponential" in module.text():
                row = OpCoverage(op="stablehlo.exponential", fate="unsupported", why="no such unit")
                raise UnsupportedError("no exponential here", report=[row])
            return discover().target("cpu:xla").compile(module, options)

    module = _module()
    rest = discover().target("cpu:xla")
    executable = compile_with_fallback(module, Reports(), rest, CompileOptions(), chip=chip)
    assert executable.coverage.count("fallback") == 1
    assert executable.coverage.count("native") == 2
    x = np.ones((4, 16), np.float32)
    (want,) = evaluate(module, module.weights["w"].array(), x)
    np.testing.assert_allclose(executable.run(x)[0], want, rtol=1e-5)


def test_a_target_that_lacks_most_of_a_model_is_not_helped(chip):
    class Lacks:
        name, runs, toolchain = "cpu:lacks", True, "test 1"

        def compile(self, module, options):
            row = OpCoverage(op="stablehlo.dot_general", fate="unsupported", count=2, why="none")
            raise UnsupportedError("no products here", report=[row])

    rest = discover().target("cpu:xla")
    with pytest.raises(UnsupportedError, match="no products here"):
        compile_with_fallback(_module(), Lacks(), rest, CompileOptions(), chip=chip)


def test_pieces_of_an_absent_chip_give_a_verdict_and_do_not_run(chip):
    class Elsewhere:
        name, runs, toolchain = "planted:elsewhere", False, "test 1"

        def compile(self, module, options):
            return discover().target("cpu:xla").compile(module, options)

    rest = discover().target("cpu:xla")
    executable = compile_with_fallback(_module(), Elsewhere(), rest, CompileOptions(), chip=chip)
    assert executable.coverage.count("fallback") == 1
    with pytest.raises(UnsupportedError, match="planted:elsewhere is not here"):
        executable.run(np.ones((4, 16), np.float32))


@pytest.mark.parametrize(("fallback", "code"), [("cpu:xla", 0), ("none", 1)])
def test_the_command_line_says_what_falls_back(planted, tmp_path, fallback, code):
    model = tmp_path / "block.mlir"
    model.write_text(MODEL)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "anychip", "compile", str(model), "-t", "planted:xla"),
            *("--fallback", fallback, "-f", "json"),
        ],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(planted), os.environ.get("PYTHONPATH", "")]),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stderr
    (verdict,) = json.loads(done.stdout)["verdicts"]
    if fallback == "none":
        assert not verdict["compiled"]
        return
    assert verdict["matched"]
    (row,) = verdict["ledger"]
    assert (row["fate"], row["layer"], row["source"]) == ("fallback", "layers.3.act", "net.py:12")
    assert row["price_s"]["kind"] == "estimated"
    assert "fall back to cpu:xla: +" in verdict["summary"]
