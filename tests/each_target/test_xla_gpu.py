"""h100:xla and its kin: XLA's CUDA compiler without a GPU, its PTX, and its roofline."""

from __future__ import annotations

import json

import pytest

from anychip.compilers.cache import Cache
from anychip.compilers.toolchains import CUDA
from anychip.compilers.xla_gpu.target import XlaGpuTarget
from anychip.core import (
    CompileError,
    CompileOptions,
    Executable,
    Module,
    Target,
    UnsupportedError,
    UsageError,
    discover,
)

pytestmark = pytest.mark.skipif(
    CUDA.installed is None, reason=f"the CUDA plug-in is not in {CUDA.folder}"
)

OPTIONS = CompileOptions()


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    cache = Cache(tmp_path_factory.mktemp("xla-gpu"))
    return lambda chip: XlaGpuTarget(discover().chip(chip), cache)


def _matmul(size: int, dtype: str = "bf16") -> Module:
    kind = f"tensor<{size}x{size}x{dtype}>"
    return Module.from_mlir(f"""
module @matmul {{ func.func public @main(%a: {kind}, %b: {kind}) -> {kind} {{
  %0 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0]
    : ({kind}, {kind}) -> {kind} loc("layers.3/dot")
  return %0 : {kind} }} }}
""")


@pytest.mark.parametrize(
    ("chip", "arch"),
    [
        *(("a100", "sm_80"), ("l4", "sm_89"), ("l40s", "sm_89")),
        *(("h100", "sm_90a"), ("h200", "sm_90a"), ("b200", "sm_100a"), ("gb200", "sm_100a")),
    ],
)
def test_each_chip_gets_its_own_ptx_and_its_roofline(target, chip, arch):
    made = target(chip)
    assert isinstance(made, Target)
    assert not made.runs
    executable = made.compile(_matmul(4096), OPTIONS)
    assert isinstance(executable, Executable)
    assert f".target {arch}" in str(executable.artifacts["ptx"])
    trace = executable.trace()
    peak = discover().chip(chip).spec.matmul_flops_per_s["bf16"].value
    assert trace.kind == "estimated"
    assert trace.seconds == pytest.approx(2 * 4096**3 / peak)
    assert {s.bound for s in trace.spans} == {"compute"}
    assert "at the roofline" in trace.note


def test_every_stage_is_kept_and_nothing_runs(target):
    executable = target("h100").compile(_matmul(256), OPTIONS)
    artifacts = executable.artifacts
    assert "fusion" in artifacts["hlo"]
    assert "stablehlo.dot_general" in artifacts["stablehlo"]
    assert json.loads(artifacts["memory.json"])["argument_bytes"] == 2 * 256 * 256 * 2
    assert len(artifacts["executable"]) > 1000
    assert executable.coverage.to_json()["native"] == 1
    assert {s.origin.layer for s in executable.trace().spans} == {"layers.3"}
    with pytest.raises(UnsupportedError, match="no GPU"):
        executable.run()


def test_bytes_bound_what_multiplies_little(target):
    kind = "tensor<1024x1024xf32>"
    module = Module.from_mlir(f"""
module @add {{ func.func public @main(%a: {kind}, %b: {kind}) -> {kind} {{
  %0 = stablehlo.add %a, %b : {kind} return %0 : {kind} }} }}
""")
    trace = target("h100").compile(module, OPTIONS).trace()
    bandwidth = discover().chip("h100").spec.main_memory.read_bytes_per_s.value
    assert trace.seconds == pytest.approx(3 * 4 * 1024 * 1024 / bandwidth)
    assert {s.bound for s in trace.spans} == {"memory"}


def test_a_convolution_counts_its_products(target):
    image, kernel = "tensor<1x32x32x64xf32>", "tensor<3x3x64x128xf32>"
    result = "tensor<1x32x32x128xf32>"
    module = Module.from_mlir(f"""
module @conv {{ func.func public @main(%x: {image}, %w: {kernel}) -> {result} {{
  %0 = stablehlo.convolution(%x, %w) dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f],
    window = {{pad = [[1, 1], [1, 1]]}}
    {{batch_group_count = 1 : i64, feature_group_count = 1 : i64}}
    : ({image}, {kernel}) -> {result}
  return %0 : {result} }} }}
""")
    trace = target("h100").compile(module, OPTIONS).trace()
    products = 2 * 32 * 32 * 128 * 9 * 64
    assert products <= sum(s.flops or 0 for s in trace.spans) < 1.1 * products


def test_a_program_larger_than_the_chip_is_no_yes(target):
    kind = "tensor<160000x160000xf32>"
    module = Module.from_mlir(f"""
module @big {{ func.func public @main(%a: {kind}) -> {kind} {{
  %0 = stablehlo.negate %a : {kind} return %0 : {kind} }} }}
""")
    with pytest.raises(CompileError, match=r"out of memory: .*102 GB.*has 80 GB.*needs 204"):
        target("h100").compile(module, OPTIONS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (CompileOptions(threads=2), "takes no threads"),
        (CompileOptions(extra={"shards": "8"}), "no option of h100:xla"),
        (CompileOptions(extra={"xla_no_such_flag": "1"}), "No such compile option"),
    ],
)
def test_options_it_cannot_honour_are_refused(target, options, said):
    with pytest.raises(UsageError, match=said):
        target("h100").compile(_matmul(64), options)


def test_a_timeout_is_a_verdict():
    made = XlaGpuTarget(discover().chip("h100"))
    with pytest.raises(CompileError, match=r"more than 0\.2 s"):
        made.compile(_matmul(64), CompileOptions(timeout_s=0.2))
