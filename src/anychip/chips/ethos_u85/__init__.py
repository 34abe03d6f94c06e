"""Arm Ethos-U85 with 1024 multipliers, in the system that Vela calls Ethos_U85_SYS_DRAM_Mid."""

from anychip.compilers.vela import Configuration, vela
from anychip.core import Chip

CONFIGURATION = Configuration("ethos-u85-1024", "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB")

chip = Chip.beside(__file__, targets={"vela": vela(CONFIGURATION)})
