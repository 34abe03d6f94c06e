"""The Acme N1, an invented chip: its figures are in spec.toml, its box in acme-n1-box.toml."""

from anychip.core import Chip
from anychip.twin import twin

chip = Chip.beside(__file__, targets={"twin": twin})
