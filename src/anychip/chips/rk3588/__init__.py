"""Rockchip RK3588: its NPU of three cores."""

from anychip.compilers.rknn import rknn
from anychip.core import Chip

chip = Chip.beside(__file__, targets={"rknn": rknn("rk3588", clock_hz=1e9)})
