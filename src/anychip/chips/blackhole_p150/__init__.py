"""Tenstorrent Blackhole p150."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin},
    absent={
        "tt-mlir": "needs Tenstorrent's own build of LLVM and its driver; the twin stands in for it"
    },
)
