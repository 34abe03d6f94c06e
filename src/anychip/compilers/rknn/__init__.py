"""`chip:rknn` without the device: Rockchip's compiler for its NPUs, with their simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anychip.core import Target
from anychip.core.registry import TargetFactory

if TYPE_CHECKING:
    from anychip.core import Chip


def rknn(platform: str, *, clock_hz: float) -> TargetFactory:
    """The factory of `chip:rknn`; `platform` is Rockchip's name, the clock that of its NPU."""

    def make(chip: Chip) -> Target:
        from anychip.compilers.cache import Cache
        from anychip.compilers.rknn.target import RknnTarget

        name = f"{chip.name or chip.spec.name}:rknn"
        return RknnTarget(name, platform, clock_hz, cache=Cache.under_home("rknn"))

    return make
