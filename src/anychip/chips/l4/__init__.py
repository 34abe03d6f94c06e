"""NVIDIA L4 (72 W)."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(__file__, targets={"twin": twin})
