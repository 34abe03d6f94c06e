"""Google TPU v5e."""

from anychip.compilers.libtpu import libtpu
from anychip.core import Chip
from anychip.twin import twin
from anychip.twin.exchange import exchange_s

chip = Chip.beside(__file__, targets={"twin": twin, "xla": libtpu("v5e", exchange_s)})
