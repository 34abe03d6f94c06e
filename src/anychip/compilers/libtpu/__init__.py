"""`tpu-…:xla` without a TPU: libtpu's own compiler through its compile-only topologies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from anychip.core import LinkSpec, Target
from anychip.core.registry import TargetFactory

if TYPE_CHECKING:
    from anychip.core import Chip

LinkModel = Callable[[str, float, int, LinkSpec], float]
"""Seconds of (collective, bytes, chips, link)."""


def libtpu(generation: str, link_model: LinkModel) -> TargetFactory:
    """The factory of `chip:xla` for a TPU generation, such as `v5e`."""

    def make(chip: Chip) -> Target:
        from anychip.compilers.cache import Cache
        from anychip.compilers.libtpu.target import LibtpuTarget

        return LibtpuTarget(chip, generation, link_model, cache=Cache.under_home("libtpu"))

    return make
