"""NVIDIA B200 SXM (1,000 W)."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(__file__, targets={"twin": twin})
