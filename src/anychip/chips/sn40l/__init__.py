"""SambaNova SN40L."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin},
    absent={"sambaflow": "comes with SambaNova's systems only; the twin stands in for it"},
)
