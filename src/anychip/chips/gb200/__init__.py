"""NVIDIA GB200 NVL72, one GPU of it (1,200 W)."""

from anychip.compilers.iree import NO_HOPPER
from anychip.compilers.triton import triton
from anychip.compilers.xla_gpu import xla_gpu
from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin, "xla": xla_gpu, "triton": triton("sm_100")},
    absent={"iree": NO_HOPPER},
)
