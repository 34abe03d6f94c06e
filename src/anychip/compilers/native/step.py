"""The native function of a whole step: it goes through a table of tasks, on every thread at once.

Kernels are code with their sizes built in; the table says which one runs on which memory, so the
code does not grow with the number of layers. `step(context, thread)`: see `Context`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llvmlite.ir as llvm
import numpy as np

from anychip.compilers.native.claims import KERNEL, LINE, emit_shared
from anychip.compilers.native.ir import I64, POINTER, Function, Value
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels.matmul_block import BlockMatmul
from anychip.compilers.native.plan import (
    MOST_OPERANDS,
    Buffer,
    Foreign,
    Kernel,
    Outside,
    Place,
    Plan,
)
from anychip.compilers.native.pool import emit_barrier

STAMPS = 3
"""Clock readings a traced task leaves: before its barrier, before its kernel, after it."""

_HEAD = 6
_ROW = _HEAD + 2 * MOST_OPERANDS
"""Words of a table row: kernel, units, whether each thread does all, whether to meet first, which
counters its units are claimed by (-1: each thread has its part) and how many at least, then slot
and offset of each operand."""


@dataclass(frozen=True)
class Context:
    """Where each pointer stands in the context. STAMPS is 0 in a step that is not traced. A step
    runs the tasks from FROM to TO: all of them, or what lies between two pieces of cpu:xla.
    COUNTERS is memory of `counter_bytes`.

    After FIRST come the outside arguments, then the results that are no state.
    """

    plan: Plan

    CONTROL, TABLE, STAMPS, FROM, TO, COUNTERS, IMAGE, SHARED, PRIVATE, FIRST = range(10)

    @property
    def counter_bytes(self) -> int:
        """A counter for each claimed task and thread."""
        return len(self.plan.claimed) * self.plan.threads * LINE

    def result(self, name: str) -> int:
        new = [r.name for r in self.plan.signature.results if r.updates is None]
        return self.FIRST + len(self.plan.outside) + new.index(name)

    @property
    def size(self) -> int:
        new = [r for r in self.plan.signature.results if r.updates is None]
        return self.FIRST + len(self.plan.outside) + len(new)


def table(plan: Plan, places: dict[Any, int]) -> np.ndarray:
    """i64[tasks, words]: what `step` reads. `places` are the offsets in the packed image."""
    context = Context(plan)
    numbers = {name: index for index, name in enumerate(_codes(plan))}
    arguments = {a.name: context.FIRST + i for i, a in enumerate(plan.outside)}
    counters = {index: at for at, index in enumerate(plan.claimed)}

    def where(place: Place) -> tuple[int, int]:
        match place:
            case Buffer(result=result) if result:
                return context.result(result), 0
            case Buffer(private=private):
                slot = context.PRIVATE if private else context.SHARED
                return slot, plan.offsets[place]
            case Outside(argument=argument):
                return arguments[argument.name], 0
        return context.IMAGE, places[place]

    rows = np.zeros((len(plan.tasks), _ROW), np.int64)
    for index, task in enumerate(plan.tasks):
        if isinstance(task.kernel, Foreign):
            continue
        head = (
            numbers[_code(task.kernel).name],
            task.kernel.units,
            task.each,
            index in plan.barriers,
            counters.get(index, -1),
            task.kernel.piece,
        )
        rows[index, :_HEAD] = head
        for at, operand in enumerate(task.operands):
            slot, start = where(operand.place)
            word = _HEAD + 2 * at
            rows[index, word : word + 2] = slot, start + operand.offset
    return rows


def write_kernel(module: llvm.Module, kernel: Kernel, isa: Isa) -> llvm.Function:
    """`name(operands, first, last)`: units first … last - 1 on memory at the pointers given."""
    f = Function(module, kernel.name, [("operands", POINTER), ("first", I64), ("last", I64)])
    f.raw.attributes.add("noinline")
    with f:
        for index, name in enumerate(kernel.operands):
            f.arguments[name] = f.arguments["operands"].at(8 * index).load(POINTER)
        kernel.emit(f, isa, f.arguments["first"], f.arguments["last"])
    return f.raw


def _code(kernel: Kernel) -> Kernel:
    return kernel.code if isinstance(kernel, BlockMatmul) else kernel


def _codes(plan: Plan) -> dict[str, Kernel]:
    """Kernels to write, by name: several of a plan's may share their code."""
    return {code.name: code for code in map(_code, plan.kernels)}


def write_step(plan: Plan, isa: Isa) -> llvm.Module:
    """The module with the plan's kernels and `step`."""
    module = llvm.Module(plan.name)
    barrier = emit_barrier(module, plan.threads)
    kernels = [write_kernel(module, kernel, isa) for kernel in _codes(plan).values()]
    for one in kernels:
        one.linkage = "internal"
    kind = llvm.ArrayType(POINTER, len(kernels))
    every: Any = llvm.GlobalVariable(module, kind, "kernels")
    every.linkage, every.global_constant = "internal", True
    every.initializer = llvm.Constant(kind, [k.bitcast(POINTER) for k in kernels])
    f = Function(module, "step", [("context", POINTER), ("thread", I64)])
    with f:
        _write_loop(f, plan, f.plain_pointer(every), barrier)
    return module


def _write_loop(f: Function, plan: Plan, kernels: Value, barrier: Any) -> None:
    context, thread = f.arguments["context"], f.arguments["thread"]
    pointers = f.room(8 * MOST_OPERANDS)
    control = context.at(8 * Context.CONTROL).load(POINTER)
    rows = context.at(8 * Context.TABLE).load(POINTER)
    stamps = context.at(8 * Context.STAMPS).load(I64)
    count = len(plan.tasks)
    own_stamps = stamps + thread * (count * STAMPS * 8)

    def stamp(index: Value, which: int) -> None:
        with f.when(stamps > 0):
            place = own_stamps + (index * STAMPS + which) * 8
            pointer = Value(f, f.builder.inttoptr(place.raw, POINTER))
            pointer.store(f.intrinsic("llvm.readcyclecounter", I64))

    counters = context.at(8 * Context.COUNTERS).load(POINTER)
    shared = emit_shared(f.module, plan.threads)
    with f.loop(0, len(plan.claimed)) as index:
        counters.at((index * plan.threads + thread) * LINE).store(f.i64(0))
    begin, end = (context.at(8 * slot).load(I64) for slot in (Context.FROM, Context.TO))
    with f.loop(begin, end) as index:
        row = rows.at(index * (8 * _ROW))
        kernel, units, each, meet, claims, piece = (row.at(8 * i).load(I64) for i in range(_HEAD))
        stamp(index, 0)
        with f.when(meet > 0):
            f.builder.call(barrier, [control.raw])
        stamp(index, 1)
        for at in range(MOST_OPERANDS):
            slot, offset = (row.at(8 * (_HEAD + 2 * at + i)).load(I64) for i in range(2))
            base = context.at(slot * 8).load(POINTER)
            own = thread * plan.private_bytes
            more = f.select(slot.equals(Context.PRIVATE), own, f.i64(0))
            pointers.at(8 * at).store(base.at(offset).at(more))
        code = kernels.at(kernel * 8).load(POINTER)
        with f.either(claims < 0) as (parted, claimed):
            with parted:
                first = f.select(each > 0, f.i64(0), (thread * units) // plan.threads)
                last = f.select(each > 0, units, ((thread + 1) * units) // plan.threads)
                f.call_pointer(code, KERNEL, pointers, first, last)
            with claimed:
                own = counters.at(claims * (plan.threads * LINE))
                given = (code, pointers, own, units, piece, thread)
                f.builder.call(shared, [v.raw for v in given])
        stamp(index, 2)
