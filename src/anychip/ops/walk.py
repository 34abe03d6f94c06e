"""Visit every op a Module executes: how often, where it comes from, which arguments it reads.

Calls and composites are followed, loops counted where their trip count is evident. Regions that
compute one scalar of their op (reducers, comparators) are part of that op and not visited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from anychip.core.errors import InputError
from anychip.core.module import Module
from anychip.core.origin import Origin
from anychip.core.signature import Argument
from anychip.ops.table import OPS
from anychip.ops.trips import note, trip_count
from anychip.ops.view import Block, OpView, Program, Value, program
from anychip.ops.work import Work

VIEWS = frozenset(
    f"stablehlo.{name}"
    for name in (
        "reshape",
        "dynamic_reshape",
        "transpose",
        "convert",
        "bitcast_convert",
        "slice",
        "dynamic_slice",
        "real_dynamic_slice",
        "broadcast_in_dim",
        "dynamic_broadcast_in_dim",
        "broadcast",
        "reverse",
        "optimization_barrier",
    )
)
"""Ops whose result holds nothing but elements of their first operand."""

UPDATES = frozenset({"stablehlo.dynamic_update_slice", "stablehlo.scatter"})
"""Ops whose result is their first operand with some elements replaced."""


@dataclass(frozen=True)
class Root:
    """The argument of `main` a value comes from, and the ops it went through, in order.

    Empty `via` is the argument itself. When `is_updated`, an in-place update is among them: a KV
    cache after this step's rows were written.
    """

    argument: Argument
    via: tuple[str, ...] = ()

    @property
    def role(self) -> str:
        return self.argument.role

    @property
    def is_updated(self) -> bool:
        return any(name in UPDATES for name in self.via)


@dataclass(frozen=True)
class Step:
    """One op as executed.

    `origin` is absolute. `count` is how often it runs in one call of `main`; it is exact unless
    `is_counted` is False, which means a loop whose length depends on data (counted once) or a
    branch (each counted once). `roots` says, for each operand, the argument it is a view of.
    `callers` are the functions that were entered to get here, outermost first.
    """

    op: OpView
    origin: Origin
    count: int
    is_counted: bool
    roots: tuple[Root | None, ...]
    callers: tuple[str, ...]
    program: Program

    @property
    def work(self) -> Work:
        """Work of one execution. Calls, composites and control flow have none of their own."""
        return OPS[self.op.name].work(self.op)


def walk(
    module: Module | Program, enter: Callable[[OpView], bool] = lambda op: True
) -> Iterator[Step]:
    """Every op reached from `main`, in execution order; callers before their bodies.

    `enter(op)` decides whether the body of a call, composite, loop or branch is visited too; say
    no for a composite that is to count as one op (and use `work_inside` for what it does).
    """
    read = module if isinstance(module, Program) else program(module)
    summaries = _Summaries(read, enter)
    arguments = tuple(Root(a) for a in read.signature.arguments)
    for step in summaries.steps("main"):
        yield step.placed(Origin(), 1, True, arguments, (), read)


def total(module: Module | Program) -> Work:
    """Work of one call of `main`, each op as if alone (nothing fused)."""
    work = Work()
    for step in walk(module):
        work += step.work * step.count
    return work


def work_inside(step: Step) -> Work:
    """A call or composite as one fused op: its body's arithmetic, its own operand and result bytes.

    A composite whose body reads only part of an operand (a cache) still counts it in full.
    """
    callee = step.op.callee
    if callee is None:
        return step.work
    inner = Work()
    for one in _Summaries(step.program, lambda op: True).steps(callee):
        inner += OPS[one.op.name].work(one.op) * one.count
    return replace(
        inner,
        read_bytes=sum(s.nbytes for s in step.op.inputs),
        written_bytes=sum(s.nbytes for s in step.op.outputs),
    )


@dataclass(frozen=True)
class _RelativeRoot:
    """A root in terms of the parameters of the function it stands in."""

    parameter: int
    via: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Relative:
    """A step as seen from the start of the function that (in)directly contains it."""

    op: OpView
    origin: Origin
    count: int
    is_counted: bool
    roots: tuple[_RelativeRoot | None, ...]
    callers: tuple[str, ...]

    def placed(
        self,
        caller: Origin,
        count: int,
        is_counted: bool,
        arguments: tuple[Root | None, ...],
        callers: tuple[str, ...],
        read: Program,
    ) -> Step:
        return Step(
            self.op,
            self.origin.inside(caller),
            self.count * count,
            self.is_counted and is_counted,
            tuple(_rooted(r, arguments) for r in self.roots),
            callers + self.callers,
            read,
        )


def _rooted(relative: _RelativeRoot | None, arguments: tuple[Root | None, ...]) -> Root | None:
    outer = arguments[relative.parameter] if relative else None
    if relative is None or outer is None:
        return None
    return Root(outer.argument, outer.via + relative.via) if relative.via else outer


def _through(outer: _RelativeRoot | None, inner: _RelativeRoot | None) -> _RelativeRoot | None:
    """`inner` is relative to a callee whose parameter holds `outer`."""
    if outer is None or inner is None:
        return None
    return _RelativeRoot(outer.parameter, outer.via + inner.via) if inner.via else outer


class _Summaries:
    """Visits each function once; its steps are relative, so N calls are N copies, not N visits."""

    def __init__(self, read: Program, enter: Callable[[OpView], bool]):
        self._program = read
        self._enter = enter
        self._done: dict[str, tuple[list[_Relative], tuple[_RelativeRoot | None, ...]]] = {}
        self._open: set[str] = set()

    def steps(self, name: str) -> list[_Relative]:
        return self._summary(name)[0]

    def _summary(self, name: str) -> tuple[list[_Relative], tuple[_RelativeRoot | None, ...]]:
        if name not in self._done:
            if name in self._open:
                raise InputError(f"function @{name} calls itself; StableHLO has no recursion")
            self._open.add(name)
            block = self._program.function(name)
            roots: dict[Value, _RelativeRoot | None] = {
                v: _RelativeRoot(i) for i, v in enumerate(block.arguments)
            }
            steps = self._block(block, roots, {}, 1, True)
            self._done[name] = (steps, tuple(roots.get(v) for v in block.results))
            self._open.remove(name)
        return self._done[name]

    def _block(
        self,
        block: Block,
        roots: dict[Value, _RelativeRoot | None],
        constants: dict[Value, np.ndarray],
        count: int,
        is_counted: bool,
    ) -> list[_Relative]:
        """The steps of a block; adds the roots and constants of its values to the two dicts."""
        steps: list[_Relative] = []
        for op in block.ops:
            note(op, constants)
            operands = tuple(roots.get(v) for v in op.operands)
            steps.append(_Relative(op, op.origin, count, is_counted, operands, ()))
            if op.callee is not None:
                steps += self._call(op, operands, roots, count, is_counted)
            elif op.name == "stablehlo.while":
                steps += self._loop(op, roots, constants, count, is_counted)
            elif op.name in ("stablehlo.if", "stablehlo.case"):
                steps += self._branches(op, roots, constants, count, is_counted)
            elif op.name == "stablehlo.optimization_barrier":
                roots.update(zip(op.results, operands, strict=True))
            elif op.name in VIEWS or op.name in UPDATES:
                root = operands[0]
                if root is not None:
                    roots[op.results[0]] = replace(root, via=(*root.via, op.name))
        return steps

    def _call(
        self,
        op: OpView,
        operands: tuple[_RelativeRoot | None, ...],
        roots: dict[Value, _RelativeRoot | None],
        count: int,
        is_counted: bool,
    ) -> list[_Relative]:
        callee = op.callee or ""
        inner, results = self._summary(callee)

        def placed(relative: _RelativeRoot | None) -> _RelativeRoot | None:
            return _through(operands[relative.parameter], relative) if relative else None

        roots.update(zip(op.results, map(placed, results), strict=True))
        if not self._enter(op):
            return []
        return [
            _Relative(
                one.op,
                one.origin.inside(op.origin),
                one.count * count,
                one.is_counted and is_counted,
                tuple(map(placed, one.roots)),
                (callee, *one.callers),
            )
            for one in inner
        ]

    def _loop(
        self,
        op: OpView,
        roots: dict[Value, _RelativeRoot | None],
        constants: dict[Value, np.ndarray],
        count: int,
        is_counted: bool,
    ) -> list[_Relative]:
        condition, body = op.regions
        trips = trip_count(op, constants)
        is_counted = is_counted and trips is not None
        times = 1 if trips is None else trips
        carried = [roots.get(v) for v in op.operands]
        # A carried value keeps its root while the body hands on the same argument's elements.
        # Each round can only drop roots, so there are at most len(carried) + 1 of them.
        while True:
            inside = {**roots, **dict(zip(body.arguments, carried, strict=True))}
            steps = self._block(body, inside, dict(constants), count * times, is_counted)
            after = [inside.get(v) for v in body.results]
            kept = [
                b if b is not None and a is not None and a.parameter == b.parameter else None
                for b, a in zip(carried, after, strict=True)
            ]
            if kept == carried:
                break
            carried = kept
        roots.update(zip(op.results, after if times else carried, strict=True))
        inside = {**roots, **dict(zip(condition.arguments, carried, strict=True))}
        tests = self._block(condition, inside, dict(constants), count * (times + 1), is_counted)
        return [*tests, *steps] if self._enter(op) else []

    def _branches(
        self,
        op: OpView,
        roots: dict[Value, _RelativeRoot | None],
        constants: dict[Value, np.ndarray],
        count: int,
        is_counted: bool,
    ) -> list[_Relative]:
        steps: list[_Relative] = []
        outcomes: list[list[_RelativeRoot | None]] = []
        for region in op.regions:
            inside = dict(roots)
            steps += self._block(region, inside, dict(constants), count, False)
            outcomes.append([inside.get(v) for v in region.results])
        same = [
            one[0] if all(o == one[0] for o in one) else None for one in zip(*outcomes, strict=True)
        ]
        roots.update(zip(op.results, same, strict=True))
        return steps if self._enter(op) else []
