"""A table of models × stages: what comes in, compiles and gives the original framework's numbers.

Lists of models are TOML files outside the package; each names a builder file that knows how its
models are made and checked. Here they are read, run in children with limits, and reported.
"""

from anychip.zoo.children import Limits, run
from anychip.zoo.lists import Entry, read_lists, shard
from anychip.zoo.report import document, markdown, stored
from anychip.zoo.row import TOLERANCE, Row, relative_error

__all__ = [
    "TOLERANCE",
    "Entry",
    "Limits",
    "Row",
    "document",
    "markdown",
    "read_lists",
    "relative_error",
    "run",
    "shard",
    "stored",
]
