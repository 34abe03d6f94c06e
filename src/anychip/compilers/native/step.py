"""The native function of a whole step: its kernels called one after the other, by every thread.

`step(context, thread)`: context is a row of pointers, see `Context`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llvmlite.ir as llvm

from anychip.compilers.native.ir import I64, POINTER, Function, Value
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.plan import (
    Buffer,
    Constant,
    Operand,
    Outside,
    PackedWeight,
    Plan,
)
from anychip.compilers.native.pool import emit_barrier

STAMPS = 3
"""Clock readings a traced task leaves: before its barrier, before its kernel, after it."""


@dataclass(frozen=True)
class Context:
    """Where each pointer stands in the context: the control block, the packed image, the arena,
    the stamps of a traced step, then the outside arguments, then the results that are no state."""

    plan: Plan

    CONTROL, IMAGE, ARENA, STAMPS, FIRST = range(5)

    def argument(self, name: str) -> int:
        return self.FIRST + [a.name for a in self.plan.outside].index(name)

    def result(self, name: str) -> int:
        new = [r.name for r in self.plan.results if r.updates is None]
        return self.FIRST + len(self.plan.outside) + new.index(name)

    @property
    def size(self) -> int:
        new = [r for r in self.plan.results if r.updates is None]
        return self.FIRST + len(self.plan.outside) + len(new)


def write_step(
    plan: Plan, places: dict[PackedWeight | Constant, int], isa: Isa, *, traced: bool = False
) -> llvm.Module:
    """The module with `step`. `places` are the offsets in the packed image."""
    module = llvm.Module(plan.name)
    barrier = emit_barrier(module, plan.threads)
    for kernel in plan.kernels:
        parameters = [(name, POINTER) for name in kernel.operands]
        f = Function(module, kernel.name, [*parameters, ("first", I64), ("last", I64)])
        f.raw.linkage = "internal"
        f.raw.attributes.add("noinline")
        with f:
            kernel.emit(f, isa, f.arguments["first"], f.arguments["last"])
    f = Function(module, "step", [("context", POINTER), ("thread", I64)])
    with f:
        _Writer(f, plan, places, barrier, traced).write()
    return module


class _Writer:
    def __init__(
        self,
        f: Function,
        plan: Plan,
        places: dict[PackedWeight | Constant, int],
        barrier: Any,
        traced: bool,
    ):
        self._f, self._plan, self._places, self._barrier = f, plan, places, barrier
        self._traced = traced
        self._context, self._thread = f.arguments["context"], f.arguments["thread"]
        self._slots = Context(plan)
        self._image, self._arena = self._pointer(Context.IMAGE), self._pointer(Context.ARENA)
        self._private = self._arena.at(self._thread * plan.private_bytes + plan.shared_bytes)
        self._shares: dict[int, tuple[Value, Value]] = {}
        for units in sorted({t.kernel.units for t in plan.tasks if not t.each}):
            first = (self._thread * units) // plan.threads
            self._shares[units] = (first, ((self._thread + 1) * units) // plan.threads)

    def write(self) -> None:
        f, module = self._f, self._f.module
        for index, task in enumerate(self._plan.tasks):
            self._stamp(index, 0)
            if index in self._plan.barriers:
                self._meet()
            self._stamp(index, 1)
            first, last = f.i64(0), f.i64(task.kernel.units)
            if not task.each:
                first, last = self._shares[task.kernel.units]
            pointers = [self._at(o).raw for o in task.operands]
            kernel = module.get_global(task.kernel.name)
            f.builder.call(kernel, [*pointers, first.raw, last.raw])
            self._stamp(index, 2)
        self._meet()

    def _meet(self) -> None:
        self._f.builder.call(self._barrier, [self._pointer(Context.CONTROL).raw])

    def _pointer(self, slot: int) -> Value:
        return self._context.at(8 * slot).load(POINTER)

    def _at(self, operand: Operand) -> Value:
        place = operand.place
        match place:
            case Buffer(result=result) if result:
                base = self._pointer(self._slots.result(result))
            case Buffer(private=True):
                base = self._private.at(self._plan.offsets[place])
            case Buffer():
                base = self._arena.at(self._plan.offsets[place])
            case Outside(argument=argument):
                base = self._pointer(self._slots.argument(argument.name))
            case _:
                base = self._image.at(self._places[place])
        return base.at(operand.offset)

    def _stamp(self, index: int, which: int) -> None:
        if not self._traced:
            return
        now = self._f.intrinsic("llvm.readcyclecounter", I64)
        count = len(self._plan.tasks)
        row = self._pointer(Context.STAMPS).at(self._thread * (count * STAMPS * 8))
        row.at((index * STAMPS + which) * 8).store(now)
