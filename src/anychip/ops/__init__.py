"""What StableHLO ops mean, what they ask of a chip, and how a Module is walked and evaluated."""

from anychip.ops.table import OPS, Case, Op, Unit, case, op
from anychip.ops.view import Block, OpView, Program, Spec, Value, program
from anychip.ops.walk import Root, Step, total, walk, work_inside
from anychip.ops.work import Work

__all__ = [
    "OPS",
    "Block",
    "Case",
    "Op",
    "OpView",
    "Program",
    "Root",
    "Spec",
    "Step",
    "Unit",
    "Value",
    "Work",
    "case",
    "op",
    "program",
    "total",
    "walk",
    "work_inside",
]
