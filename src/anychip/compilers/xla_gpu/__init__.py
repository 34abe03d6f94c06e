"""`h100:xla` and its kin without a GPU: XLA's CUDA compiler for a device described by a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anychip.core import Target

if TYPE_CHECKING:
    from anychip.core import Chip

DEVICE = "device.txtpb"
"""The file beside a chip's spec that describes it to XLA (a text `GpuTargetConfigProto`)."""


def xla_gpu(chip: Chip) -> Target:
    """The factory of `chip:xla` for an NVIDIA chip with a device file in its folder."""
    from anychip.compilers.cache import Cache
    from anychip.compilers.xla_gpu.target import XlaGpuTarget

    return XlaGpuTarget(chip, cache=Cache.under_home("xla-gpu"))
