"""chip:iree: device code for chips that are not here, and refusals that name the user's layer."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from anychip.cli.verdicts import compare_numbers
from anychip.compilers.cache import Cache
from anychip.compilers.iree.profiles import PROFILES
from anychip.compilers.iree.runtime import vulkan_device
from anychip.compilers.iree.target import IreeTarget
from anychip.core import (
    Argument,
    CompileError,
    CompileOptions,
    Executable,
    Module,
    Result,
    Signature,
    Target,
    UnsupportedError,
    UsageError,
    Weights,
    discover,
    dtype,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("iree") is None or importlib.util.find_spec("iree.compiler") is None,
    reason="iree-base-compiler (extra iree) is not installed",
)

OPTIONS = CompileOptions()


def _target(profile: str, cache: Cache | None = None) -> IreeTarget:
    return IreeTarget(f"test:{profile}", profile, cache)


def _matmul(dtype: str) -> Module:
    kind = f"tensor<64x64x{dtype}>"
    return Module.from_mlir(f"""
module @matmul {{ func.func public @main(%a: {kind}, %b: {kind}) -> {kind} {{
  %0 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0]
    : ({kind}, {kind}) -> {kind} loc("layers.3/dot")
  return %0 : {kind} }} }}
""")


SAYS = {
    "sm_80": ("ptx", ".target sm_80"),
    "sm_86": ("ptx", ".target sm_86"),
    "sm_89": ("ptx", ".target sm_89"),
    "gfx942": ("asm", "gfx942"),
    "gfx950": ("asm", "gfx950"),
    "gfx1100": ("asm", "gfx1100"),
    "metal": ("msl", "kernel"),
    "aarch64": ("asm", "fmla"),
    "apple-m1": ("asm", "fmla"),
    "riscv64": ("asm", "vfmacc"),
    "znver5": ("asm", "zmm"),
    "host": ("asm", "mul"),
    "graniterapids": ("asm", "zmm"),
}
"""Profile → a text stage and what only that device's code says."""


@pytest.mark.parametrize("profile", [p for p in PROFILES if not p.startswith("vulkan")])
def test_a_product_becomes_the_devices_own_code(profile):
    executable = _target(profile).compile(_matmul("f32"), OPTIONS)
    stage, word = SAYS[profile]
    assert word in str(executable.artifacts[stage])
    assert len(executable.artifacts["vmfb"]) > 1000
    assert executable.coverage.to_json()["native"] == 1


@pytest.mark.parametrize("profile", [p for p in PROFILES if p.startswith("vulkan")])
def test_vulkan_gets_spirv(profile):
    artifacts = _target(profile).compile(_matmul("f32"), OPTIONS).artifacts
    module = artifacts["spirv/0.spv"]
    assert isinstance(module, bytes)
    assert int.from_bytes(module[:4], "little") == 0x07230203  # SPIR-V specification, 2.3


def test_target_and_executable_have_the_protocols_shape_and_do_not_run():
    target = discover().target("a100:iree")
    assert isinstance(target, Target)
    assert not target.runs
    executable = _target("sm_80").compile(_matmul("f32"), OPTIONS)
    assert isinstance(executable, Executable)
    with pytest.raises(UnsupportedError, match="cannot run"):
        executable.run()
    with pytest.raises(UnsupportedError, match="no times"):
        executable.trace()


@pytest.mark.parametrize("profile", ["sm_80", "gfx942"])
def test_products_of_bf16_are_summed_in_f32(profile):
    executable = _target(profile).compile(_matmul("bf16"), OPTIONS)
    code = str(executable.artifacts["ptx" if profile == "sm_80" else "asm"])
    assert ("f32.bf16" if profile == "sm_80" else "f32_16x16x16_bf16") in code


def test_a_refusal_names_the_layer_and_keeps_the_log():
    with pytest.raises(CompileError, match=r"failed to legalize .*layers\.3") as caught:
        _target("vulkan-adreno").compile(_matmul("bf16"), OPTIONS)
    assert "vector.bitcast" in caught.value.log


def test_absent_toolchains_say_why():
    with pytest.raises(UsageError, match="sm_90"):
        discover().target("h100:iree")


def test_a_second_compile_comes_from_the_cache(tmp_path: Path):
    target = _target("sm_80", Cache(tmp_path))
    first = target.compile(_matmul("f32"), OPTIONS)
    (entry,) = (p for p in tmp_path.glob("??/*") if p.suffix != ".lock")
    stamp = entry.stat().st_ino
    assert target.compile(_matmul("f32"), OPTIONS).artifacts["ptx"] == first.artifacts["ptx"]
    assert entry.stat().st_ino == stamp


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (CompileOptions(threads=2), "takes no threads"),
        (CompileOptions(extra={"xla_flag": "1"}), "no option of test:sm_80"),
        (CompileOptions(extra={"iree-no-such-flag": "1"}), "no option --iree-no-such-flag"),
    ],
)
def test_options_it_cannot_honour_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        _target("sm_80").compile(_matmul("f32"), options)


def test_a_timeout_is_a_verdict():
    with pytest.raises(CompileError, match=r"more than 0\.05 s"):
        _target("sm_80").compile(_matmul("f32"), CompileOptions(timeout_s=0.05))


PROGRAM = """
module @rows { func.func public @main(%w: tensor<96x40xf32>, %x: tensor<5x96xf32>,
    %h: tensor<5x96xbf16>, %keep: tensor<5xi1>, %n: tensor<i64>, %u: tensor<3xui8>)
    -> (tensor<5x40xf32>, tensor<5x96xbf16>, tensor<5xf32>, tensor<5xi1>, tensor<i64>,
    tensor<3xui8>) {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %e = stablehlo.exponential %x : tensor<5x96xf32>
  %s = stablehlo.reduce(%e init: %zero) applies stablehlo.add across dimensions = [1]
    : (tensor<5x96xf32>, tensor<f32>) -> tensor<5xf32>
  %y = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0]
    : (tensor<5x96xf32>, tensor<96x40xf32>) -> tensor<5x40xf32>
  %h2 = stablehlo.add %h, %h : tensor<5x96xbf16>
  %not = stablehlo.not %keep : tensor<5xi1>
  %n2 = stablehlo.add %n, %n : tensor<i64>
  %u2 = stablehlo.add %u, %u : tensor<3xui8>
  return %y, %h2, %s, %not, %n2, %u2 : tensor<5x40xf32>, tensor<5x96xbf16>, tensor<5xf32>,
    tensor<5xi1>, tensor<i64>, tensor<3xui8> } }
"""


def _rows() -> tuple[Module, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((96, 40)).astype(np.float32)
    signature = Signature(
        (
            Argument("w", (96, 40), "f32", "weight"),
            Argument("x", (5, 96), "f32", "input"),
            Argument("h", (5, 96), "bf16", "state"),
            Argument("keep", (5,), "i1", "input"),
            Argument("n", (), "i64", "input"),
            Argument("u", (3,), "ui8", "input"),
        ),
        (
            Result("y", (5, 40), "f32"),
            Result("h", (5, 96), "bf16", updates="h"),
            Result("s", (5,), "f32"),
            Result("not", (5,), "i1"),
            Result("n2", (), "i64"),
            Result("u2", (3,), "ui8"),
        ),
    )
    module = Module.from_mlir(PROGRAM, signature=signature)
    module = module.with_weights(Weights.from_arrays({"w": weight}))
    inputs = [
        rng.standard_normal((5, 96)).astype(np.float32),
        rng.standard_normal((5, 96)).astype(ml_dtypes.bfloat16),
        np.array([True, False, True, True, False]),
        np.array(1 << 40),
        np.array([1, 100, 200], np.uint8),
    ]
    return module, inputs


@pytest.mark.parametrize("name", ["cpu:iree", "vulkan:iree"])
def test_what_runs_here_gives_the_op_tables_numbers(name):
    target = discover().target(name)
    if not target.runs:
        pytest.skip("no Vulkan driver")
    module, inputs = _rows()
    executable = target.compile(module, OPTIONS)
    for _ in range(2):  # the second run finds the weights in place and the state as it was
        results = executable.run(*inputs)
        assert [r.dtype for r in results] == [
            dtype(r.dtype).numpy for r in module.signature.results
        ]
        worst, matched = compare_numbers(module, inputs, list(results))
        assert matched, worst


def test_one_thread_gives_the_same_numbers_and_two_are_refused():
    module, inputs = _rows()
    target = discover().target("cpu:iree")
    results = target.compile(module, CompileOptions(threads=1)).run(*inputs)
    assert compare_numbers(module, inputs, list(results))[1]
    with pytest.raises(UsageError, match="threads may be 1"):
        target.compile(module, CompileOptions(threads=2))


def test_a_run_is_one_measured_span():
    module, inputs = _rows()
    trace = discover().target("cpu:iree").compile(module, OPTIONS).trace(*inputs)
    assert trace.kind == "measured"
    assert len(trace.spans) == 1
    assert trace.seconds > 0


def test_inputs_that_do_not_fit_are_refused_by_name():
    module, inputs = _rows()
    executable = discover().target("cpu:iree").compile(module, OPTIONS)
    with pytest.raises(UsageError, match=r"input x of rows should be f32\[5, 96\]"):
        executable.run(inputs[0].astype(np.float64), *inputs[1:])
    with pytest.raises(UsageError, match="takes 5 arrays"):
        executable.run(inputs[0])


def test_without_a_driver_vulkan_compiles_only(monkeypatch):
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nonexistent")
    monkeypatch.setenv("VK_DRIVER_FILES", "/nonexistent")
    vulkan_device.cache_clear()
    try:
        assert not discover().target("vulkan:iree").runs
    finally:
        vulkan_device.cache_clear()


OUTSIDE = """
func.func @main(%a: tensor<3x8xf32>, %i: tensor<3xi32>, %b: tensor<3xui8>, %p: tensor<2x2xi64>)
    -> (tensor<3x8xf32>, tensor<3x8xf32>, tensor<3x8xi1>, tensor<3x8xf32>) {
  %j = stablehlo.reshape %i : (tensor<3xi32>) -> tensor<3x1xi32>
  %0 = "stablehlo.gather"(%a, %j) <{dimension_numbers = #stablehlo.gather<offset_dims = [1],
    collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>,
    indices_are_sorted = false, slice_sizes = array<i64: 1, 8>}>
    : (tensor<3x8xf32>, tensor<3x1xi32>) -> tensor<3x8xf32>
  %u = stablehlo.constant dense<5.0> : tensor<3x8xf32>
  %1 = "stablehlo.scatter"(%a, %j, %u) ({
    ^bb0(%x: tensor<f32>, %y: tensor<f32>):
      %s = stablehlo.add %x, %y : tensor<f32>
      stablehlo.return %s : tensor<f32>
  }) {scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1],
      inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>,
      indices_are_sorted = false, unique_indices = false}
    : (tensor<3x8xf32>, tensor<3x1xi32>, tensor<3x8xf32>) -> tensor<3x8xf32>
  %no = stablehlo.constant dense<false> : tensor<3x8xi1>
  %yes = stablehlo.constant dense<true> : tensor<3x8xi1>
  %2 = "stablehlo.scatter"(%no, %b, %yes) ({
    ^bb0(%x: tensor<i1>, %y: tensor<i1>):
      stablehlo.return %y : tensor<i1>
  }) {scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1],
      inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>,
      indices_are_sorted = false, unique_indices = false}
    : (tensor<3x8xi1>, tensor<3xui8>, tensor<3x8xi1>) -> tensor<3x8xi1>
  %v = stablehlo.constant dense<[7.0, 9.0]> : tensor<2xf32>
  %3 = "stablehlo.scatter"(%a, %p, %v) ({
    ^bb0(%x: tensor<f32>, %y: tensor<f32>):
      stablehlo.return %y : tensor<f32>
  }) {scatter_dimension_numbers = #stablehlo.scatter<inserted_window_dims = [0, 1],
      scatter_dims_to_operand_dims = [1, 0], index_vector_dim = 1>,
      indices_are_sorted = false, unique_indices = true}
    : (tensor<3x8xf32>, tensor<2x2xi64>, tensor<2xf32>) -> tensor<3x8xf32>
  return %0, %1, %2, %3 : tensor<3x8xf32>, tensor<3x8xf32>, tensor<3x8xi1>, tensor<3x8xf32>
}"""


def test_positions_outside_touch_no_other_memory():
    """Read there a gather gave garbage, and a scatter killed the process."""
    module = Module.from_mlir(OUTSIDE)
    inputs = [
        np.arange(24, dtype=np.float32).reshape(3, 8),
        np.array([7, -2, 1], np.int32),
        np.array([200, 2, 3], np.uint8),
        np.array([[6, -1], [7, 2]]),  # a column, a row
    ]
    results = discover().target("cpu:iree").compile(module, OPTIONS).run(*inputs)
    assert compare_numbers(module, inputs, list(results)) == (0, True)
