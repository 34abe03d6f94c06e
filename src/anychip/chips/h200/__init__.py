"""NVIDIA H200 SXM 141 GB."""

from anychip.compilers.iree import NO_HOPPER
from anychip.compilers.triton import triton
from anychip.compilers.xla_gpu import xla_gpu
from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin, "triton": triton("sm_90"), "xla": xla_gpu},
    absent={"iree": NO_HOPPER},
)
