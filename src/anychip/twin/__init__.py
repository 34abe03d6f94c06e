"""Twins: what a chip would do with a Module, from its spec. Version 1 predicts time and energy."""

from anychip.twin.cost import StepCost, step_cost
from anychip.twin.energy import joules_by_source, step_joules
from anychip.twin.engine import Block, Job, Run, Scheduled, schedule, ticks
from anychip.twin.floor import Floor
from anychip.twin.interval import Spread, fact_range, own_error, spreads
from anychip.twin.lower import lower
from anychip.twin.lowered import Amounts, Kernel, Lowered, Table
from anychip.twin.machine import Machine, facts_of, machine
from anychip.twin.program import Occupancy, Program, Task
from anychip.twin.shard import Placement, Shards, place, shardings, share
from anychip.twin.simulate import MODELS, Simulated, Timed, simulate
from anychip.twin.target import Twin, TwinExecutable, twin

__all__ = [
    "MODELS",
    "Amounts",
    "Block",
    "Floor",
    "Job",
    "Kernel",
    "Lowered",
    "Machine",
    "Occupancy",
    "Placement",
    "Program",
    "Run",
    "Scheduled",
    "Shards",
    "Simulated",
    "Spread",
    "StepCost",
    "Table",
    "Task",
    "Timed",
    "Twin",
    "TwinExecutable",
    "fact_range",
    "facts_of",
    "joules_by_source",
    "lower",
    "machine",
    "own_error",
    "place",
    "schedule",
    "shardings",
    "share",
    "simulate",
    "spreads",
    "step_cost",
    "step_joules",
    "ticks",
    "twin",
]
