"""A Module run with a chip's arithmetic: rules on the op interpreter, traced and compiled by XLA.

Products round their operands to the chip's format and accumulate as it does; everything else keeps
the meaning the op table gives it, in the type the program names. Order of summation is the host's.
"""

# JAX's own annotations are partly unknown to pyright; strictness about them finds nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from anychip.core import InputError, Module, Origin, UsageError, dtype
from anychip.ops.attend import Products
from anychip.ops.attributes import ConvDims, DotDims
from anychip.ops.composite import attributes_of
from anychip.ops.composites import composite_of
from anychip.ops.interp import evaluate
from anychip.ops.linear import contract, convolution
from anychip.ops.view import OpView, Spec, Value
from anychip.twin.arithmetic import Arithmetic
from anychip.twin.rounding import float_format, round_float, rounded
from anychip.twin.split import split

EXACTLY = {"xla_allow_excess_precision": False}
"""XLA leaves out roundings to a narrower type and back unless told that they are meant."""

MARK = "round_operand"
ATTENTION = ("attention", "cached_attention", "window_attention", "latent_attention")
"""Composites whose products are not all written as dots (see ops.attend)."""


class Simulation:
    """A Module ready to run with an Arithmetic. Compiles at the first run.

    Weights are rounded once and kept, so a run costs what the plain program costs and the rounding
    of its activations.
    """

    def __init__(self, module: Module, arithmetic: Arithmetic):
        self._module, self._arithmetic = module, arithmetic
        arguments = module.signature.arguments
        self._weights = [i for i, a in enumerate(arguments) if a.role == "weight"]
        self._others = [i for i, a in enumerate(arguments) if a.role != "weight"]
        self._building = threading.Lock()
        self._ready: tuple[Any, list[Any], list[Any]] | None = None

    def __call__(self, *inputs: Any) -> list[Any]:
        """The results for the arguments that are not weights, in signature order."""
        arguments = [self._module.signature.arguments[i] for i in self._others]
        if len(inputs) != len(arguments):
            raise UsageError(
                f"{self._module.name} takes {len(arguments)} arrays besides its weights "
                f"({', '.join(a.name for a in arguments)}), got {len(inputs)}"
            )
        for argument, value in zip(arguments, inputs, strict=True):
            if tuple(value.shape) != argument.shape or value.dtype != dtype(argument.dtype).numpy:
                raise UsageError(
                    f"{argument.role} {argument.name} of {self._module.name} should be "
                    f"{argument.dtype}{list(argument.shape)}, got "
                    f"{value.dtype}{list(value.shape)}"
                )
        with jax.enable_x64(True):
            step, prepared, weights = self._built()
            return list(step(prepared, weights, [jnp.asarray(x) for x in inputs]))

    def _built(self) -> tuple[Any, list[Any], list[Any]]:
        """(compiled step, weights in the chip's formats, weights it reads as they are)."""
        with self._building:
            if self._ready is None:
                parts = split(self._traced(), len(self._weights), MARK)
                weights = [self._weight(i) for i in self._weights]
                prepared = jax.block_until_ready(parts.prepare(weights))
                step = jax.jit(parts.step, compiler_options=EXACTLY)
                self._ready = step, prepared, [weights[i] for i in parts.needed]
        return self._ready

    def _traced(self) -> Any:
        order = [*self._weights, *self._others]
        rules = Rules(self._arithmetic)

        def program(*given: Any) -> Any:
            arrays = dict(zip(order, given, strict=True))
            inputs = [arrays[i] for i in range(len(order))]
            return evaluate(self._module, *inputs, before=rules.before)

        return jax.make_jaxpr(program)(*(self._shape(i) for i in order))

    def _shape(self, index: int) -> Any:
        argument = self._module.signature.arguments[index]
        return jax.ShapeDtypeStruct(argument.shape, dtype(argument.dtype).numpy)

    def _weight(self, index: int) -> Any:
        argument = self._module.signature.arguments[index]
        if argument.name not in self._module.weights:
            raise InputError(
                f"module {self._module.name} has no values for weight {argument.name}; "
                "bind them with module.with_weights(…) before compiling"
            )
        return jnp.asarray(self._module.weights[argument.name].array())


class Rules:
    """The hooks of one evaluation."""

    def __init__(self, arithmetic: Arithmetic):
        self.arithmetic = arithmetic
        # One function a format and axes, traced once for each shape however often it is used.
        self._rounders: dict[tuple[str, tuple[int, ...]], Any] = {}

    def before(self, op: OpView, origin: Origin, operands: tuple[Any, ...]) -> Any:
        """The results of a product in the chip's arithmetic; None for every other op."""
        known = composite_of(op)
        if known is not None and known.name in ATTENTION:
            products = Products(self._scores, self._mixture)
            return (known.body(*operands, **attributes_of(op), products=products),)
        rule = _RULES.get(op.name)
        if rule is None or not all(dtype(spec.dtype).kind == "float" for spec in op.inputs[:2]):
            return None
        return (rule(self, op, *operands),)

    def operand(self, x: Any, format: str, axes: Sequence[int]) -> Any:
        """x rounded to a format along the axes a product sums over."""
        key = (format, tuple(axes))
        if key not in self._rounders:

            def round_operand(x: Any) -> Any:
                beyond = "saturate" if self.arithmetic.saturate else "own"
                return rounded(x, format, axes, beyond=beyond, flush=self.arithmetic.flush)

            round_operand.__name__ = MARK
            self._rounders[key] = jax.jit(round_operand)
        return self._rounders[key](x)

    def product(self, lhs: Any, rhs: Any, dims: DotDims, out: Spec) -> Any:
        """`dot_general` with the chip's operand format and accumulator."""
        format = self._format(lhs, rhs)
        if format:
            lhs = self.operand(lhs, format, dims.lhs_contract)
            rhs = self.operand(rhs, format, dims.rhs_contract)
        sums = self.arithmetic.accumulator_of(format or dtype(lhs.dtype).name)
        if sums == "f32":
            wide = Spec(out.shape, "f64" if out.dtype == "f64" else "f32")
            return contract(lhs, rhs, dims, wide).astype(dtype(out.dtype).numpy)
        return self._narrow_sums(lhs, rhs, dims, sums).astype(dtype(out.dtype).numpy)

    def _format(self, lhs: Any, rhs: Any) -> str:
        wider = max((dtype(lhs.dtype), dtype(rhs.dtype)), key=lambda d: d.bits)
        format = self.arithmetic.format_of(wider.name)
        return (
            ""
            if format == wider.name and lhs.dtype == rhs.dtype and self._keeps(format)
            else format
        )

    def _keeps(self, format: str) -> bool:
        """Whether operands already of this type stay as they are."""
        return not self.arithmetic.flush or format == "f32"

    def _narrow_sums(self, lhs: Any, rhs: Any, dims: DotDims, sums: str) -> Any:
        """The contraction in runs of `accumulate_count` products; the sum is rounded after each."""
        kind = float_format(sums)
        if kind is None:
            raise UsageError(f"{self.arithmetic.chip}: accumulator {sums!r} is no float format")
        run = self.arithmetic.accumulate_count
        left = _runs(lhs, dims.lhs_batch, dims.lhs_contract, run)
        right = _runs(rhs, dims.rhs_batch, dims.rhs_contract, run)

        def add(total: Any, pair: tuple[Any, Any]) -> tuple[Any, None]:
            more = jnp.einsum("bmk,bnk->bmn", *pair, precision=lax.Precision.HIGHEST)
            return round_float(total + more, kind), None

        shape = (left.shape[1], left.shape[2], right.shape[2])
        total, _ = lax.scan(add, jnp.zeros(shape, jnp.float32), (left, right))
        free = [_free(lhs, dims.lhs_batch, dims.lhs_contract)]
        free.append(_free(rhs, dims.rhs_batch, dims.rhs_contract))
        batch = [lhs.shape[d] for d in dims.lhs_batch]
        return total.reshape((*batch, *free[0], *free[1]))

    def _scores(self, q: Any, k: Any, accumulator: Any) -> Any:
        dims = DotDims((0, 1), (0, 1), (4,), (3,))
        b, heads, group, length, _ = q.shape
        shape = (b, heads, group, length, k.shape[2])
        return self.product(q, k, dims, Spec(shape, dtype(accumulator).name))

    def _mixture(self, weights: Any, v: Any, accumulator: Any) -> Any:
        dims = DotDims((0, 1), (0, 1), (4,), (2,))
        shape = (*weights.shape[:4], v.shape[3])
        return self.product(weights, v, dims, Spec(shape, dtype(accumulator).name))

    def dot_general(self, op: OpView, lhs: Any, rhs: Any) -> Any:
        return self.product(lhs, rhs, op.attributes["dot_dimension_numbers"], op.outputs[0])

    def dot(self, op: OpView, lhs: Any, rhs: Any) -> Any:
        return self.product(lhs, rhs, DotDims((), (), (lhs.ndim - 1,), (0,)), op.outputs[0])

    def convolution(self, op: OpView, lhs: Any, rhs: Any) -> Any:
        """Operands in the chip's format, blocks along the input features; sums in f32."""
        dims: ConvDims = op.attributes["dimension_numbers"]
        format = self._format(lhs, rhs)
        if format:
            lhs = self.operand(lhs, format, (dims.input_feature,))
            rhs = self.operand(rhs, format, (dims.kernel_input_feature,))
        out = op.outputs[0]
        wide = replace(op, results=(Value(Spec(out.shape, "f32")),))
        return convolution(wide, lhs, rhs)[0].astype(dtype(out.dtype).numpy)


_RULES: dict[str, Callable[..., Any]] = {
    "stablehlo.dot_general": Rules.dot_general,
    "stablehlo.dot": Rules.dot,
    "stablehlo.convolution": Rules.convolution,
}


def _free(x: Any, batch: Sequence[int], contract: Sequence[int]) -> list[int]:
    return [n for d, n in enumerate(x.shape) if d not in (*batch, *contract)]


def _runs(x: Any, batch: Sequence[int], contract: Sequence[int], run: int) -> Any:
    """x as f32[runs, batch, free, run], padded with zeros."""
    free = [d for d in range(x.ndim) if d not in (*batch, *contract)]
    turned = lax.transpose(x.astype(jnp.float32), (*batch, *free, *contract))
    sizes = [math.prod(x.shape[d] for d in ds) for ds in (batch, free, contract)]
    rows = turned.reshape(sizes)
    short = -sizes[2] % run
    rows = jnp.pad(rows, ((0, 0), (0, 0), (0, short)))
    split = rows.reshape((sizes[0], sizes[1], (sizes[2] + short) // run, run))
    return jnp.moveaxis(split, 2, 0)
