"""Groq LPU v1 (GroqChip1, TSP)."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(
    __file__,
    targets={"twin": twin},
    absent={"groqflow": "Groq gives its compiler to its customers only; the twin stands in for it"},
)
