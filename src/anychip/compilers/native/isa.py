"""What instructions kernels may use: the host's, or fewer when asked."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache

from anychip.core import SetupError, unknown


@dataclass(frozen=True)
class Isa:
    """A code path. `dot` is how four products of bytes become one i32 (kernels/dot.py);
    `has_half` says that f16 vectors convert in hardware, `has_tiles` that whole tiles of bytes
    and bf16 multiply (AMX). `cpu` and `features` are LLVM's."""

    name: str
    cpu: str
    features: str
    dot: str
    has_half: bool
    has_tiles: bool = False


NAMES = ("amx", "avx512vnni", "avx2", "neon", "generic")
"""Best first. generic is plain vector arithmetic that LLVM lowers for any machine."""

_VNNI = ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "f16c", "fma")
_NEEDS = {
    "amx": (*_VNNI, "avx512bf16", "amx-tile", "amx-int8", "amx-bf16"),
    "avx512vnni": _VNNI,
    "avx2": ("avx2", "f16c", "fma"),
    "neon": ("neon", "dotprod"),
    "generic": (),
}


def choose(wanted: str = "") -> Isa:
    """The best path this CPU has, or the one asked for.

    Raises UsageError for an unknown name, SetupError naming the instructions that are missing.
    """
    import llvmlite.binding as binding

    have = binding.get_host_cpu_features()
    if wanted and wanted not in NAMES:
        raise unknown("instruction set", wanted, NAMES)
    for name in (wanted,) if wanted else NAMES:
        missing = [feature for feature in _NEEDS[name] if not have.get(feature)]
        if not missing and name == "amx" and not _may_use_tiles():
            missing = ["the kernel's permission for tile registers (arch_prctl)"]
        if wanted and missing:
            raise SetupError(
                f"isa={wanted} needs {', '.join(missing)}, which this CPU "
                f"({binding.get_host_cpu_name()}) lacks; leave isa out to use what it has"
            )
        if not missing:
            return _made(name, binding.get_host_cpu_name(), have.flatten())
    raise AssertionError("generic needs nothing")


def _made(name: str, host: str, features: str) -> Isa:
    if name in ("amx", "avx512vnni"):
        return Isa(name, host, features, "vnni512", True, has_tiles=name == "amx")
    if name == "neon":
        return Isa(name, host, features, "sdot", True)
    if name == "avx2":
        return Isa(name, "x86-64-v3", "", "maddubs", True)
    import llvmlite.binding as binding

    is_x86 = binding.get_default_triple().startswith("x86_64")
    return Isa(name, "x86-64" if is_x86 else "generic", "", "shifts", False)


_ASK_FOR_STATE, _TILE_DATA = 0x1023, 18
"""ARCH_REQ_XCOMP_PERM and XFEATURE_XTILE_DATA (Linux, Documentation/arch/x86/xstate.rst)."""


@cache
def _may_use_tiles() -> bool:
    """Ask Linux for this process's right to tile registers; threads started later share it."""
    if sys.platform != "linux":
        return False
    arch_prctl = 158
    return ctypes.CDLL(None).syscall(arch_prctl, _ASK_FOR_STATE, _TILE_DATA) == 0
