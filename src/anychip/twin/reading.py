"""Facts about single ops that lowering needs: can it fuse, what does it compute, in what format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anychip.core import dtype
from anychip.core.blocks import BLOCK_FORMATS
from anychip.ops.attributes import RaggedDotDims
from anychip.ops.table import OPS
from anychip.ops.view import Block, OpView, Program
from anychip.ops.walk import UPDATES
from anychip.ops.work import Work

if TYPE_CHECKING:
    from anychip.ops.composite import Composite

MOVES = frozenset(
    f"stablehlo.{name}"
    for name in (
        "bitcast_convert",
        "broadcast",
        "broadcast_in_dim",
        "concatenate",
        "constant",
        "convert",
        "dynamic_slice",
        "iota",
        "optimization_barrier",
        "pad",
        "reshape",
        "reverse",
        "slice",
        "transpose",
    )
)
"""Ops that place elements and can be done by whoever reads or writes them."""

RENAMES = frozenset({"stablehlo.reshape", "stablehlo.bitcast_convert"})
"""Ops after which the same bytes lie in the same places."""

TURNS = RENAMES | {"stablehlo.transpose"}
"""Ops after which another axis may be the last."""

SLICES = frozenset({"stablehlo.slice", "stablehlo.dynamic_slice"})
LOOKUPS = frozenset({"stablehlo.gather", "stablehlo.dynamic_gather"})
BRANCHES = frozenset({"stablehlo.if", "stablehlo.case"})
CACHE_UPDATE = "anychip.cache_update"

UNPACK_FLOPS = {True: 8, False: 4}
"""Vector operations, in f32 FLOPs of equal time, to turn one stored weight into a number; True for
weights under eight bits. A conversion, a bit operation and a multiply-add each take the slot of a
multiply-add, 2 FLOPs (NVIDIA, "CUDA C++ Programming Guide", arithmetic throughput, 8.0): convert
and scale 4; mask and shift 4 more."""


@dataclass(frozen=True)
class Matmul:
    """How a matmul is asked for: formats that do it exactly (best first), the weights' stored
    format, and for a grouped one its experts, rows, and experts a row's token takes."""

    formats: tuple[str, ...]
    stored: str = ""
    experts: int = 0
    rows: int = 0
    active: int = 1
    unpack_flops: float = 0.0


NOTHING = (Work(), Work())


class Reader:
    """Answers about the ops of one Program, remembered by function."""

    def __init__(self, program: Program):
        self.program = program
        self._fusible: dict[str, bool] = {}
        self._matmuls: dict[str, int] = {}
        self._work: dict[str, tuple[Work, Work]] = {}
        self._calls = Counter(
            op.callee
            for block in program.functions.values()
            for op in block.ops
            if op.name == "func.call"
        )

    def work(self, op: OpView) -> tuple[Work, Work]:
        """(work of the matrix unit, work of all others) of an op; bytes are not to be used.

        A composite of ours states its own; of any other, everything inside counts.
        """
        known = _composite_of(op)
        if known is not None:
            done = known.work(op)
            return (done, Work()) if known.unit == "matmul" else (Work(), done)
        if op.callee is not None:
            if op.callee not in self._work:
                self._work[op.callee] = self._inside(self.program.function(op.callee))
            return self._work[op.callee]
        entry = OPS[op.name]
        done = entry.work(op)
        return (done, Work()) if entry.unit == "matmul" else (Work(), done)

    def _inside(self, block: Block) -> tuple[Work, Work]:
        matrix, other = Work(), Work()
        for op in block.ops:
            first, second = self.work(op)
            matrix, other = matrix + first, other + second
            for region in op.regions:
                first, second = self._inside(region) if self._count(region) else NOTHING
                matrix, other = matrix + first, other + second
        return matrix, other

    def is_fusible(self, op: OpView) -> bool:
        """Whether neighbours can do the op on the way: it is elementwise, or places elements."""
        if op.callee is not None:
            if op.callee not in self._fusible:
                ops = self.program.function(op.callee).ops
                self._fusible[op.callee] = all(self.is_fusible(one) for one in ops)
            return self._fusible[op.callee]
        if op.name in MOVES:
            return True
        if OPS[op.name].unit != "vector" or op.regions or not op.outputs:
            return False
        shape = op.outputs[0].shape
        return all(one.shape in (shape, ()) for one in (*op.inputs, *op.outputs))

    def is_repeated(self, function: str) -> bool:
        """Whether a function is a layer: called more than once, with at least two matmuls."""
        return self._calls.get(function, 0) > 1 and self.matmuls(function) > 1

    def matmuls(self, function: str) -> int:
        """How many matmuls one call of a function does."""
        if function not in self._matmuls:
            self._matmuls[function] = self._count(self.program.function(function))
        return self._matmuls[function]

    def _count(self, block: Block) -> int:
        inside = sum(self._count(region) for op in block.ops for region in op.regions)
        return inside + sum(
            self.matmuls(op.callee) if op.callee is not None else OPS[op.name].unit == "matmul"
            for op in block.ops
        )

    def is_matmul(self, op: OpView) -> bool:
        known = _composite_of(op)
        if known is not None:
            return known.unit == "matmul"
        if op.callee is not None:
            return self.matmuls(op.callee) > 0
        return not op.regions and OPS[op.name].unit == "matmul"

    def matmul(self, op: OpView) -> Matmul:
        """What a matmul asks of the matrix unit.

        `activation` of a composite names the format both sides are multiplied in; without it the
        weights are unpacked to the activations' own type.
        """
        given = attributes(op)
        x = op.inputs[0].dtype
        if op.callee is None:
            x = max((spec.dtype for spec in op.inputs[:2]), key=lambda name: dtype(name).bits)
        first = str(given.get("activation") or "")
        stored = str(given.get("format") or "")
        if "activation" in given and not stored:
            stored = op.inputs[1].dtype
        experts, rows, active = _experts(op, given)
        unpack = 0.0
        if stored:
            each = op.inputs[0].sizes[-1] * op.outputs[0].sizes[-1]
            unpack = float(UNPACK_FLOPS[_is_narrow(stored)] * each * max(experts, 1))
        return Matmul((first, x) if first else (x,), stored, experts, rows, active, unpack)

    def inside(self, function: str) -> list[OpView]:
        """Every op of a function and of those it calls, regions left out."""
        ops = list(self.program.function(function).ops)
        return ops + [o for op in ops if op.callee is not None for o in self.inside(op.callee)]


def _is_narrow(name: str) -> bool:
    if name in BLOCK_FORMATS:
        return BLOCK_FORMATS[name].bits_per_element < 8
    return dtype(name).bits < 8


def _experts(op: OpView, given: Mapping[str, Any]) -> tuple[int, int, int]:
    """(experts, rows, experts a token takes) of a grouped matmul, zeros of a dense one."""
    if "active" in given:
        x = op.inputs[0]
        return op.inputs[1].sizes[0], x.size // max(x.sizes[-1], 1), int(given["active"])
    dims = op.attributes.get("ragged_dot_dimension_numbers")
    if not isinstance(dims, RaggedDotDims) or not dims.rhs_group:
        return 0, 0, 1
    return op.inputs[1].sizes[dims.rhs_group[0]], op.inputs[0].sizes[dims.lhs_ragged[0]], 1


def attributes(op: OpView) -> Mapping[str, Any]:
    """A composite's attributes, nothing for other ops."""
    return op.attributes.get("composite_attributes", {}) if op.callee is not None else {}


def title(op: OpView) -> str:
    """The name a kernel takes from the op it is built around."""
    return str(op.attributes["name"]) if op.name == "stablehlo.composite" else op.name


def updates_in_place(op: OpView) -> bool:
    """Whether the op's result is its first operand with some elements replaced."""
    return op.name in UPDATES or title(op) == CACHE_UPDATE


def _composite_of(op: OpView) -> Composite | None:
    # Imported here: the composites' bodies are JAX, and every chip package imports the twin.
    from anychip.ops.composites import composite_of

    return composite_of(op)
