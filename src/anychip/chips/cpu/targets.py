"""How `cpu` is reached: compilers and twins imported when asked for, caches under `home`."""

from __future__ import annotations

from anychip.chips.cpu.host import host_spec
from anychip.core import Chip, ChipSpec, Target
from anychip.core.config import read


def read_spec() -> ChipSpec:
    """This host's figures, measured in some seconds when `home` has none for it yet."""
    return host_spec(read("home"))


def xla(chip: Chip) -> Target:
    """`cpu:xla`, keeping compiled code under `home`."""
    from anychip.compilers.cache import Cache
    from anychip.compilers.xla import XlaTarget

    return XlaTarget(cache=Cache(read("home") / "xla"))


def twin(chip: Chip) -> Target:
    """`cpu:twin`, over the measured figures."""
    from anychip.twin import twin

    return twin(chip)
