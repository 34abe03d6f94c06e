"""`chip:iree` without the chip: IREE's compiler for GPUs, SPIR-V, Metal and CPUs of other kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anychip.core import SetupError, Target
from anychip.core.registry import TargetFactory

if TYPE_CHECKING:
    from anychip.core import Chip


def iree(profile: str, how: str = "iree") -> TargetFactory:
    """The factory of `chip:how` for one of `profiles.PROFILES`, such as `sm_80` or `gfx942`."""

    def make(chip: Chip) -> Target:
        from anychip.compilers.cache import Cache
        from anychip.compilers.iree.target import IreeTarget

        name = f"{chip.name or chip.spec.name}:{how}"
        return IreeTarget(name, profile, cache=Cache.under_home("iree"))

    return make


def host(chip: Chip) -> Target:
    """`cpu:iree`: compiled for this CPU, and run on it."""
    from anychip.compilers.cache import Cache
    from anychip.compilers.iree.target import IreeTarget

    return IreeTarget("cpu:iree", "host", Cache.under_home("iree"), device="cpu")


def vulkan(chip: Chip) -> Target:
    """`vulkan:iree`: for this host's Vulkan device and run there; compile-only without a driver.

    A software driver has sums over 8 lanes where GPUs have 32 or 64: code for those gives wrong
    numbers on it, so it has a profile of its own.
    """
    from anychip.compilers.cache import Cache
    from anychip.compilers.iree.runtime import vulkan_device
    from anychip.compilers.iree.target import IreeTarget

    cache = Cache.under_home("iree")
    try:
        device = vulkan_device()
    except SetupError:
        return IreeTarget("vulkan:iree", "vulkan-baseline", cache)
    profile = "vulkan-llvmpipe" if device.startswith("llvmpipe") else "vulkan-baseline"
    return IreeTarget("vulkan:iree", profile, cache, device="vulkan")


NO_HOPPER = (
    'IREE 3.13 has no description of sm_90 and sm_100 ("missing GPU target"; '
    "github.com/iree-org/iree would have to add one); use the chip's xla or twin"
)
"""Why H100, H200 and B200 have no `:iree`."""
