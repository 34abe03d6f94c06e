"""DeepX DX-M1: an NPU on an M.2 card."""

from anychip.core import Chip

chip = Chip.beside(
    __file__,
    targets={},
    absent={
        "dxcom": "dx-com 2.5.0 installs from the public index, but its licence allows use by "
        "holders of a DeepX NPU only; too little of the chip is published for a twin"
    },
)
