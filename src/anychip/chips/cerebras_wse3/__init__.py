"""Cerebras WSE-3 (CS-3 system)."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin},
    absent={
        "cstorch": "comes with a Cerebras system or cloud contract only; the twin stands in for it"
    },
)
