"""AWS Trainium1."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin},
    absent={"neuronx": "neuronx-cc is on AWS's own package index only; the twin stands in for it"},
)
