"""What lowering has in hand: values that are yet to be read, and kernels in the making."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

from anychip.core import Argument, Origin
from anychip.ops.table import OPS
from anychip.ops.view import OpView, Value
from anychip.ops.work import Work
from anychip.twin.layout import WHOLE, Layout
from anychip.twin.lowered import Amounts, Kernel
from anychip.twin.reading import Matmul, title

Kind = Literal["activation", "weight", "state", "constant"]
NO_WORK = Work()


@dataclass(frozen=True, eq=False)
class Held:
    """A value while lowering: what reading it costs, which kernel makes it, what is yet to do.

    `reads` maps the arrays behind it to (kind, bytes). `pending` are ops nobody has done yet.
    """

    kind: Kind
    reads: dict[Hashable, tuple[Kind, float]]
    group: Group | None = None
    pending: tuple[OpView, ...] = ()
    layout: Layout = WHOLE

    @property
    def nbytes(self) -> float:
        return sum(size for _, size in self.reads.values())

    @property
    def like(self) -> Hashable:
        """Equal for operands that lower a function alike."""
        return (self.kind, self.nbytes, self.layout)


@dataclass(eq=False)
class Group:
    """A kernel in the making."""

    index: int
    segment: int
    root: OpView
    origin: Origin
    is_split: bool = False
    ops: list[str] = field(default_factory=list[str])
    matrix: Work = NO_WORK
    other: Work = NO_WORK
    unpack: float = 0.0
    reads: dict[Hashable, float] = field(default_factory=dict[Hashable, float])
    weights: dict[Hashable, float] = field(default_factory=dict[Hashable, float])
    state: dict[Hashable, float] = field(default_factory=dict[Hashable, float])
    made: set[Hashable] = field(default_factory=set[Hashable])
    escaped: dict[Hashable, float] = field(default_factory=dict[Hashable, float])
    state_written: float = 0.0
    reduce_bytes: float = 0.0
    gather_bytes: float = 0.0
    state_splits: int = 1
    matmul: Matmul | None = None
    largest: int = -1
    dots: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def kernel(self) -> Kernel:
        collective = self.root.callee is None and OPS[self.root.name].unit == "collective"
        matmul = self.matmul or Matmul(())
        amounts = Amounts(
            flops=self.matrix.flops,
            vector_flops=self.other.flops,
            unpack_flops=self.unpack,
            transcendentals=self.matrix.transcendentals + self.other.transcendentals,
            weight_bytes=sum(self.weights.values()),
            state_read_bytes=sum(self.state.values()),
            state_written_bytes=self.state_written,
            read_bytes=sum(self.reads.values()),
            written_bytes=sum(self.escaped.values()),
            reduce_bytes=self.reduce_bytes,
            gather_bytes=self.gather_bytes,
            rows=matmul.rows,
        )
        computes = amounts.vector_flops + amounts.transcendentals > 0
        return Kernel(
            name=title(self.root),
            unit="collective"
            if collective
            else "matmul"
            if self.matmul
            else "vector"
            if computes
            else "move",
            amounts=amounts,
            formats=matmul.formats,
            stored=matmul.stored,
            is_split=self.is_split,
            state_splits=self.state_splits,
            experts=matmul.experts,
            active=matmul.active,
            dots=tuple(self.dots),
            ops=tuple(self.ops),
            origin=self.origin,
        )


def argument_of(value: Value, argument: Argument) -> Held:
    """What an argument of the module holds: itself, read whole."""
    kind: Kind = "activation" if argument.role == "input" else argument.role
    return Held(kind, {value: (kind, float(argument.nbytes))})


def parameter_of(value: Value, held: Held) -> Held:
    """What a function's parameter holds, in terms of the parameter itself."""
    reads: dict[Hashable, tuple[Kind, float]] = {}
    if held.kind != "constant":
        reads = {value: (held.kind, held.nbytes)}
    return Held(
        held.kind, reads, None, held.pending if held.kind != "activation" else (), held.layout
    )


def written_whole(value: Value) -> dict[Hashable, tuple[Kind, float]]:
    """The reads of a value that lies in memory, whoever made it."""
    return {value: ("activation", float(value.spec.nbytes))}
