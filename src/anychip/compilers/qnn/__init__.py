"""`chip:qnn` without the device: Qualcomm's compiler for Hexagon, an ONNX Runtime plug-in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anychip.core import Target
from anychip.core.registry import TargetFactory

if TYPE_CHECKING:
    from anychip.core import Chip


@dataclass(frozen=True)
class Soc:
    """Qualcomm's numbers for a system and its Hexagon: QNN SDK, supported Snapdragon devices."""

    model: int
    hexagon: int


def qnn(soc: Soc) -> TargetFactory:
    """The factory of `chip:qnn`."""

    def make(chip: Chip) -> Target:
        from anychip.compilers.cache import Cache
        from anychip.compilers.qnn.target import QnnTarget

        name = f"{chip.name or chip.spec.name}:qnn"
        return QnnTarget(name, soc, cache=Cache.under_home("qnn"))

    return make
