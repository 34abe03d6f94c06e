"""The host's benchmarks run here, at sizes that take a moment, and give a whole spec."""

from pathlib import Path

import numpy as np
import pytest

from anychip.chips.cpu.host import host_spec
from anychip.chips.cpu.measure import matmul, matvec, measure, read_sum, timed
from anychip.chips.cpu.system import this_host
from anychip.core import CompileOptions, Module, discover


def test_every_benchmark_gives_positive_samples_and_a_spec(tmp_path):
    samples = measure(1 << 20, 256 << 20)
    for name, values in samples.items():
        assert len(values) >= 3, name
        assert min(values) > 0, name
    host = this_host()
    spec = host_spec(tmp_path, host=host, measure=lambda _: (samples, 0.0))
    assert spec.name == "cpu"
    assert set(spec.matmul_flops_per_s) == {"f32", "bf16", "i8"}


@pytest.mark.parametrize(
    ("make", "amount"),
    [
        (lambda: read_sum(1 << 20, 1), 1 << 20),
        (lambda: matvec(1 << 20, "f32"), 1 << 20),
        (lambda: matvec(1 << 20, "bf16"), 1 << 20),
        (lambda: matmul(4, 8, 16, "i8"), 2 * 4 * 8 * 16),
    ],
)
def test_benchmark_computes_what_it_says(make, amount):
    """All inputs are ones, so each result is the length of what was added up."""
    run, work = make()
    assert work == amount
    result = np.asarray(run())
    lengths = {4096, 8}
    assert {int(v) for v in result.ravel()} <= lengths


def test_timing_repeats_at_least_as_asked():
    calls: list[int] = []
    assert len(timed(lambda: calls.append(1), budget_s=0.0, least=4)) == 4
    assert len(calls) == 5


def test_host_compiles_before_it_was_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYCHIP_HOME", str(tmp_path))
    target = discover().target("cpu:xla")
    text = (
        "module { func.func public @main(%a: tensor<2xf32>) -> tensor<2xf32> {"
        " %0 = stablehlo.add %a, %a : tensor<2xf32> return %0 : tensor<2xf32> } }"
    )
    program = target.compile(Module.from_mlir(text), CompileOptions())
    assert np.asarray(program.run(np.ones(2, np.float32))[0]).tolist() == [2, 2]
    assert not Path(tmp_path, "host.json").exists()
    assert list(Path(tmp_path, "xla").glob("??/*"))
