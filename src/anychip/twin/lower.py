"""Module → Lowered: which ops run as one kernel, and what each kernel moves and computes.

The rule, in order:
1. A composite is one kernel; so is every matmul, reduction, sort, lookup and other op that is not
   elementwise. Composites of elementwise ops only (SwiGLU, rotary embedding) count as elementwise.
2. An elementwise or placing op joins the last kernel that made one of its operands; with no such
   kernel it is done by whoever reads its result (a matmul unpacks the weights it eats).
3. Weight matmuls of one value are one kernel (Q, K and V; gate and up).
4. Values inside a kernel cost nothing; those between kernels are written once and read by each
   reader.
5. A function with two matmuls or more that is called more than once is lowered once for each kind
   of operands.
A caller may have composites opened, where a chip's compiler knows them only by their bodies.
Nothing here knows a chip.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np

from anychip.core import Module, Origin, dtype
from anychip.ops.trips import note, trip_count
from anychip.ops.view import Block, OpView, Program, Value, program
from anychip.twin.layout import WHOLE, Layout, joined, keeps_heads, reshaped
from anychip.twin.lowered import Kernel, Lowered
from anychip.twin.making import Group, Held, Kind, argument_of, parameter_of, written_whole
from anychip.twin.reading import (
    BRANCHES,
    LOOKUPS,
    RENAMES,
    SLICES,
    TURNS,
    Reader,
    attributes,
    title,
    updates_in_place,
)

Schedule = list[tuple[int, Origin]]
Opens = Callable[[OpView], bool]
"""Whether a composite is lowered op by op, as its body."""


def lower(module: Module, opens: Opens = lambda _: False) -> Lowered:
    """The kernels of a Module with static shapes. Raises InputError while sizes are symbolic."""
    read = program(module)
    lowering = _Lowering(read, opens)
    signature = module.signature
    replicated: frozenset[int] = frozenset()
    while True:  # each round adds a matmul to `replicated`, so it ends
        lowering.start(replicated)
        frame = _Frame(lowering)
        env = {
            value: argument_of(value, argument)
            for value, argument in zip(read.main.arguments, signature.arguments, strict=True)
        }
        results = frame.run(read.main, env, Origin())
        frame.gather(results)
        schedule = frame.finish(results)
        if lowering.wanted <= replicated:
            break
        replicated |= lowering.wanted
    blocks = tuple(lowering.blocks)
    lowered = Lowered(
        name=module.name,
        blocks=blocks,
        schedule=tuple(schedule),
        layers=_layers(blocks, schedule),
        weight_bytes=float(sum(a.nbytes for a in signature.named("weight"))),
        state_bytes=float(sum(a.nbytes for a in signature.named("state"))),
        arguments=len(signature.arguments),
    )
    whole = sum(k.amounts.weight_bytes * n for k, n in lowered.counted() if not k.is_split)
    return replace(lowered, replicated_weight_bytes=min(whole, lowered.weight_bytes))


class _Lowering:
    """What all frames of a module share: the op reader, finished blocks, functions done."""

    def __init__(self, read: Program, opens: Opens):
        self.program = read
        self.opens = opens
        self.reader = Reader(read)
        self.start(frozenset())

    def start(self, replicated: frozenset[int]) -> None:
        """Forget everything lowered; matmuls in `replicated` (by id) are not to be divided."""
        self.replicated = replicated
        self.wanted: frozenset[int] = frozenset()
        self.blocks: list[tuple[Kernel, ...]] = []
        self._done: dict[Hashable, tuple[Schedule, list[Held | int]]] = {}

    def function(self, name: str, operands: Sequence[Held]) -> tuple[Schedule, list[Held | int]]:
        """A repeated function's schedule and results; an int is that operand handed back."""
        key = (name, tuple(one.like for one in operands))
        if key not in self._done:
            block = self.program.function(name)
            frame = _Frame(self)
            env = {v: parameter_of(v, h) for v, h in zip(block.arguments, operands, strict=True)}
            results = frame.run(block, env, Origin())
            index: dict[Hashable, int] = {v: i for i, v in enumerate(block.arguments)}
            given: list[Held | int] = [
                index[next(iter(held.reads))]
                if held.kind in ("weight", "state") and set(held.reads) <= set(index)
                else held
                for held in results
            ]
            self._done[key] = (frame.finish(results), given)
        return self._done[key]


class _Frame:
    """Lowers one function, or `main` with everything that is not repeated inlined."""

    def __init__(self, lowering: _Lowering, outer: _Frame | None = None):
        self._lowering = lowering
        self._reader = lowering.reader
        self._outer = outer
        self._sequence: list[Group | Schedule] = []
        self._segment = 0
        self._maker: dict[Hashable, Group] = {}
        self._charged: set[int] = set()
        self._siblings: dict[Hashable, Group] = {}
        self._constants: dict[Value, np.ndarray] = {}

    def run(self, block: Block, env: dict[Value, Held], origin: Origin) -> list[Held]:
        """Lower a block's ops, with `env` giving what its arguments hold; returns its results."""
        for op in block.ops:
            note(op, self._constants)
            self._op(op, env, origin)
        return [env[value] for value in block.results]

    def gather(self, results: Sequence[Held]) -> None:
        """Results of `main` are wanted whole."""
        for held in results:
            if held.layout.is_split and held.group is not None and held.kind == "activation":
                held.group.gather_bytes += held.nbytes

    def finish(self, results: Sequence[Held]) -> Schedule:
        """Close the frame: results leave their kernels, kernels become blocks."""
        for held in results:
            if held.kind == "activation":
                self._settled(held)
        schedule: Schedule = []
        run: list[Kernel] = []
        for item in [*self._sequence, []]:
            if isinstance(item, Group):
                run.append(item.kernel())
                continue
            if run:
                self._lowering.blocks.append(tuple(run))
                schedule.append((len(self._lowering.blocks) - 1, Origin()))
                run = []
            schedule += item
        return schedule

    def _op(self, op: OpView, env: dict[Value, Held], origin: Origin) -> None:
        held = [env[value] for value in op.operands]
        here = op.origin.inside(origin)
        callee = op.callee
        if op.name == "func.call" and callee is not None:
            if self._reader.is_repeated(callee):
                settled = self._settle(op, env)
                given = self._call(callee, op, settled, here)
            else:
                given = self._inline(callee, held, here)
        elif callee is not None and self._lowering.opens(op):
            given = self._inline(callee, held, here)
        elif op.name == "stablehlo.while":
            given = self._loop(op, self._settle(op, env), env, here)
        elif op.name in BRANCHES:
            self._settle(op, env)
            given = self._branches(op, env, here)
        elif updates_in_place(op) and held[0].kind == "state":
            given = [self._update(op, held, here)]
        elif self._reader.is_fusible(op):
            given = self._fuse(op, held, here)
        else:
            given = self._root(op, held, here)
        env.update(zip(op.results, given, strict=True))

    def _inline(self, name: str, held: list[Held], origin: Origin) -> list[Held]:
        block = self._lowering.program.function(name)
        return self.run(block, dict(zip(block.arguments, held, strict=True)), origin)

    # Kernels ---------------------------------------------------------------------------------

    def _new(self, op: OpView, origin: Origin) -> Group:
        group = Group(len(self._sequence), self._segment, op, origin)
        self._sequence.append(group)
        return group

    def _nearest(self, held: Sequence[Held]) -> Group | None:
        """The last kernel of this segment among the makers of these values."""
        groups = [h.group for h in held if h.group is not None and h.group.segment == self._segment]
        return max(groups, key=lambda g: g.index, default=None)

    def _read(self, group: Group, held: Held, share: float = 1.0) -> None:
        """Make `group` a reader of a value: count its bytes, and do what is pending on it."""
        for key, (kind, size) in held.reads.items():
            if kind == "weight":
                group.weights[key] = max(group.weights.get(key, 0.0), size)
            elif kind == "state":
                group.state[key] = max(group.state.get(key, 0.0), size * share)
            elif kind == "activation" and key not in group.made:
                group.reads[key] = max(group.reads.get(key, 0.0), size)
                self._escape(key, size)
        for op in held.pending:
            if id(op) not in self._charged:
                self._charged.add(id(op))
                self._do(group, op)

    def _escape(self, key: Hashable, size: float) -> None:
        if key in self._maker:
            self._maker[key].escaped[key] = size
        elif self._outer is not None:
            self._outer._escape(key, size)

    def _do(self, group: Group, op: OpView) -> None:
        """Count the arithmetic of an op in a kernel."""
        matrix, other = self._reader.work(op)
        group.matrix += matrix
        group.other += other
        group.ops.append(title(op))
        if not self._reader.is_matmul(op):
            return
        matmul = self._reader.matmul(op)
        group.unpack += matmul.unpack_flops
        out = op.outputs[0]
        if out.size:
            group.dots.append(
                (round(matrix.flops / (2 * out.size)), out.sizes[-1] if out.sizes else 1)
            )
        if matrix.flops > group.largest:
            group.largest, group.matmul = matrix.flops, matmul

    def _made(self, group: Group, value: Value, layout: Layout) -> Held:
        size = float(value.spec.nbytes)
        group.made.add(value)
        self._maker[value] = group
        return Held("activation", {value: ("activation", size)}, group, layout=layout)

    # Ops -------------------------------------------------------------------------------------

    def _fuse(self, op: OpView, held: list[Held], origin: Origin) -> list[Held]:
        layout = joined([h.layout for h in held])
        if op.name in TURNS:
            layout = reshaped(op, layout)
        group = self._nearest(held)
        if group is not None:
            for one in held:
                self._read(group, one)
            self._do(group, op)
            if op.name in RENAMES:
                return [replace(held[0], layout=layout, pending=())]
            return [self._made(group, value, layout) for value in op.results]
        reads: dict[Hashable, tuple[Kind, float]] = {}
        for one in held:
            reads |= one.reads
        kinds = {kind for kind, _ in reads.values()}
        order: tuple[Kind, ...] = ("activation", "state", "weight")
        present: list[Kind] = [kind for kind in order if kind in kinds]
        kind: Kind = present[0] if present else "constant"
        if op.name in SLICES and reads:
            size = min(float(op.outputs[0].nbytes), sum(size for _, size in reads.values()))
            reads = {op.results[0]: (kind, size)}
        pending = (*(p for one in held for p in one.pending), op)
        return [Held(kind, reads, None, pending, layout) for _ in op.results]

    def _update(self, op: OpView, held: list[Held], origin: Origin) -> Held:
        """A write into the cache: done by the kernel that makes the new rows."""
        group = self._nearest(held[1:]) or self._new(op, origin)
        for one in held[1:]:
            self._read(group, one)
        for pending in held[0].pending:
            self._read(group, Held("constant", {}, None, (pending,)))
        self._do(group, op)
        rows = op.inputs[-1 if op.name == "stablehlo.scatter" else 1]
        group.state_written += float(rows.nbytes)
        layout = joined([one.layout for one in held[1:]])
        group.is_split = group.is_split or layout.is_split
        return replace(held[0], group=group, pending=())

    def _root(self, op: OpView, held: list[Held], origin: Origin) -> list[Held]:
        split, reduces, layout = self._split(op, held)
        group = self._sibling(op, held, split, origin) or self._new(op, origin)
        share = self._window(op)
        for index, one in enumerate(held):
            if op.name in LOOKUPS and index == 0:
                size = min(float(op.outputs[0].nbytes), one.nbytes)
                one = replace(one, reads={op.results[0]: (one.kind, size)} if one.reads else {})
            self._read(group, one, share)
            if one.kind == "state":
                group.state_splits = max(group.state_splits, _heads(op.inputs[index].shape))
        self._do(group, op)
        group.is_split = group.is_split or split
        made = [self._made(group, value, layout) for value in op.results]
        if reduces:
            # Partial sums travel in the activations' type, whatever they are accumulated in.
            each = dtype(op.inputs[0].dtype if op.name not in LOOKUPS else op.outputs[0].dtype)
            size = op.outputs[0].size * each.bits / 8
            # Rows of a token's experts are added up before they travel.
            group.reduce_bytes += size / (group.matmul.active if group.matmul else 1)
        return made

    def _sibling(self, op: OpView, held: list[Held], split: bool, origin: Origin) -> Group | None:
        """The kernel of an earlier weight matmul of the same value, if this op can join it."""
        if not self._reader.is_matmul(op) or not any(h.kind == "weight" for h in held):
            return None
        values = [h for h in held if h.kind == "activation"]
        if not values or any(held.pending for held in values):
            return None
        reads = tuple(key for held in values for key in held.reads)
        key = (self._segment, split, reads, self._reader.matmul(op).formats)
        group = self._siblings.get(key)
        if group is None:
            group = self._siblings[key] = self._new(op, origin)
        return group

    def _split(self, op: OpView, held: list[Held]) -> tuple[bool, bool, Layout]:
        """(divided by tensor parallelism, all-reduced after it, layout of the results)."""
        value = joined([h.layout for h in held])
        by_weight = any(h.kind == "weight" for h in held)
        if op.name in LOOKUPS and held[0].kind == "weight":
            return True, True, WHOLE
        if self._reader.is_matmul(op) and by_weight:
            if not value.is_split:
                if id(op) in self._lowering.replicated:
                    return False, False, WHOLE
                return True, False, Layout("features", frozenset({id(op)}))
            side = next(i for i, h in enumerate(held) if h.layout.is_split)
            if value.kind == "heads" and keeps_heads(op, side):
                return True, False, value
            return True, True, WHOLE
        if self._reader.is_matmul(op):
            kept = Layout("heads", value.sources) if value.is_split else WHOLE
            return value.is_split, False, kept
        if value.kind == "features" and _needs_rows(op):
            self._lowering.wanted |= value.sources
            return False, False, WHOLE
        return value.is_split, False, value

    def _window(self, op: OpView) -> float:
        """The share of a cache that a sliding window lets one new token read."""
        window = int(attributes(op).get("window", 0) or 0)
        if not window or len(op.inputs) < 2 or len(op.inputs[1].shape) != 4:
            return 1.0
        queries, length = op.inputs[0].sizes[-2], op.inputs[1].sizes[2]
        return min(1.0, (window + queries - 1) / length)

    # Functions, loops, branches --------------------------------------------------------------

    def _settled(self, held: Held) -> Held:
        """The value outside any kernel: pending ops get a kernel, and its maker writes it."""
        if held.pending and held.kind == "activation":
            group = self._new(held.pending[-1], held.pending[-1].origin)
            self._read(group, held)
            value = held.pending[-1].results[0]
            held = self._made(group, value, held.layout)
        for key, (kind, size) in held.reads.items():
            if kind == "activation":
                self._escape(key, size)
        return replace(held, group=None)

    def _settle(self, op: OpView, env: dict[Value, Held]) -> list[Held]:
        """The operands of a call or loop, all outside kernels; `env` knows it from then on."""
        env |= {value: self._settled(env[value]) for value in op.operands}
        return [env[value] for value in op.operands]

    def _barrier(self, schedule: Schedule) -> None:
        self._sequence.append(schedule)
        self._segment += 1

    def _call(self, name: str, op: OpView, held: list[Held], origin: Origin) -> list[Held]:
        schedule, results = self._lowering.function(name, held)
        self._barrier([(block, inner.inside(origin)) for block, inner in schedule])
        return [
            held[one]
            if isinstance(one, int)
            else Held("activation", written_whole(value), layout=one.layout)
            for one, value in zip(results, op.results, strict=True)
        ]

    def _body(
        self, block: Block, operands: list[Held], env: dict[Value, Held], origin: Origin, times: int
    ) -> list[Held]:
        frame = _Frame(self._lowering, outer=self)
        inside = {value: replace(held, group=None) for value, held in env.items()}
        inside |= {v: parameter_of(v, h) for v, h in zip(block.arguments, operands, strict=True)}
        results = frame.run(block, inside, origin)
        self._barrier(frame.finish(results) * times)
        return results

    def _loop(
        self, op: OpView, held: list[Held], env: dict[Value, Held], origin: Origin
    ) -> list[Held]:
        body = op.regions[1]
        carried = [
            one
            if one.kind == "state" or body.results[i] is body.arguments[i]
            else Held("activation", written_whole(body.arguments[i]))
            for i, one in enumerate(held)
        ]
        trips = trip_count(op, self._constants)
        self._body(body, carried, env, origin, 1 if trips is None else trips)
        return [
            one if one.kind == "state" else Held("activation", written_whole(value))
            for one, value in zip(held, op.results, strict=True)
        ]

    def _branches(self, op: OpView, env: dict[Value, Held], origin: Origin) -> list[Held]:
        for region in op.regions:
            self._body(region, [], env, origin, 1)
        return [Held("activation", written_whole(value)) for value in op.results]


def _heads(shape: tuple[int | None, ...]) -> int:
    """Ways to divide a cache [batch, heads, positions, size] over chips."""
    return int(shape[1] or 1) if len(shape) == 4 else 1


def _needs_rows(op: OpView) -> bool:
    """Whether an op that is not elementwise mixes elements along the last axis."""
    dimensions = op.attributes.get("dimensions")
    if op.name != "stablehlo.reduce" or not isinstance(dimensions, tuple):
        return True
    return len(op.inputs[0].shape) - 1 in dimensions


_LAYER = re.compile(r"^(?:.*?[^0-9A-Za-z])?\d+(?=$|[./])|^[A-Za-z_]+\d+(?=$|[./])")


def _layers(blocks: tuple[tuple[Kernel, ...], ...], schedule: Schedule) -> int:
    """Distinct layers, a layer being an origin up to its first number (`model.layers.3`)."""
    found: set[str] = set()
    inside = [{m[0] for k in b if (m := _LAYER.match(k.origin.layer))} for b in blocks]
    for block, caller in schedule:
        match = _LAYER.match(caller.layer)
        found |= {match[0]} if match else inside[block]
    return len(found)
