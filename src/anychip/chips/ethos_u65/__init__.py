"""Arm Ethos-U65 with 512 multipliers, in the system that Vela calls Ethos_U65_High_End."""

from anychip.compilers.vela import Configuration, vela
from anychip.core import Chip

CONFIGURATION = Configuration("ethos-u65-512", "Ethos_U65_High_End", "Dedicated_Sram")

chip = Chip.beside(__file__, targets={"vela": vela(CONFIGURATION)})
