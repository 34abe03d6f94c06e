"""AMD Instinct MI355X."""

from anychip.compilers.iree import iree
from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(__file__, targets={"twin": twin, "iree": iree("gfx950")})
