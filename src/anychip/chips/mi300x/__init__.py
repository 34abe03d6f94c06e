"""AMD Instinct MI300X."""

from anychip.compilers.iree import iree
from anychip.compilers.triton import triton
from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__, targets={"twin": twin, "triton": triton("gfx942"), "iree": iree("gfx942")}
)
