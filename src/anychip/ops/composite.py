"""Composite: what hardware knows as one thing, declared once with its plain JAX body.

Calling one while tracing emits `stablehlo.composite "anychip.<name>"` whose decomposition is the
body and whose `composite_attributes` are the keyword arguments.
"""

# JAX's own annotations are partly unknown to pyright; strictness about them finds nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anychip.core.dtypes import dtype
from anychip.core.errors import UsageError
from anychip.ops.case import Draw, draw, parse
from anychip.ops.table import Unit
from anychip.ops.view import OpView, Spec
from anychip.ops.work import Work

PREFIX = "anychip."


@dataclass(frozen=True, kw_only=True)
class Example:
    """Inputs and attributes to judge a composite by.

    `inputs` are specs such as "f32[2,3]"; `given` fixes some by position (values, or a function
    that makes them), the others are drawn as `draw` says. `expect` is an independent NumPy
    statement of the result, called with float64 copies of float inputs and the attributes.
    `reduced` is the longest sum behind one element.
    """

    inputs: tuple[str, ...]
    expect: Callable[..., Any]
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    draw: Draw = "normal"
    given: Mapping[int, Any] = field(default_factory=dict[int, Any])
    reduced: int = 1

    def arrays(self, seed: int = 0) -> tuple[np.ndarray, ...]:
        """The input arrays. Equal for equal seeds."""
        random = np.random.default_rng(seed)
        made: list[np.ndarray] = []
        for index, spec in enumerate(self.inputs):
            shape, element = parse(spec)
            if index in self.given:
                fixed = self.given[index]
                values = fixed() if callable(fixed) else fixed
                made.append(np.asarray(values, dtype=element).reshape(shape))
            else:
                made.append(draw(random, shape, element, self.draw))
        return tuple(made)

    def expected(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """What `expect` says of these inputs, in float64 where they are floats."""
        wide = [a.astype(np.float64) if dtype(a.dtype).kind == "float" else a for a in arrays]
        return np.asarray(self.expect(*wide, **self.attributes))


def example(
    *inputs: str,
    expect: Callable[..., Any],
    draw: Draw = "normal",
    given: Mapping[int, Any] | None = None,
    reduced: int = 1,
    **attributes: Any,
) -> Example:
    """An Example; keywords other than those named are the composite's attributes."""
    return Example(
        inputs=inputs,
        expect=expect,
        attributes=attributes,
        draw=draw,
        given=given or {},
        reduced=reduced,
    )


@dataclass(frozen=True, kw_only=True)
class Composite:
    """One entry. Call it like its body: arrays first, attributes by keyword.

    A body's keyword `products` is no attribute: it says how the matrix products inside are done,
    for whoever evaluates the body with another arithmetic.

    Trailing arrays may be None (left out); attributes left out take the body's defaults and are
    always written. Where a shape is symbolic the plain body is traced instead, since JAX cannot
    pass dimension values into a composite.
    """

    name: str  # without "anychip."
    unit: Unit
    body: Callable[..., Any]
    work: Callable[[OpView], Work]
    examples: tuple[Example, ...]
    defaults: Mapping[str, Any]

    @property
    def full_name(self) -> str:
        return PREFIX + self.name

    def __call__(self, *arrays: Any, **attributes: Any) -> Any:
        import jax

        if unknown := set(attributes) - set(self.defaults):
            raise UsageError(f"{self.full_name} has no attribute {sorted(unknown)[0]!r}")
        attributes = {**self.defaults, **attributes}
        if missing := [k for k, v in attributes.items() if v is inspect.Parameter.empty]:
            raise UsageError(f"{self.full_name} needs the attribute {missing[0]!r}")
        operands = list(arrays)
        while operands and operands[-1] is None:
            operands.pop()
        if any(not isinstance(d, int) for one in operands for d in one.shape):
            with jax.named_scope(self.full_name):
                return self.body(*operands, **attributes)
        return jax.lax.composite(self.body, self.full_name, version=1)(*operands, **attributes)


def composite(
    name: str,
    *,
    unit: Unit,
    work: Callable[[OpView], Work],
    examples: Sequence[Example],
) -> Callable[[Callable[..., Any]], Composite]:
    """Declare a composite; the decorated function is its body, and its keywords the attributes."""

    def declare(body: Callable[..., Any]) -> Composite:
        keywords = {
            p.name: p.default
            for p in inspect.signature(body).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name != "products"
        }
        made = Composite(
            name=name,
            unit=unit,
            body=body,
            work=work,
            examples=tuple(examples),
            defaults=keywords,
        )
        object.__setattr__(made, "__doc__", body.__doc__)
        return made

    return declare


def attributes_of(op: OpView) -> Mapping[str, Any]:
    """The composite's attributes as Python values."""
    return op.attributes["composite_attributes"]


def moved(op: OpView) -> tuple[int, int]:
    """Bytes of all operands and of all results, each once."""
    return sum(s.nbytes for s in op.inputs), sum(s.nbytes for s in op.outputs)


def pointwise(flops: int, transcendentals: int) -> Callable[[OpView], Work]:
    """A work rule: so much arithmetic for each element of the result, everything moved once."""

    def work(op: OpView) -> Work:
        count = op.outputs[0].size
        read, written = moved(op)
        return Work(flops * count, read, written, transcendentals * count)

    return work


def rows(spec: Spec) -> int:
    """How many vectors of the last dimension a value holds."""
    return spec.size // max(spec.sizes[-1], 1)
