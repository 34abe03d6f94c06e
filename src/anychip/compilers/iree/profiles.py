"""What IREE compiles for here: the flags of each kind of device, and the files it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Profile:
    """`backend` and `flags` are iree-compile's. The rest are stages by file ending."""

    backend: str
    flags: tuple[str, ...] = ()
    texts: Mapping[str, str]
    binaries: Mapping[str, str]


def _cuda(arch: str) -> Profile:
    return Profile(
        backend="cuda",
        flags=(f"--iree-cuda-target={arch}",),
        texts={"ptx": ".ptx"},
        binaries={},
    )


def _rocm(arch: str) -> Profile:
    return Profile(
        backend="rocm",
        flags=(f"--iree-rocm-target={arch}",),
        texts={"asm": ".rocmasm"},
        binaries={"hsaco": ".hsaco"},
    )


def _vulkan(target: str) -> Profile:
    return Profile(
        backend="vulkan-spirv",
        flags=(f"--iree-vulkan-target={target}",),
        texts={},
        binaries={"spirv": ".spv"},
    )


def _cpu(triple: str, *flags: str) -> Profile:
    return Profile(
        backend="llvm-cpu",
        flags=(f"--iree-llvmcpu-target-triple={triple}", *flags),
        texts={"asm": ".s"},
        binaries={"object": ".o"},
    )


PROFILES: Mapping[str, Profile] = {
    **{arch: _cuda(arch) for arch in ("sm_80", "sm_86", "sm_89")},
    **{arch: _rocm(arch) for arch in ("gfx942", "gfx950", "gfx1100")},
    **{
        f"vulkan-{name}": _vulkan(name)
        for name in ("ampere", "ada", "rdna3", "valhall4", "adreno", "llvmpipe")
    },
    # What every Vulkan device of a phone of 2022 has (Khronos' profile of that name).
    "vulkan-baseline": _vulkan("vp_android_baseline_2022"),
    "metal": Profile(
        backend="metal-spirv",
        flags=("--iree-metal-target-platform=macos",),
        texts={"msl": ".metal"},
        binaries={},
    ),
    "host": Profile(
        backend="llvm-cpu",
        flags=("--iree-llvmcpu-target-cpu=host",),
        texts={"asm": ".s"},
        binaries={"object": ".o"},
    ),
    "aarch64": _cpu("aarch64-linux-gnu", "--iree-llvmcpu-target-cpu-features=+neon"),
    "apple-m1": _cpu("arm64-apple-macos", "--iree-llvmcpu-target-cpu=apple-m1"),
    "riscv64": _cpu(
        "riscv64-linux-gnu",
        "--iree-llvmcpu-target-cpu=generic-rv64",
        "--iree-llvmcpu-target-cpu-features=+m,+a,+f,+d,+c,+v",
        "--iree-llvmcpu-target-abi=lp64d",
    ),
    "znver5": _cpu("x86_64-linux-gnu", "--iree-llvmcpu-target-cpu=znver5"),
    "graniterapids": _cpu("x86_64-linux-gnu", "--iree-llvmcpu-target-cpu=graniterapids"),
}
"""Profile by the name its makers give the device."""
