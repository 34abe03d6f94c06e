"""Cut a Module in two: what a target can do, and the rest; pieces that run one after another.

A piece is a Module of its own. Ops are put in as few pieces as a greedy order finds: all that is
ready on one side goes first, then the other side's. Constants are copied to where they are used.
Nothing is compiled here.
"""

# The MLIR bindings are untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from anychip.core import Argument, Module, Result, Signature, UsageError, ir
from anychip.core.inline import copy_op, inline_calls
from anychip.core.module import find_function
from anychip.ops.view import Block, OpView, Program, program

Unable = Callable[[OpView], str]
"""Why the target cannot do this op, "" when it can. Calls are asked too, and their bodies."""

_COPIED = ("stablehlo.constant", "stablehlo.iota", "stablehlo.create_token")


@dataclass(frozen=True)
class Piece:
    """Part of a Module. Its results and the arguments that are no weights are named values."""

    module: Module
    is_on_target: bool

    @property
    def takes(self) -> tuple[str, ...]:
        return tuple(a.name for a in self.module.signature.arguments if a.role != "weight")

    @property
    def gives(self) -> tuple[str, ...]:
        return tuple(r.name for r in self.module.signature.results)


@dataclass(frozen=True)
class Division:
    """The pieces in the order they run, and the named values that are the Module's results.

    A named value is an argument of the Module, or a result of an earlier piece.
    """

    pieces: tuple[Piece, ...]
    results: tuple[str, ...]


def split(module: Module, unable: Unable) -> Division:
    """Cut the module where `unable` says so.

    A call or composite in which some op is refused is opened; one that is refused itself, or a loop
    or branch with such an op in it, goes to the fallback whole. State is an input of its piece, not
    donated. Raises UsageError for symbolic dimensions.
    """
    if module.signature.symbols:
        raise UsageError(
            f"{module.name} has symbolic dimensions {', '.join(module.signature.symbols)}; fix "
            "them before it is split: module.specialise({name: size, …})"
        )
    opened = _opened(module, unable)
    read = program(opened)
    sides = [not _refused(op, unable, read) for op in read.main.ops]
    with opened.opened() as parsed:
        return _Cut(opened, parsed, sides).division()


def _refused(op: OpView, unable: Unable, read: Program) -> bool:
    return bool(unable(op)) or any(
        _refused(inner, unable, read) for block in _bodies(op, read) for inner in block.ops
    )


def _bodies(op: OpView, read: Program) -> tuple[Block, ...]:
    called = (read.function(op.callee),) if op.callee else ()
    return (*op.regions, *called)


def _opened(module: Module, unable: Unable) -> Module:
    """The module with no call or composite in `main` that is refused for what it has inside."""
    while True:
        read = program(module)
        marked = [
            index
            for index, op in enumerate(read.main.ops)
            if op.callee and not unable(op) and _refused(op, unable, read)
        ]
        if not marked:
            return module
        with module.opened() as parsed:
            ops = list(_main(parsed).operations)
            for index in marked:
                _to_call(ops[index].operation)
            inline_calls(parsed)
            bytecode = ir.to_bytecode(parsed)
        module = Module.from_mlir(
            bytecode, signature=module.signature, weights=module.weights, sources=module.sources
        )


def _to_call(op: Any) -> None:
    """Replace a composite by a call of what it stands for."""
    from jaxlib.mlir import ir as mlir

    if op.name == "func.call":
        return
    call = mlir.Operation.create(
        "func.call",
        results=[r.type for r in op.results],
        operands=list(op.operands),
        attributes={"callee": op.attributes["decomposition"]},
        loc=op.location,
        ip=mlir.InsertionPoint(op),
    )
    for old, new in zip(op.results, call.results, strict=True):
        old.replace_all_uses_with(new)
    op.erase()


def _main(parsed: Any) -> Any:
    return find_function(parsed, "main").operation.regions[0].blocks[0]


class _Cut:
    """One parsed module being cut. Values are MLIR's, and named as pieces will know them."""

    def __init__(self, module: Module, parsed: Any, sides: Sequence[bool]):
        self._module, self._parsed = module, parsed
        block = _main(parsed)
        *ops, end = (op.operation for op in block.operations)
        self._ops, self._returned = ops, list(end.operands)
        self._maker = {value: index for index, op in enumerate(ops) for value in op.results}
        self._names = {
            value: argument.name
            for value, argument in zip(block.arguments, module.signature.arguments, strict=True)
        }
        self._arguments = {a.name: a for a in module.signature.arguments}
        wanted = {self._maker[v] for v in self._returned if v in self._maker}
        self._copied = {i for i, op in enumerate(ops) if op.name in _COPIED and i not in wanted}
        self._reads = [_reads(op) for op in ops]
        self._sides = sides

    def division(self) -> Division:
        groups = self._groups()
        home = {index: g for g, (_, group) in enumerate(groups) for index in group}
        crossing = {v for v in self._returned if v in self._maker}
        for g, (_, group) in enumerate(groups):
            for index in group:
                for value in self._reads[index]:
                    maker = self._maker.get(value)
                    if maker is not None and maker not in self._copied and home[maker] != g:
                        crossing.add(value)
        taken = set(self._arguments)
        for value in self._maker:  # in program order
            if value in crossing:
                name = f"value{len(self._names)}"
                while name in taken:
                    name += "_"
                self._names[value] = name
        pieces = tuple(
            self._piece(g, sorted(group), is_on_target, crossing)
            for g, (is_on_target, group) in enumerate(groups)
        )
        return Division(pieces, tuple(self._names[v] for v in self._returned))

    def _groups(self) -> list[tuple[bool, list[int]]]:
        """(side, ops) of each piece: ready ops of one side until there are none, then the other."""
        waits: dict[int, int] = {}
        feeds: dict[int, list[int]] = {}
        for index in range(len(self._ops)):
            if index in self._copied:
                continue
            makers = {self._maker[v] for v in self._reads[index] if v in self._maker}
            makers -= self._copied
            waits[index] = len(makers)
            for maker in makers:
                feeds.setdefault(maker, []).append(index)
        ready = {
            side: [i for i in waits if not waits[i] and self._sides[i] is side] for side in _BOTH
        }
        groups: list[tuple[bool, list[int]]] = []
        side = True
        while ready[True] or ready[False]:
            group: list[int] = []
            while ready[side]:
                index = ready[side].pop()
                group.append(index)
                for user in feeds.get(index, ()):
                    waits[user] -= 1
                    if not waits[user]:
                        ready[self._sides[user]].append(user)
            if group:
                groups.append((side, group))
            side = not side
        return groups

    def _piece(self, index: int, group: list[int], is_on_target: bool, crossing: set[Any]) -> Piece:
        from jaxlib.mlir import ir as mlir

        inside = set(group)
        needed = [value for i in group for value in self._reads[i]]
        copied = sorted({m for v in needed if (m := self._maker.get(v)) in self._copied})
        outside = [v for v in dict.fromkeys(needed) if self._maker.get(v) not in {*inside, *copied}]
        given = [v for i in group for v in self._ops[i].results if v in crossing]
        arguments = tuple(self._argument(v) for v in outside)
        results = tuple(Result(self._names[v], *_typed(v)) for v in given)
        made = mlir.Module.create(mlir.Location.unknown())
        for op in self._parsed.body.operations:
            if _symbol(op) != "main":
                made.body.append(op.operation.clone())
        kinds = [v.type for v in outside]
        main = mlir.Operation.create(
            "func.func",
            attributes={
                "sym_name": mlir.StringAttr.get("main"),
                "sym_visibility": mlir.StringAttr.get("public"),
                "function_type": mlir.TypeAttr.get(
                    mlir.FunctionType.get(kinds, [v.type for v in given])
                ),
            },
            regions=1,
            loc=mlir.Location.unknown(),
            ip=mlir.InsertionPoint(made.body),
        )
        places = [mlir.Location.name(a.name) for a in arguments]
        block = main.regions[0].blocks.append(*kinds, arg_locs=places)
        values = dict(zip(outside, block.arguments, strict=True))
        at = mlir.InsertionPoint(block)
        for one in sorted([*copied, *group]):
            copy_op(self._ops[one], at, values)
        mlir.Operation.create(
            "func.return", operands=[values[v] for v in given], loc=mlir.Location.unknown(), ip=at
        )
        name = f"{self._module.name}-{index}"
        module = Module.from_mlir(
            made,
            name=name,
            signature=Signature(arguments, results),
            weights=self._module.weights,
            sources=self._module.sources,
        )
        return Piece(module.run_passes("builtin.module(symbol-dce)"), is_on_target)

    def _argument(self, value: Any) -> Argument:
        name = self._names[value]
        own = self._arguments.get(name)
        role = "weight" if own is not None and own.role == "weight" else "input"
        return Argument(name, *_typed(value), role)


_BOTH = (True, False)


def _reads(op: Any) -> list[Any]:
    """The values an op takes from outside: operands, and what its regions reach out for."""
    found = dict.fromkeys(op.operands)
    own: set[Any] = set()

    def enter(regions: Any) -> None:
        for region in regions:
            for block in region.blocks:
                own.update(block.arguments)
                for inner in block.operations:
                    found.update(dict.fromkeys(inner.operation.operands))
                    own.update(inner.operation.results)
                    enter(inner.operation.regions)

    enter(op.regions)
    return [v for v in found if v not in own]


def _typed(value: Any) -> tuple[tuple[int, ...], str]:
    sizes, element = ir.tensor_type(str(value.type))
    return tuple(d for d in sizes if d is not None), element


def _symbol(op: Any) -> str:
    from jaxlib.mlir import ir as mlir

    return mlir.StringAttr(op.operation.attributes["sym_name"]).value
