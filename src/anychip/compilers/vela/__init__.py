"""`ethos-u…:vela` without the device: Arm's Vela compiler for Ethos-U, on an int8 TFLite file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anychip.core import Target
from anychip.core.registry import TargetFactory

if TYPE_CHECKING:
    from anychip.core import Chip


@dataclass(frozen=True)
class Configuration:
    """Vela's names for an NPU, the system around it, and how that shares its memory."""

    accelerator: str
    system: str
    memory: str


def vela(configuration: Configuration) -> TargetFactory:
    """The factory of `chip:vela`."""

    def make(chip: Chip) -> Target:
        from anychip.compilers.cache import Cache
        from anychip.compilers.vela.target import VelaTarget

        name = f"{chip.name or chip.spec.name}:vela"
        return VelaTarget(name, configuration, cache=Cache.under_home("vela"))

    return make
