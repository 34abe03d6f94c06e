"""Microsoft Maia 100."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin},
    absent={"maia-sdk": "Maia runs inside Azure and its SDK is private; the twin stands in for it"},
)
