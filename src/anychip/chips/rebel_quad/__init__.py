"""Rebellions REBEL-Quad (Rebel100)."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin},
    absent={"rebel": "Rebellions' SDK needs its own index and licence; the twin stands in for it"},
)
