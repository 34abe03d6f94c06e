"""Apple M3 Max (40-core GPU)."""

from anychip.compilers.iree import iree
from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin, "iree": iree("metal"), "iree-cpu": iree("apple-m1", "iree-cpu")},
    absent={"coreml": "Core ML compiles on macOS only; the twin stands in for it"},
)
