"""NVIDIA GB200 NVL72, one GPU of it (1,200 W)."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(__file__, targets={"twin": twin})
