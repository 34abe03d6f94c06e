"""The command line as a person types it: exit codes, JSON, and errors without a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anychip.cli.verdicts import compare_numbers
from anychip.core import Module

MLP = """
module @mlp {
  func.func public @main(%x: tensor<?x4xf32> loc("x")) -> tensor<?x4xf32> {
    %0 = stablehlo.tanh %x : tensor<?x4xf32> loc("body.act/tanh"("mlp.py":7:1))
    return %0 : tensor<?x4xf32>
  }
}
"""


@pytest.fixture
def cli(tmp_path):
    """Runs `anychip …` in a fresh folder; gives (exit code, stdout, stderr)."""

    def call(*words: object, **variables: str) -> tuple[int, str, str]:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "COLUMNS": "120", **variables}
        done = subprocess.run(
            [sys.executable, "-m", "anychip", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    path = tmp_path / "mlp.mlir"
    path.write_text(MLP)
    return path


def test_help_lists_the_verbs(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for verb in ("doctor", "chips", "pull", "compare", "compile", "run", "bench", "trace", "show"):
        assert verb in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("chips", "h10"), "Did you mean 'h100'"),
        (("compare", "lama-3.1-70b"), "llama-3.1-70b"),
        (("compare", "llama-3.1-70b", "--batch", "-1"), "batch"),
        (("compare", "llama-3.1-70b", "--prompt", "200000"), "made for 131072"),
        (("compare", "llama-3.1-70b", "--objective", "speed"), "latency"),
        (("compile", "smollm2-135m", "--target", "cpu:gcc"), "cpu"),
        (("compile", "no/such.gguf", "--target", "cpu:xla"), "no such file"),
        (("compile", "x.mlir", "--target", "cpu:xla", "--option", "fast"), "NAME=VALUE"),
        (("compile", "x.mlir", "--target", "cpu:xla", "--fallback", "cpu:gcc"), "no such file"),
        (("cache", "gcc"), "no cache named 'gcc'"),
        (("cache", "--prune", "much"), "is no size"),
        (("run", "llama-3.1-70b", "--target", "h100:twin", "--prompt", "x"), "shape only"),
        (("pull", "gpt-5"), "smollm2-135m"),
    ],
)
def test_a_wrong_word_is_explained_in_one_message_with_exit_2(cli, words, message):
    code, out, err = cli(*words)
    assert code == 2, out + err
    assert message in err
    assert "Traceback" not in err
    assert not out.strip().startswith("{")


def test_debug_shows_the_traceback(cli):
    code, _, err = cli("chips", "h10", "--debug")
    assert code != 0
    assert "Traceback" in err


def test_an_unknown_or_unparsable_setting_is_an_error(cli):
    code, _, err = cli("doctor", ANYCHIP_THREDS="2")
    assert code == 2
    assert "ANYCHIP_THREADS" in err
    code, _, err = cli("doctor", ANYCHIP_THREADS="many")
    assert code == 2
    assert "ANYCHIP_THREADS" in err


def test_chips_prints_every_figure_of_a_chip_with_its_source(cli):
    code, out, _ = cli("chips", "groq-lpu", "-f", "json")
    assert code == 0
    facts = json.loads(out)["facts"]
    assert len(facts) > 15
    assert all(fact["source"] for fact in facts)


def test_doctor_says_what_works(cli):
    code, out, _ = cli("doctor", "-f", "json")
    assert code == 0
    found = {f["what"]: f for f in json.loads(out)["findings"]}
    assert found["jaxlib"]["state"] == "ok"
    for package in ("onnxruntime", "openvino"):
        assert f"cpu:{package}" in found[package]["detail"]


def test_doctor_calls_a_compiler_missing_whose_tool_is(monkeypatch, capsys):
    from anychip.cli import doctor

    real = doctor.version

    def version(package):
        if package == "iree-base-compiler":
            raise doctor.PackageNotFoundError
        return real(package)

    monkeypatch.setattr(doctor, "version", version)
    doctor.doctor(doctor.Format.json)
    found = {f["what"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert (found[":iree"]["state"], found[":iree"]["remedy"]) == (
        "missing",
        "iree-base-compiler, see above",
    )
    assert found[":openvino"]["state"] == "ok"


def test_doctor_knows_the_tool_of_every_compiler():
    from anychip.cli.doctor import TOOLS
    from anychip.core import discover

    chips = discover().chips
    hows = {how for name in chips for how in discover().chip(name).targets}
    assert hows - {"xla", "auto", "twin"} == set(TOOLS)


def test_compile_runs_checks_and_leaves_its_artifacts(cli, mlp, tmp_path):
    code, out, err = cli("compile", mlp, "-t", "cpu:xla", "--dim", "x_0=3", "-f", "json")
    assert code == 0, err
    verdict = json.loads(out)["verdicts"][0]
    assert verdict["compiled"]
    assert verdict["ran"]
    assert verdict["matched"] is True
    assert verdict["ops"] == {
        "total": 1,
        "native": 1,
        "emulated": 0,
        "fallback": 0,
        "unsupported": 0,
    }
    assert all((tmp_path / path).stat().st_size for path in verdict["artifacts"])


def test_an_answer_cut_short_is_one_whole_document(cli, mlp):
    words = ("compile", mlp, "-t", "all", "--dim", "x_0=3", "--time-limit", "0.001", "-f", "json")
    code, out, err = cli(*words)
    assert code == 2, err
    answer = json.loads(out)
    assert answer["cut_short"] == "time limit of 0.001 s"
    states = {one["state"] for one in answer["verdicts"]}
    assert "unasked" in states
    assert states <= {"unasked", "absent", "missing"}
    assert not any(one["compiled"] for one in answer["verdicts"])


def test_a_symbolic_dimension_left_open_says_its_name(cli, mlp):
    code, _, err = cli("compile", mlp, "-t", "cpu:xla")
    assert code == 2
    assert "--dim x_0=1" in err


def test_sizes_of_an_onnx_model_are_fixed_while_it_is_loaded(cli, tmp_path):
    """One that comes in at known sizes only, for a matrix must be square."""
    onnx = pytest.importorskip("onnx")
    head = '<ir_version: 10, opset_import: ["" : 17]>'
    body = "g (float[N,M] x) => (float[N,M] y) { y = MatMul (x, x) }"
    onnx.save(onnx.parser.parse_model(f"{head} {body}"), str(tmp_path / "square.onnx"))
    code, _, err = cli("run", "square.onnx", "-t", "cpu:xla", "--dim", "N=2", "--dim", "M=2")
    assert code == 0, err


def test_run_takes_inputs_and_writes_results(cli, mlp, tmp_path):
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    np.save(tmp_path / "x.npy", x)
    code, _, err = cli("run", mlp, "--dim", "x_0=2", "-i", "x=x.npy", "-o", "out.npz")
    assert code == 0, err
    result = np.load(tmp_path / "out.npz")["result0"]
    assert np.allclose(result, np.tanh(x), atol=1e-6)
    np.save(tmp_path / "x.npy", x.astype(np.float64))
    code, _, err = cli("run", mlp, "--dim", "x_0=2", "-i", "x=x.npy")
    assert code == 2
    assert "float32[2, 4]" in err


def test_trace_on_host_and_twin_write_perfetto_files(cli, mlp, tmp_path):
    for target, kind in (
        ("cpu:xla", "measured"),
        ("h100:twin", "simulated"),
        ("m3-max:twin", "estimated"),
    ):
        words = ("trace", mlp, "-t", target, "--dim", "x_0=3", "-o", "t.json", "-f", "json")
        code, out, err = cli(*words)
        assert code == 0, err
        assert json.loads(out)["kind"] == kind
        events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
        assert any(e["ph"] == "X" and e["cat"] == kind for e in events)


SIMULATED = {
    *("groq-lpu", "cerebras-wse2", "cerebras-wse3", "dmatrix-corsair"),
    *("rebel-quad", "rebellions-atom"),
}
"""Chips of families with a machine model."""


def test_compare_gives_every_chip_a_row_with_kind_interval_and_provenance(cli, tmp_path):
    code, out, err = cli("compare", "llama-3.1-70b", "-f", "json")
    assert code == 0, err
    document = json.loads(out)
    fitting = [r for r in document["rows"] if r["fits"]]
    assert len({r["chip"] for r in fitting}) >= 25
    for row in fitting:
        for key in ("ttft_s", "tpot_s", "user_tok_s", "chip_tok_s"):
            number = row[key]
            assert number["kind"] == ("simulated" if row["chip"] in SIMULATED else "estimated")
            assert number["low"] <= number["value"] <= number["high"]
            assert number["provenance"]
            assert number["falsify"]
    order = [r["tpot_s"]["value"] * 255 + r["ttft_s"]["value"] for r in fitting]
    assert order == pytest.approx(sorted(order), rel=1e-6)
    assert document["what_would_change"]
    report = tmp_path / document["run"] / "report.html"
    assert "<svg" in report.read_text()


def test_verdict_no_is_exit_1(cli):
    code, out, err = cli("compare", "llama-3.1-405b", "--chip", "l4", "-f", "json")
    assert code == 1, err
    assert json.loads(out)["rows"][0]["why_not"]


def test_numbers_that_differ_are_seen():
    module = Module.from_mlir(MLP).specialise({"x_0": 2})
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    good = np.tanh(x)
    assert compare_numbers(module, [x], [good])[1]
    for tolerance in (None, 0.005):
        error, matched = compare_numbers(module, [x], [good * 1.01], tolerance)
        assert error == pytest.approx(0.01, rel=1e-3)
        assert not matched
    assert compare_numbers(module, [x], [good * 1.01], 0.02)[1]
    broken = np.where(x > 0.9, np.nan, good)
    assert not compare_numbers(module, [x], [broken])[1]
    assert not compare_numbers(module, [x], [broken], 0.5)[1]


@pytest.mark.parametrize("target", ["cpu:xla", "h100:twin", "groq-lpu:twin"])
def test_show_writes_a_page_of_pictures(cli, mlp, tmp_path, target):
    words = ("show", mlp, "-t", target, "--dim", "x_0=3", "--runs", "runs", "-f", "json")
    code, out, err = cli(*words)
    assert code == 0, err
    document = json.loads(out)
    kinds = {"cpu:xla": "measured", "h100:twin": "simulated", "groq-lpu:twin": "simulated"}
    assert document["kind"] == kinds[target]
    page = (tmp_path / document["page"]).read_text(encoding="utf-8")
    assert "timeline" in document["pictures"]
    assert ("placement" in document["pictures"]) == (target == "groq-lpu:twin")
    for file in document["pictures"].values():
        assert (tmp_path / file).read_text(encoding="utf-8") in page
    assert "src=" not in page
    assert "href=" not in page


def test_a_twin_runs_and_says_that_its_numbers_are_simulated(cli, tmp_path):
    (tmp_path / "fc.mlir").write_text(
        """
module @fc {
  func.func public @main(%x: tensor<8x64xf32>, %w: tensor<64x64xf32>) -> tensor<8x64xf32> {
    %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0]
        : (tensor<8x64xf32>, tensor<64x64xf32>) -> tensor<8x64xf32> loc("fc/dot"("fc.py":5:1))
    return %0 : tensor<8x64xf32>
  }
}
"""
    )
    code, out, err = cli("compile", "fc.mlir", "--target", "groq-lpu:twin", "-f", "json")
    assert code == 0, err
    (verdict,) = json.loads(out)["verdicts"]
    assert verdict["ran"]
    assert verdict["matched"]
    assert verdict["simulated"] == "simulated numerics"
    assert 0 < verdict["rel_err"] <= verdict["tolerance"]
    code, out, err = cli("diff", "fc.mlir", "cpu:xla", "dmatrix-corsair:twin", "-f", "json")
    assert code == 0, err
    document = json.loads(out)
    assert document["first_divergence"]["layer"] == "fc"
    assert document["first_divergence"]["source"] == "fc.py:5"
    assert 20 < document["layers"][0]["sqnr_db"] < 60
    assert (tmp_path / document["run"] / "sqnr.svg").exists()
