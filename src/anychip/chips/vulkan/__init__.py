"""The Vulkan device of this host, whichever it is: a GPU, or a software driver on the CPU.

Its figures are the CPU's, on which a software driver runs; a GPU's own are not known, so there is
no twin and no row in `compare`. GPUs that are known have `:iree-vulkan` under their own name.
"""

from __future__ import annotations

from dataclasses import replace

from anychip.chips.cpu.targets import read_spec
from anychip.compilers.iree import vulkan
from anychip.core import Chip, ChipSpec


def _spec() -> ChipSpec:
    return replace(
        read_spec(),
        name="vulkan",
        title="this host's Vulkan device (figures: the CPU's)",
        note="the figures are those of the CPU, where a software driver such as lavapipe runs",
    )


chip = Chip(_spec, targets={"iree": vulkan})
