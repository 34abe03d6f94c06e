"""Evaluate a Module op by op with JAX values: the meaning every compiler and twin is judged by.

Slow on purpose in Python, but traceable: `jax.jit(lambda *a: evaluate(module, *a))` compiles it.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp
from jax.core import Tracer

from anychip.core.dtypes import dtype
from anychip.core.errors import UnsupportedError, UsageError
from anychip.core.module import Module
from anychip.core.origin import Origin
from anychip.ops.table import OPS
from anychip.ops.view import Block, OpView, Program, Spec, Value, program
from anychip.ops.walk import walk

Before = Callable[[OpView, Origin, tuple[Any, ...]], tuple[Any, ...] | None]
"""Called as `before(op, origin, operands)`. Returning a tuple claims the op: these are its results,
and its rule (or the body of a call, composite or loop) is not evaluated."""

After = Callable[[OpView, Origin, tuple[Any, ...], tuple[Any, ...]], tuple[Any, ...] | None]
"""Called as `after(op, origin, operands, results)`. Returning a tuple replaces the results."""


def evaluate(
    module: Module, *arrays: Any, before: Before | None = None, after: After | None = None
) -> tuple[Any, ...]:
    """The results of `main` on `arrays`, one per argument in signature order, as JAX arrays.

    64-bit types are honoured whatever `jax_enable_x64` says (only a surrounding `jax.jit` must be
    called under `jax.enable_x64(True)` when the module takes 64-bit arguments, which it would cut).

    Hooks see every op of `main`, of called functions and composites, and of loop and branch
    bodies, with its absolute origin; not the scalar programs inside reductions, sorts and scatters.
    With hooks and concrete arrays, loops and branches run step by step so that each iteration is
    seen; while tracing they are traced once and hooks see tracers.

    Raises UsageError for arrays that do not fit the signature, UnsupportedError listing every op
    without a meaning here (when `before` is given, only once it declines to claim one of them).
    """
    read = program(module)
    if before is None:
        refuse_unsupported(read)
    with jax.enable_x64(True):
        inputs = _checked_inputs(read, arrays)
        return _Run(read, before, after).function("main", inputs, Origin())


def refuse_unsupported(module: Module | Program) -> None:
    """Raise UnsupportedError listing all ops `evaluate` has no meaning for, where and how often."""
    found: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], Origin] = {}
    for step in walk(module):
        reason = why_unsupported(step.op)
        if reason:
            key = (step.op.name, reason)
            found[key] += 1
            places.setdefault(key, step.origin)
    if found:
        lines = [
            f"  {count} × {name}, first at {places[name, reason]}: {reason}"
            for (name, reason), count in sorted(found.items())
        ]
        raise UnsupportedError(
            "the interpreter has no meaning for these ops:\n"
            + "\n".join(lines)
            + "\nClaim them in a `before` hook, or lower the model without them."
        )


def why_unsupported(op: OpView) -> str:
    """Why `evaluate` cannot do this op; "" when it can."""
    if op.name not in OPS:
        return "not in the op table"
    for spec in (*op.inputs, *op.outputs):
        if spec.quantized and not op.name.startswith("stablehlo.uniform_"):
            return "arithmetic on quantised types; legalise it to integer arithmetic first"
        if spec.dtype in _NOT_IN_JAX:
            return f"JAX has no arrays of {spec.dtype}"
    return OPS[op.name].refusal(op)


_NOT_IN_JAX = frozenset({"f6E2M3FN", "f6E3M2FN"})


def _checked_inputs(read: Program, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    arguments = read.signature.arguments
    if len(arrays) != len(arguments):
        raise UsageError(f"main takes {len(arguments)} arguments, got {len(arrays)}")
    inputs = []
    for argument, array in zip(arguments, arrays, strict=True):
        value = jnp.asarray(array)
        fits = len(value.shape) == len(argument.shape) and all(
            isinstance(want, str) or want == have
            for want, have in zip(argument.shape, value.shape, strict=True)
        )
        if not fits or value.dtype != dtype(argument.dtype).numpy:
            raise UsageError(
                f"argument {argument.name} should be {argument.dtype}{list(argument.shape)}, "
                f"got {value.dtype}{list(value.shape)}"
                + (
                    "; call the surrounding jax.jit under jax.enable_x64(True)"
                    if isinstance(value, Tracer) and dtype(argument.dtype).bits == 64
                    else ""
                )
            )
        inputs.append(value)
    return tuple(inputs)


_Env = dict[Value, Any]


class _Run:
    """One evaluation: the program and its hooks."""

    def __init__(self, read: Program, before: Before | None, after: After | None):
        self._program = read
        self._before = before
        self._after = after
        self._has_hooks = before is not None or after is not None
        self._last_uses: dict[Block, list[list[Value]]] = {}

    def function(self, name: str, arguments: tuple[Any, ...], caller: Origin) -> tuple[Any, ...]:
        return self._block(self._program.function(name), arguments, {}, caller)

    def _block(
        self, block: Block, arguments: tuple[Any, ...], captured: _Env, caller: Origin
    ) -> tuple[Any, ...]:
        """`caller` is the origin of the call of the function this block is part of."""
        env = {**captured, **dict(zip(block.arguments, arguments, strict=True))}
        for op, dying in zip(block.ops, self._dying(block), strict=True):
            results = self._op(op, tuple(env[v] for v in op.operands), env, caller)
            env.update(zip(op.results, results, strict=True))
            for value in dying:
                env.pop(value, None)
        return tuple(env[v] for v in block.results)

    def _op(
        self, op: OpView, operands: tuple[Any, ...], env: _Env, caller: Origin
    ) -> tuple[Any, ...]:
        origin = op.origin.inside(caller)
        claimed = self._before(op, origin, operands) if self._before else None
        if claimed is None:
            results = _checked(op, self._meaning(op, operands, env, caller), AssertionError)
        else:
            results = _checked(op, claimed, UsageError, "the before hook")
        if self._after:
            replaced = self._after(op, origin, operands, results)
            if replaced is not None:
                return _checked(op, replaced, UsageError, "the after hook")
        return results

    def _meaning(
        self, op: OpView, operands: tuple[Any, ...], env: _Env, caller: Origin
    ) -> tuple[Any, ...]:
        if op.callee is not None:
            return self._call(op.callee, operands, op.origin.inside(caller))
        if why_unsupported(op):
            refuse_unsupported(self._program)
        captured = {v: env[v] for region in op.regions for v in _uses(region) if v in env}
        steps = self._has_hooks and not _is_traced((operands, list(captured.values())))
        if op.name == "stablehlo.while" and steps:
            return self._loop(op, operands, captured, caller)
        if op.name in ("stablehlo.if", "stablehlo.case") and steps:
            taken = op.regions[branch_index(op, int(operands[0]))]
            return self._block(taken, (), captured, caller)
        # Only control flow shows its ops to the hooks; scalar regions are part of their op.
        run = self if op.name in CONTROL else _Run(self._program, None, None)
        bodies = tuple(
            lambda *arguments, region=region: run._block(region, arguments, captured, caller)
            for region in op.regions
        )
        return OPS[op.name](op, *operands, bodies=bodies)

    def _call(self, callee: str, operands: tuple[Any, ...], origin: Origin) -> tuple[Any, ...]:
        if self._has_hooks or not self._program.is_static:
            return self.function(callee, operands, origin)
        return _shared(self._program, callee)(*operands)

    def _loop(
        self, op: OpView, carried: tuple[Any, ...], captured: _Env, caller: Origin
    ) -> tuple[Any, ...]:
        condition, body = op.regions
        while bool(self._block(condition, carried, captured, caller)[0]):
            carried = self._block(body, carried, captured, caller)
        return carried

    def _dying(self, block: Block) -> list[list[Value]]:
        """For each op, the values this block no longer needs after it."""
        if block not in self._last_uses:
            seen = set(block.results)
            rows: list[list[Value]] = []
            for op in reversed(block.ops):
                used = {*op.operands, *op.results}.union(*map(_uses, op.regions))
                rows.append(list(used - seen))
                seen |= used
            self._last_uses[block] = rows[::-1]
        return self._last_uses[block]


@lru_cache(maxsize=256)
def _shared(read: Program, callee: str) -> Callable[..., tuple[Any, ...]]:
    """A function of a program, traced and compiled once however often it is called."""
    run = _Run(read, None, None)
    return jax.jit(lambda *arguments: run.function(callee, arguments, Origin()))


CONTROL = frozenset({"stablehlo.while", "stablehlo.if", "stablehlo.case"})


def branch_index(op: OpView, selector: int) -> int:
    """Which region runs. `if`: true is the first. `case`: out of range is the last."""
    if op.name == "stablehlo.if":
        return 0 if selector else 1
    return selector if 0 <= selector < len(op.regions) else len(op.regions) - 1


def _uses(block: Block) -> set[Value]:
    """Every value a block or a region inside it mentions."""
    used = set(block.results)
    for op in block.ops:
        used.update(op.operands)
        for region in op.regions:
            used |= _uses(region)
    return used


def _is_traced(values: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def _checked(
    op: OpView, results: tuple[Any, ...], error: type[Exception], who: str = "its rule"
) -> tuple[Any, ...]:
    """The results, strongly typed. Raises `error` when they are not what `op` promises."""
    if len(results) != len(op.outputs):
        raise error(f"{op}: {who} gave {len(results)} results")
    typed: list[Any] = []
    for spec, result in zip(op.outputs, results, strict=True):
        if spec.dtype not in ("token", "tuple", "future"):
            if not _fits(spec, result):
                raise error(f"{op}: {who} gave {result.dtype}{list(result.shape)}")
            if getattr(result, "weak_type", False):
                result = lax.convert_element_type(result, result.dtype)
        typed.append(result)
    return tuple(typed)


def _fits(spec: Spec, result: Any) -> bool:
    return (
        len(result.shape) == len(spec.shape)
        and all(want in (None, have) for want, have in zip(spec.shape, result.shape, strict=True))
        and result.dtype == dtype(spec.dtype).numpy
    )
