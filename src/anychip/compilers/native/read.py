"""A Module becomes tasks: main and the functions it calls are gone through, moves become views,
composites and products become kernels. What has no kernel is collected, never dropped.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anychip.compilers.native import cover, cover_products
from anychip.compilers.native.kernels.number import SIZES
from anychip.compilers.native.kernels.pointwise import Pointwise, Source, dense_strides
from anychip.compilers.native.kernels.quantize import Quantize, records_bytes
from anychip.compilers.native.plan import (
    MOST_OPERANDS,
    Buffer,
    Constant,
    Foreign,
    Kernel,
    Operand,
    Outside,
    PackedWeight,
    Task,
)
from anychip.compilers.native.view import NoKernel, Raw, Shape, View, dense
from anychip.core import Module, OpCoverage, Origin, dtype
from anychip.ops.view import Block, OpView, Program, Value, program

FOREIGN_TYPES = ("f32", "bf16", "f16", "i32", "ui32", "i8", "ui8")
"""Element types that go to and come from cpu:xla."""

ALONE_TOKENS = 4
"""Up to so many tokens, each thread does light work for itself instead of meeting the others."""


@dataclass(frozen=True)
class Missing:
    """The result of an op without a kernel; what uses it is not looked at."""


Known = np.ndarray | View | Missing


@dataclass
class Reader:
    """Tasks made so far and what each value is. One use."""

    threads: int
    tasks: list[Task] = field(default_factory=list)
    covered: Counter[tuple[str, str, Origin]] = field(default_factory=Counter)
    fallen: Counter[tuple[str, str, Origin]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str, Origin]] = field(default_factory=Counter)
    may_fall_back: bool = True
    versions: dict[str, int] = field(default_factory=dict)
    made: dict[Any, Any] = field(default_factory=dict)
    op: str = ""
    origin: Origin = Origin()
    _program: Program | None = None

    def read(self, module: Module) -> list[Known]:
        """The results of main, after which `tasks` and `covered` are complete."""
        self._program = program(module)
        arguments: list[Known] = []
        for argument in module.signature.arguments:
            shape = tuple(int(d) for d in argument.shape)
            if argument.role == "weight":
                arguments.append(
                    dense(Raw(argument.name, argument.dtype, shape), argument.dtype, shape)
                )
            else:
                arguments.append(dense(Outside(argument), argument.dtype, shape))
        return self.block("main", arguments, Origin())

    def block(self, function: str, arguments: list[Known], caller: Origin) -> list[Known]:
        """The values a function returns for these arguments."""
        assert self._program is not None
        block = self._program.function(function)
        env: dict[Value, Known] = dict(zip(block.arguments, arguments, strict=True))
        done: set[OpView] = set()
        for index, op in enumerate(block.ops):
            if op in done:
                continue
            origin, inputs = op.origin.inside(caller), [env[v] for v in op.operands]
            if op.name == "func.call":
                results = self.block(op.callee or "", inputs, origin)
            else:
                results = self._op(op, inputs, origin, (block, function, index), done, env)
            env.update(zip(op.results, results, strict=True))
        return [env[v] for v in block.results]

    def _op(
        self,
        op: OpView,
        inputs: list[Known],
        origin: Origin,
        where: tuple[Block, str, int],
        done: set[OpView],
        env: dict[Value, Known],
    ) -> list[Known]:
        """One op: a kernel, else its body's kernels, else cpu:xla, else it is refused."""
        name = op.attributes["name"] if op.name == "stablehlo.composite" else op.name
        if any(isinstance(one, Missing) for one in inputs):
            self.refused[name, "its operands have no kernel", origin] += 1
            return [Missing() for _ in op.results]
        self.op, self.origin = name, origin
        before = self._save()
        try:
            if name == "stablehlo.gather":
                return [self._gather(op, inputs, where[0], done, env, origin)]
            result, why = cover.cover(self, name, op, inputs)
            self.covered[name, why, origin] += 1
            return [result]
        except NoKernel as reason:
            why = str(reason)
        self._restore(before)
        if op.name == "stablehlo.composite" and name not in cover.OPAQUE:
            refused, outer, self.may_fall_back = self.refused.total(), self.may_fall_back, False
            results = self.block(op.callee or "", inputs, origin)
            self.may_fall_back = outer
            if self.refused.total() == refused:
                return results
            self._restore(before)
        self.op, self.origin = name, origin
        try:
            if not self.may_fall_back:
                raise NoKernel(why)
            result = self._foreign(op, inputs, where[1], where[2])
        except NoKernel as reason:
            self._restore(before)
            self.refused[name, str(reason), origin] += 1
            return [Missing() for _ in op.results]
        self.fallen[name, why, origin] += 1
        return [result]

    def _save(self) -> tuple[Any, ...]:
        counts = (self.covered.copy(), self.refused.copy())
        return len(self.tasks), dict(self.made), dict(self.versions), *counts

    def _restore(self, saved: tuple[Any, ...]) -> None:
        count, made, versions, covered, refused = saved
        del self.tasks[count:]
        self.made, self.versions = dict(made), dict(versions)
        self.covered, self.refused = covered.copy(), refused.copy()

    def _foreign(self, op: OpView, inputs: list[Known], function: str, index: int) -> View:
        """A task for cpu:xla."""
        if len(op.results) != 1:
            raise NoKernel("no kernel, and an op of several results does not fall back")
        if op.results[0].spec.dtype not in FOREIGN_TYPES or len(op.operands) > MOST_OPERANDS - 1:
            raise NoKernel(f"no kernel, and a result of {op.outputs[0]} does not fall back")
        operands: list[Operand] = []
        strides: list[Shape] = []
        for known in inputs:
            view = self.view(known)
            if view.element not in FOREIGN_TYPES and not isinstance(view.place, Raw):
                raise NoKernel(f"no kernel, and an operand of {view.element} does not fall back")
            operands.append(self.operand(view))
            strides.append(view.strides)
        spec = op.results[0].spec
        is_float = spec.dtype in ("f32", "bf16", "f16")
        kernel = Foreign(
            function,
            index,
            tuple((one.sizes, one.dtype, way) for one, way in zip(op.inputs, strides, strict=True)),
            (spec.sizes, spec.dtype, dense_strides(spec.sizes)),
        )
        out = self.buffer("foreign", spec.sizes, kernel, max(4 * spec.size, 4))
        out = replace(out, element="f32" if is_float else spec.dtype)
        self.add(kernel, *operands, out)
        return out

    def _gather(
        self,
        op: OpView,
        inputs: list[Known],
        block: Block,
        done: set[OpView],
        env: dict[Value, Known],
        origin: Origin,
    ) -> Known:
        rows = cover_products.gathered(self, op, inputs, block)
        for one in rows.ops:  # those behind the gather are part of its kernel
            self.covered[one.name, "", origin] += 1
            env.update((value, Missing()) for value in one.results)
        done.update(rows.ops)
        env[rows.value] = rows.view
        if rows.value not in op.results:
            return Missing()
        self.covered[op.name, "", origin] += 1
        return rows.view

    def add(self, kernel: Kernel, *operands: Operand | View, each: bool | None = None) -> None:
        """A task; views stand for where they start."""
        if each is None:
            each = self.is_alone(kernel)
        placed = [o if isinstance(o, Operand) else self.operand(o) for o in operands]
        self.tasks.append(Task(kernel, placed, self.op, self.origin, each))

    def is_alone(self, kernel: Kernel) -> bool:
        """Whether each thread does this work for itself."""
        return kernel.is_light and self.threads > 1 and kernel.units <= ALONE_TOKENS

    def buffer(self, label: str, shape: Shape, kernel: Kernel, nbytes: int = 0) -> View:
        """New memory for a kernel's f32 result."""
        size = nbytes or 4 * int(np.prod(shape, dtype=np.int64))
        return dense(Buffer(label, size, private=self.is_alone(kernel)), "f32", shape)

    def operand(self, view: View) -> Operand:
        """Where a view starts. A weight read as it is goes into the image as it is."""
        place, size = view.place, dtype(view.element).bits // 8
        if isinstance(place, Raw):
            count = int(np.prod(place.shape, dtype=np.int64))
            place = PackedWeight(place.argument, f"plain:{place.element}", 1, count, count * size)
        return Operand(place, view.offset * size, view.reach * size == place.nbytes)

    def view(self, known: Known) -> View:
        """A view, known numbers becoming a constant of the program."""
        if isinstance(known, View):
            if isinstance(known.place, Outside) and known.place.argument.role == "state":
                current = self.versions.get(known.place.argument.name, 0)
                if known.version != current:
                    raise NoKernel("it reads a cache as it was before an update made in place")
            return known
        assert isinstance(known, np.ndarray)
        narrow = known[tuple(slice(0, 1) if s == 0 else slice(None) for s in known.strides)]
        element = dtype(known.dtype).name
        if element in ("bf16", "f16"):
            narrow, element = narrow.astype(np.float32), "f32"
        if element not in FOREIGN_TYPES:
            raise NoKernel(f"a constant of {element}")
        data = np.ascontiguousarray(narrow)
        place = Constant(data.tobytes(), f"constant_{data.dtype}{list(data.shape)}")
        return dense(place, element, data.shape).broadcast(known.shape, tuple(range(known.ndim)))

    def copied(self, view: View) -> View:
        """A dense copy: floats in f32, i32 as they are."""
        if view.element not in SIZES:
            raise NoKernel(f"numbers of {view.element}")
        shape, element = view.shape or (1,), "i32" if view.element == "i32" else "f32"
        sources = (Source(view.element, view.strides or (0,)),)
        kernel = Pointwise("copy", shape, sources, element=element)
        out = self.buffer("copy", shape, kernel)
        self.add(kernel, view, out)
        strides = out.strides if view.shape else ()
        return replace(out, element=element, shape=view.shape, strides=strides)

    def wide(self, known: Known) -> View:
        """A view whose last dimension is f32 numbers next to each other, copied if need be."""
        view = self.view(known)
        is_near = view.shape[-1] == 1 or view.strides[-1] == 1
        return view if view.element == "f32" and is_near else self.copied(view)

    def row_view(self, known: Known) -> tuple[View, int, int]:
        """(view, rows, elements between rows) of f32 rows, copied only when they must be."""
        view = self.view(known)
        rows = view.rows()
        if view.element != "f32" or rows is None:
            view = self.copied(view)
            rows = view.rows()
        assert rows is not None
        return view, *rows

    def quantized(self, known: Known) -> tuple[View, int]:
        """(records, rows): the rows in 8 bits, made once however many products use them."""
        view, rows, stride = self.row_view(known)
        key = ("quantized", id(view.place), view.offset, rows, stride)
        if key not in self.made:
            kernel = Quantize(rows, view.shape[-1], stride)
            out = self.buffer("x8", (rows,), kernel, records_bytes(rows, view.shape[-1]))
            self.add(kernel, view, out)
            self.made[key] = (out, view)  # the view keeps its place's id from being used again
        return self.made[key][0], rows

    def coverage(self) -> tuple[OpCoverage, ...]:
        """The ledger's rows."""
        native = (
            OpCoverage(op=op, fate="native", count=count, origin=origin, why=why)
            for (op, why, origin), count in self.covered.items()
        )
        return (*native, *self.fallbacks())

    def fallbacks(self) -> tuple[OpCoverage, ...]:
        """The rows of what cpu:xla does."""
        return tuple(
            OpCoverage(
                op=op,
                fate="fallback",
                count=count,
                origin=origin,
                falls_back_to="cpu:xla",
                why=why,
            )
            for (op, why, origin), count in self.fallen.items()
        )
