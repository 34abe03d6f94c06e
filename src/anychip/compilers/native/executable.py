"""A step compiled natively: run it, trace it, look at its plan and its code."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anychip.compilers import hugepages
from anychip.compilers.native import jit
from anychip.compilers.native.cover import EIGHT_BITS
from anychip.compilers.native.foreign import Piece
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.pack import Image
from anychip.compilers.native.plan import (
    Buffer,
    Constant,
    Foreign,
    Operand,
    Outside,
    PackedWeight,
    Plan,
    Task,
)
from anychip.compilers.native.pool import Pool
from anychip.compilers.native.step import STAMPS, Context, table
from anychip.core import Argument, Coverage, Span, Trace, UsageError, Weights, dtype

ROUNDED = 16 / 254
"""How far results may lie from exact arithmetic, ‖Δ‖ / ‖result‖, where products round activations
to 8 bits: 16 unit roundoffs (half a step at a group's largest number), as for twins' formats."""


Kind = tuple[tuple[int, ...], str]
"""Shape and element type."""
_LINE = 64


class State(np.ndarray):
    """A KV cache that steps update in place. Only what a run returns is one; views of it are not.

    `address` is where it lies.
    """

    address: int = 0
    kind: Kind | None = None

    @staticmethod
    def of(array: np.ndarray, kind: Kind, room: Room) -> State:
        """A copy that starts on a cache line of `room`."""
        own = room.take(array.nbytes).view(array.dtype).reshape(array.shape)
        own[...] = array
        made = own.view(State)
        made.address, made.kind = own.ctypes.data, kind
        return made


class Room:
    """Memory for the caches of one step, side by side: a layer's own is often smaller than a huge
    page. It lasts as long as any of them."""

    def __init__(self, sizes: Iterable[int]):
        size = sum(-(-one // _LINE) * _LINE for one in sizes)
        # Little is not worth the system's zeroing a huge page.
        memory = (
            hugepages.buffer(size) if size >= hugepages.PAGE else np.zeros(size + _LINE, np.uint8)
        )
        self._memory = np.frombuffer(memory, np.uint8)
        self._at = -self._memory.ctypes.data % _LINE

    def take(self, size: int) -> np.ndarray:
        start = self._at
        self._at += -(-size // _LINE) * _LINE
        return self._memory[start : start + size]


@dataclass(eq=False)
class NativeExecutable:
    """A loaded step. One run at a time: it works in memory of its own.

    `run` takes numpy arrays (or what numpy can read). State given as such is copied; state that
    an earlier run returned is updated in place, and returned again: it is donated, as the
    protocol says. Other results are new arrays.
    """

    target: str
    plan: Plan
    weights: Weights
    image: Image
    pool: Pool
    isa: Isa
    code: jit.Code
    pieces: Mapping[Foreign, Piece]
    artifacts: Mapping[str, str | bytes]
    _running: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.signature = self.plan.signature
        self.coverage = Coverage(self.plan.coverage)
        is_rounded = any(row.why == EIGHT_BITS for row in self.plan.coverage)
        self.tolerance = ROUNDED if is_rounded else None
        self._slots = Context(self.plan)
        size = self.plan.shared_bytes + self.plan.threads * self.plan.private_bytes
        self._arena = Room([size]).take(size)
        arena = self._arena.ctypes.data
        self._foreign_weights: dict[str, np.ndarray] = {}
        self._table = table(self.plan, dict(self.image.offsets))
        self._context = np.zeros(self._slots.size, np.int64)
        self._context[Context.CONTROL] = self.pool.control
        self._context[Context.IMAGE] = self.image.address
        self._context[Context.TABLE] = self._table.ctypes.data
        self._counters = Room([self._slots.counter_bytes]).take(self._slots.counter_bytes)
        self._context[Context.COUNTERS] = self._counters.ctypes.data
        self._context[Context.SHARED] = arena
        self._context[Context.PRIVATE] = arena + self.plan.shared_bytes
        self._arguments = [
            (a, (tuple(int(d) for d in a.shape), a.dtype), a.role == "state")
            for a in self.plan.outside
        ]
        self._names = [a.name for a in self.plan.outside]
        self._result_names = [r.name for r in self.plan.signature.results]
        self._results = [
            (r.updates, tuple(int(d) for d in r.shape), dtype(r.dtype).numpy)
            for r in self.plan.signature.results
        ]

    def run(self, *inputs: Any) -> Sequence[Any]:
        """See the class. Raises UsageError for a wrong number, shape or element type and for one
        state given twice."""
        with self._running:
            return self._run(inputs)

    def _run(self, inputs: Sequence[Any]) -> list[Any]:
        if len(inputs) != len(self._arguments):
            raise UsageError(
                f"{self.plan.name} takes {len(self._arguments)} arrays besides its weights "
                f"({', '.join(self._names)}), got {len(inputs)}"
            )
        room: Room | None = None
        addresses: list[int] = []
        held: dict[str, Any] = {}
        seen: set[int] = set()
        for (argument, kind, is_state), value in zip(self._arguments, inputs, strict=True):
            if type(value) is not State or value.kind != kind or not is_state:
                array = self._checked(argument, kind, value)
                if is_state:
                    room = room or Room(a.nbytes for a, _, is_state in self._arguments if is_state)
                    value = State.of(array, kind, room)
                else:
                    value = np.ascontiguousarray(array)
                address = value.ctypes.data
            else:
                address = value.address
                if address in seen:
                    raise UsageError(
                        f"state {argument.name} is the same array as another state; "
                        "give each what the last run returned for it"
                    )
                seen.add(address)
            addresses.append(address)
            held[argument.name] = value
        results: list[Any] = []
        for updates, shape, element in self._results:
            if updates is not None:
                results.append(held[updates])
                continue
            results.append(np.empty(shape, element))
            addresses.append(results[-1].ctypes.data)
        own = dict(zip(self._result_names, results, strict=True))
        self._context[Context.FIRST :] = addresses
        start, step = 0, self.code.address("step")
        for stop in (*self.plan.pieces, len(self.plan.tasks)):
            if stop > start:
                self._context[[Context.FROM, Context.TO]] = start, stop
                self.pool.run(step, self._context.ctypes.data)
            if stop < len(self.plan.tasks):
                self._fall_back(self.plan.tasks[stop], held, own)
            start = stop + 1
        return results

    def _fall_back(self, task: Task, held: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        """One piece on cpu:xla: from the arena, and back into it."""
        kernel = task.kernel
        assert isinstance(kernel, Foreign)
        arrays = [
            self._array(operand, *kind, held, own)
            for operand, kind in zip(task.reads, kernel.inputs, strict=True)
        ]
        result = self.pieces[kernel](*arrays)
        self._array(task.written, *kernel.result, held, own)[...] = result

    def _array(
        self,
        operand: Operand,
        shape: tuple[int, ...],
        element: str,
        strides: tuple[int, ...],
        held: Mapping[str, Any],
        own: Mapping[str, Any],
    ) -> Any:
        """What a piece's operand points at, as an array."""
        flat = self._flat(operand.place, element, held, own)
        start = operand.offset // flat.itemsize
        steps = tuple(s * flat.itemsize for s in strides)
        return np.lib.stride_tricks.as_strided(flat[start:], shape, steps)

    def _flat(
        self, place: Any, element: str, held: Mapping[str, Any], own: Mapping[str, Any]
    ) -> np.ndarray:
        """A place as one row of numbers, floats between kernels being f32. `held` are arguments and
        `own` the results of this run, by name."""
        match place:
            case PackedWeight(argument=name):
                if name not in self._foreign_weights:
                    array = np.ascontiguousarray(self.weights[name].array())
                    self._foreign_weights[name] = array.reshape(-1)
                return self._foreign_weights[name]
            case Outside(argument=argument):
                return np.asarray(held[argument.name]).reshape(-1)
            case Buffer(result=name) if name:
                return np.asarray(own[name]).reshape(-1)
        wide = np.dtype(np.float32) if dtype(element).kind == "float" else dtype(element).numpy
        if isinstance(place, Constant):
            return np.frombuffer(place.data, wide)
        assert isinstance(place, Buffer)
        base = self.plan.shared_bytes if place.private else 0
        start = base + self.plan.offsets[place]
        size = -(-place.nbytes // wide.itemsize) * wide.itemsize
        return self._arena[start : start + size].view(wide)

    def _checked(self, argument: Argument, kind: tuple[tuple[int, ...], str], value: Any) -> Any:
        array = np.asarray(value)
        if array.shape != kind[0] or array.dtype != dtype(kind[1]).numpy:
            raise UsageError(
                f"{argument.role} {argument.name} of {self.plan.name} should be "
                f"{argument.dtype}{list(argument.shape)}, got {array.dtype}{list(array.shape)}"
            )
        return array

    def trace(self, *inputs: Any) -> Trace:
        """Spans of every kernel on every thread in one run that reads the clock, after one run to
        warm up. State is copied first. Waiting at a barrier is a span of its own, op "wait"."""
        count, threads = len(self.plan.tasks), self.plan.threads
        stamps = np.zeros((threads, count, STAMPS), np.int64)
        with self._running:
            self._run([np.array(v) for v in inputs])
            self._context[Context.STAMPS] = stamps.ctypes.data
            started = time.perf_counter()
            self._run([np.array(v) for v in inputs])
            seconds = time.perf_counter() - started
            self._context[Context.STAMPS] = 0
        _fill_pieces(stamps, self.plan.pieces)
        ticks = (stamps - stamps[:, :1, :1].min()).astype(np.float64)
        tick_s = _tick_seconds()
        note = f"{seconds * 1e3:.3f} ms with clock readings, {threads} threads, {self.isa.name}"
        return Trace("measured", self.target, tuple(self._spans(ticks * tick_s)), note)

    def _spans(self, times: np.ndarray) -> Iterator[Span]:
        for thread, row in enumerate(times):
            for task, (waits, starts, ends) in zip(self.plan.tasks, row, strict=True):
                resource = f"thread {thread}"
                if starts - waits > 1e-7:
                    yield Span(resource=resource, op="wait", start_s=waits, end_s=starts)
                weights = sum(o.place.nbytes for o in task.operands if _is_weight(o.place))
                share = weights / (1 if task.each else self.plan.threads)
                yield Span(
                    resource=resource,
                    op=task.kernel.name,
                    start_s=starts,
                    end_s=ends,
                    origin=task.origin,
                    read_bytes=share or None,
                )


def _fill_pieces(stamps: np.ndarray, pieces: Sequence[int]) -> None:
    """cpu:xla reads no clock: pieces in a row share evenly what the kernels around them leave."""
    count = stamps.shape[1]
    groups: list[list[int]] = []
    for piece in pieces:
        if groups and groups[-1][-1] == piece - 1:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    for group in groups:
        first, last = group[0], group[-1]
        end = stamps[:, last + 1, 0] if last + 1 < count else stamps[:, max(first - 1, 0), 2]
        start = stamps[:, first - 1, 2] if first else end
        for at, piece in enumerate(group):
            share = [start + (end - start) * (at + more) // len(group) for more in (0, 1)]
            stamps[:, piece] = np.stack([share[0], share[0], share[1]], axis=-1)


def _is_weight(place: Any) -> bool:
    return isinstance(place, PackedWeight)


def _tick_seconds() -> float:
    """Seconds of one step of the clock that traced code reads, over 20 ms."""
    import ctypes

    import llvmlite.ir as llvm

    from anychip.compilers.native.ir import I64, POINTER, Function
    from anychip.compilers.native.isa import choose

    module = llvm.Module("clock")
    f = Function(module, "clock", [("out", POINTER)])
    with f:
        f.arguments["out"].store(f.intrinsic("llvm.readcyclecounter", I64))
    code = jit.build(module, ["clock"], choose("generic"))
    read = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address("clock"))
    ticks = np.zeros(2, np.int64)
    started = time.perf_counter()
    read(ticks.ctypes.data)
    time.sleep(0.02)
    seconds = time.perf_counter() - started
    read(ticks.ctypes.data + 8)
    return seconds / float(ticks[1] - ticks[0])


class Artifacts(Mapping[str, str | bytes]):
    """Stage → text, made when first looked at."""

    def __init__(self, stages: Mapping[str, Callable[[], str]]):
        self._stages = dict(stages)
        self._made: dict[str, str] = {}

    def __getitem__(self, stage: str) -> str:
        if stage not in self._made:
            self._made[stage] = self._stages[stage]()
        return self._made[stage]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stages)

    def __len__(self) -> int:
        return len(self._stages)
