"""Apple M2 Ultra (76-core GPU)."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin},
    absent={"coreml": "Core ML compiles on macOS only; the twin stands in for it"},
)
