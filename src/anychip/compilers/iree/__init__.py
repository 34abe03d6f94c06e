"""`chip:iree` without the chip: IREE's compiler for GPUs, SPIR-V, Metal and CPUs of other kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anychip.core import Target
from anychip.core.registry import TargetFactory

if TYPE_CHECKING:
    from anychip.core import Chip


def iree(profile: str, how: str = "iree") -> TargetFactory:
    """The factory of `chip:how` for one of `profiles.PROFILES`, such as `sm_80` or `gfx942`."""

    def make(chip: Chip) -> Target:
        from anychip.compilers.cache import Cache
        from anychip.compilers.iree.target import IreeTarget
        from anychip.core.config import read

        name = f"{chip.name or chip.spec.name}:{how}"
        return IreeTarget(name, profile, cache=Cache(read("home") / "iree"))

    return make


NO_HOPPER = (
    'IREE 3.13 has no description of sm_90 and sm_100 ("missing GPU target"; '
    "github.com/iree-org/iree would have to add one); use the chip's xla or twin"
)
"""Why H100, H200 and B200 have no `:iree`."""
