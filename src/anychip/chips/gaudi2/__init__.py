"""Intel Gaudi2."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin},
    absent={"habana": "needs Habana's driver stack and a device; the twin stands in for it"},
)
