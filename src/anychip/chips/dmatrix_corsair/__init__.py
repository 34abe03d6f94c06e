"""d-Matrix Corsair (one card, two packages)."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin},
    absent={
        "aviator": "d-Matrix gives its compiler to its customers only; the twin stands in for it"
    },
)
