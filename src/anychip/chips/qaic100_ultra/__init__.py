"""Qualcomm Cloud AI 100 Ultra (four SoCs on a card)."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin},
    absent={"qaic": "Qualcomm's SDK needs a login and its driver; the twin stands in for it"},
)
