"""NVIDIA A100 SXM 80 GB."""

from anychip.compilers.iree import iree
from anychip.compilers.triton import triton
from anychip.compilers.xla_gpu import xla_gpu
from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={
        "twin": twin,
        "triton": triton("sm_80"),
        "xla": xla_gpu,
        "iree": iree("sm_80"),
        "iree-vulkan": iree("vulkan-ampere", "iree-vulkan"),
    },
)
