"""Pictures of traces and machines: timelines, floor plans, occupancy and rooflines."""

from anychip.profile.placement import floor_plan, occupancy
from anychip.profile.roofline import Dot, Roof, roofline
from anychip.profile.timeline import a_layer, overview, timeline

__all__ = [
    "Dot",
    "Roof",
    "a_layer",
    "floor_plan",
    "occupancy",
    "overview",
    "roofline",
    "timeline",
]
