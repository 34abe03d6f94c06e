"""chip:iree: device code for chips that are not here, and refusals that name the user's layer."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from anychip.compilers.cache import Cache
from anychip.compilers.iree.profiles import PROFILES
from anychip.compilers.iree.target import IreeTarget
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
