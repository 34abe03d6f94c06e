"""A step planned: which kernels run in which order on which memory, and where threads must meet.

Data only. `read.py` makes tasks of a Module, `memory.py` places and synchronises them, `step.py`
writes the code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from anychip.core import Argument, OpCoverage, Origin, Signature

MOST_OPERANDS = 6
"""Of one task."""


class Kernel(Protocol):
    """One specialised native function: `name(operands…, first unit, last unit)`.

    `units` is how much work there is to share. A light kernel may be done by every thread for
    itself, which saves a barrier. A `row_local` one reads and writes, in unit u, only the u-th of
    `units` equal parts of its buffers. `piece`: so many units at least a thread claims at a time
    while the task runs (claims.py); 0 where each has its part, as whatever is light or row-local.
    The last operand is what is written, the others are read.
    """

    @property
    def name(self) -> str: ...
    @property
    def units(self) -> int: ...
    @property
    def operands(self) -> tuple[str, ...]: ...
    @property
    def is_light(self) -> bool: ...
    @property
    def row_local(self) -> bool: ...
    @property
    def piece(self) -> int: ...
    def emit(self, f: Any, isa: Any, first: Any, last: Any) -> None: ...


@dataclass(eq=False)
class Buffer:
    """Memory between tasks. Private: each thread has its own. `result` names the result it is."""

    label: str
    nbytes: int
    private: bool = False
    result: str = ""


@dataclass(frozen=True)
class PackedWeight:
    """A weight in the order of a kernel's tiles. `format` is a block format or element type."""

    argument: str
    format: str
    rows: int
    depth: int
    nbytes: int


@dataclass(frozen=True)
class Constant:
    """Numbers of the program, kept with the packed weights."""

    data: bytes
    label: str

    @property
    def nbytes(self) -> int:
        return len(self.data)


@dataclass(frozen=True)
class Outside:
    """An input or state argument, where the caller has it."""

    argument: Argument

    @property
    def nbytes(self) -> int:
        return self.argument.nbytes


Strided = tuple[tuple[int, ...], str, tuple[int, ...]]


@dataclass(frozen=True)
class Foreign:
    """In a kernel's place: op `index` of `function`, which cpu:xla runs between native parts.

    `inputs` and `result` are shape, element type as the op has it (floats between kernels are f32
    all the same) and strides in elements. A weight operand is read from the module.
    """

    function: str
    index: int
    inputs: tuple[Strided, ...]
    result: Strided

    is_light, row_local, units, piece = False, False, 1, 0

    @property
    def name(self) -> str:
        return f"xla_{self.function}_{self.index}"

    @property
    def operands(self) -> tuple[str, ...]:
        return (*(f"in{i}" for i in range(len(self.inputs))), "out")

    def emit(self, f: Any, isa: Any, first: Any, last: Any) -> None:
        raise AssertionError("cpu:xla runs this one")


Place = Buffer | PackedWeight | Constant | Outside


@dataclass(frozen=True)
class Operand:
    """Where a task's pointer points: a place and a distance from its start in bytes. `whole`: no
    row of the place is left out."""

    place: Place
    offset: int = 0
    whole: bool = True


@dataclass(eq=False)
class Task:
    """A kernel on its operands. `each`: every thread does all of it, into private memory."""

    kernel: Kernel
    operands: list[Operand]
    op: str
    origin: Origin
    each: bool = False

    @property
    def reads(self) -> list[Operand]:
        return self.operands[:-1]

    @property
    def written(self) -> Operand:
        return self.operands[-1]


def claimed(tasks: Sequence[Task], threads: int) -> tuple[int, ...]:
    """The tasks whose units threads claim while they run (claims.py)."""

    def is_claimed(task: Task) -> bool:
        piece = task.kernel.piece
        return piece > 0 and not task.each and task.kernel.units >= 2 * threads * piece

    return tuple(i for i, t in enumerate(tasks) if threads > 1 and is_claimed(t))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything `step.py` needs. `barriers` are the tasks before which the threads meet;
    `offsets` places buffers in the shared arena or in each thread's private one."""

    name: str
    threads: int
    tasks: Sequence[Task]
    barriers: frozenset[int]
    offsets: Mapping[Buffer, int]
    shared_bytes: int
    private_bytes: int
    signature: Signature
    coverage: tuple[OpCoverage, ...] = field(repr=False)

    @property
    def outside(self) -> tuple[Argument, ...]:
        """The arguments that are no weights."""
        return tuple(a for a in self.signature.arguments if a.role != "weight")

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """Each distinct kernel once, in order of first use."""
        ours = (t.kernel for t in self.tasks if not isinstance(t.kernel, Foreign))
        return tuple({kernel.name: kernel for kernel in ours}.values())

    @cached_property  # asked at every step
    def pieces(self) -> tuple[int, ...]:
        """The tasks that cpu:xla runs."""
        return tuple(i for i, t in enumerate(self.tasks) if isinstance(t.kernel, Foreign))

    @cached_property
    def claimed(self) -> tuple[int, ...]:
        """See `claimed`."""
        return claimed(self.tasks, self.threads)

    @property
    def image(self) -> tuple[PackedWeight | Constant, ...]:
        """What the packed image holds, in order of first use."""
        found: dict[Any, None] = {}
        for task in self.tasks:
            for operand in task.operands:
                place = operand.place
                is_packed = isinstance(place, PackedWeight | Constant)
                if is_packed and not isinstance(task.kernel, Foreign):
                    found[place] = None
        return tuple(found)

    def text(self) -> str:
        """One line a task, barriers between."""
        lines = [
            f"plan {self.name}: {len(self.tasks)} tasks, {len(self.barriers)} barriers, "
            f"{self.threads} threads, {self.shared_bytes} shared bytes, "
            f"{self.private_bytes} private bytes a thread"
        ]
        for index, task in enumerate(self.tasks):
            if index in self.barriers:
                lines.append("--")
            way = "each thread" if task.each else f"{task.kernel.units} units"
            operands = ", ".join(self._where(o) for o in task.operands)
            lines.append(f"{task.kernel.name} [{way}] ({operands}) at {task.origin}")
        return "\n".join(lines) + "\n"

    def _where(self, operand: Operand) -> str:
        place, more = operand.place, f"+{operand.offset}" if operand.offset else ""
        match place:
            case Buffer(result=result) if result:
                return f"{result}{more}"
            case Buffer():
                return f"{place.label}@{'p' if place.private else 's'}{self.offsets[place]}{more}"
            case PackedWeight():
                return f"{place.argument}:{place.format}{more}"
            case Constant():
                return f"{place.label}{more}"
        return f"{place.argument.name}{more}"
