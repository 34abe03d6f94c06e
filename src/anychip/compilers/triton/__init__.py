"""`chip:triton` without the chip: a kernel for each product, softmax, norm and attention.

It covers single kernels, not whole models: what has none is unsupported, and said to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anychip.core import Target
from anychip.core.registry import TargetFactory

if TYPE_CHECKING:
    from anychip.core import Chip


def triton(arch: str) -> TargetFactory:
    """The factory of `chip:triton` for one of `job.GPUS`, such as `sm_90` or `gfx942`."""

    def make(chip: Chip) -> Target:
        from anychip.compilers.cache import Cache
        from anychip.compilers.triton.target import TritonTarget

        name = f"{chip.name or chip.spec.name}:triton"
        return TritonTarget(name, arch, cache=Cache.under_home("triton"))

    return make
