"""Qualcomm Snapdragon X Elite (SC8380XP): its Hexagon NPU, v73."""

from anychip.compilers.qnn import Soc, qnn
from anychip.core import Chip

chip = Chip.beside(__file__, targets={"qnn": qnn(Soc(model=60, hexagon=73))})
