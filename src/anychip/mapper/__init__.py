"""The mapper: workloads, plans, and which chip is best for what."""

from anychip.mapper.compare import Comparison, Measured, Row, compare
from anychip.mapper.economics import Price, price, usd_per_mtok
from anychip.mapper.estimates import QUANTITIES, estimates
from anychip.mapper.flips import Flip
from anychip.mapper.objective import METRICS, OBJECTIVES, Objective
from anychip.mapper.plan import Piece, Plan
from anychip.mapper.search import Found, Question, search
from anychip.mapper.surface import Surfaces
from anychip.mapper.workload import Workload

__all__ = [
    "METRICS",
    "OBJECTIVES",
    "QUANTITIES",
    "Comparison",
    "Flip",
    "Found",
    "Measured",
    "Objective",
    "Piece",
    "Plan",
    "Price",
    "Question",
    "Row",
    "Surfaces",
    "Workload",
    "compare",
    "estimates",
    "price",
    "search",
    "usd_per_mtok",
]
