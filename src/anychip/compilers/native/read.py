"""A Module becomes tasks: main and the functions it calls are gone through, moves become views,
composites and products become kernels. What has no kernel is collected, never dropped.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anychip.compilers.native import cover
from anychip.compilers.native.kernels.pointwise import Pointwise, Source
from anychip.compilers.native.kernels.quantize import Quantize, record_bytes
from anychip.compilers.native.plan import (
    Buffer,
    Constant,
    Kernel,
    Operand,
    Outside,
    PackedWeight,
    Task,
)
from anychip.compilers.native.view import NoKernel, Raw, Shape, View, dense
from anychip.core import Module, OpCoverage, Origin, dtype
from anychip.ops.view import Block, OpView, Program, Value, program

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
    refused: Counter[tuple[str, str, Origin]] = field(default_factory=Counter)
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
        return self.block(self._program.main, arguments, Origin())

    def block(self, block: Block, arguments: list[Known], caller: Origin) -> list[Known]:
        """The values a function's block returns for these arguments."""
        env: dict[Value, Known] = dict(zip(block.arguments, arguments, strict=True))
        done: set[OpView] = set()
        for op in block.ops:
            if op in done:
                continue
            origin = op.origin.inside(caller)
            if op.name == "func.call":
                assert self._program is not None
                inner = self._program.function(op.callee or "")
                results = self.block(inner, [env[v] for v in op.operands], origin)
            else:
                results = self._op(op, [env[v] for v in op.operands], origin, block, done, env)
            env.update(zip(op.results, results, strict=True))
        return [env[v] for v in block.results]

    def _op(
        self,
        op: OpView,
        inputs: list[Known],
        origin: Origin,
        block: Block,
        done: set[OpView],
        env: dict[Value, Known],
    ) -> list[Known]:
        name = op.attributes["name"] if op.name == "stablehlo.composite" else op.name
        if any(isinstance(one, Missing) for one in inputs):
            self.refused[name, "its operands have no kernel", origin] += 1
            return [Missing() for _ in op.results]
        self.op, self.origin = name, origin
        before = len(self.tasks)
        try:
            if name == "stablehlo.gather":
                return [self._gather(op, inputs, block, done, env, origin)]
            result, why = cover.cover(self, name, op, inputs)
        except NoKernel as reason:
            del self.tasks[before:]
            if op.name == "stablehlo.composite" and name not in cover.OPAQUE:
                assert self._program is not None
                return self.block(self._program.function(op.callee or ""), inputs, origin)
            self.refused[name, str(reason), origin] += 1
            return [Missing() for _ in op.results]
        self.covered[name, why, origin] += 1
        return [result]

    def _gather(
        self,
        op: OpView,
        inputs: list[Known],
        block: Block,
        done: set[OpView],
        env: dict[Value, Known],
        origin: Origin,
    ) -> Known:
        rows = cover.gathered(self, op, inputs, block)
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
        return Operand(place, view.offset * size)

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
        if element not in ("f32", "i32"):
            raise NoKernel(f"a constant of {element}")
        data = np.ascontiguousarray(narrow)
        place = Constant(data.tobytes(), f"constant_{data.dtype}{list(data.shape)}")
        return dense(place, element, data.shape).broadcast(known.shape, tuple(range(known.ndim)))

    def copied(self, view: View) -> View:
        """A dense f32 copy."""
        strides = view.strides
        if view.shape and view.shape[-1] > 1 and strides[-1] not in (0, 1):
            raise NoKernel("elements of a row are not next to each other")
        shape = view.shape or (1,)
        kernel = Pointwise("copy", shape, (Source(view.element, strides or (0,)),))
        out = self.buffer("copy", shape, kernel)
        self.add(kernel, view, out)
        return replace(out, shape=view.shape, strides=out.strides if view.shape else ())

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
            out = self.buffer("x8", (rows,), kernel, rows * record_bytes(view.shape[-1]))
            self.add(kernel, view, out)
            self.made[key] = (out, view)  # the view keeps its place's id from being used again
        return self.made[key][0], rows

    def coverage(self) -> tuple[OpCoverage, ...]:
        return tuple(
            OpCoverage(op=op, fate="native", count=count, origin=origin, why=why)
            for (op, why, origin), count in self.covered.items()
        )
