"""NVIDIA L4 (72 W)."""

from anychip.compilers.iree import iree
from anychip.compilers.xla_gpu import xla_gpu
from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={
        "twin": twin,
        "xla": xla_gpu,
        "iree": iree("sm_89"),
        "iree-vulkan": iree("vulkan-ada", "iree-vulkan"),
    },
)
