"""Google TPU v5p."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(__file__, targets={"twin": twin})
