"""Two Intel Xeon 6980P (Granite Rapids)."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(__file__, targets={"twin": twin})
