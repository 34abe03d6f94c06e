"""Arm Ethos-U55 with 256 multipliers, in the system that Vela calls Ethos_U55_High_End_Embedded."""

from anychip.compilers.vela import Configuration, vela
from anychip.core import Chip

CONFIGURATION = Configuration("ethos-u55-256", "Ethos_U55_High_End_Embedded", "Shared_Sram")

chip = Chip.beside(__file__, targets={"vela": vela(CONFIGURATION)})
