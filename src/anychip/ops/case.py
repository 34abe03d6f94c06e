"""Case: a small program around one op, with inputs drawn from a seed, to judge targets by."""

# pyright: reportUnknownVariableType=false

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np

from anychip.core.dtypes import dtype
from anychip.core.errors import UsageError

Draw = Literal["normal", "positive", "unit", "small", "any", "bool", "bits"]
"""normal: N(0, 1), integers in [-8, 8]; positive: (0.1, 4); unit: (-1, 1); small: integers in
[-3, 3] in any type; any: normal with some 0, inf, nan, denormal and extreme values (complex
numbers stay finite); bits: uniform bit patterns of integers."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """`text` is a StableHLO module with a `main` taking `inputs` (specs such as "f32[2,3]").

    `given` fixes some inputs by position, the others are drawn as `draw` says. `expect` is an
    independent NumPy statement of the result, called with the input arrays; `law` is instead what
    must be true of inputs and results, called as `law(*inputs, *results)`. Without either, the
    reference interpreter alone judges. `reduced` is the length of the longest sum behind
    one output element and widens the tolerance. `skip_reference` says why the reference
    interpreter cannot run this case ("" when it can). `is_concrete` says that an operand is a
    shape, so the case cannot be traced by `jax.jit`. With `replicas`, the program runs on a grid
    of so many replicas and `partitions`, each with its own inputs.
    """

    text: str
    inputs: tuple[str, ...]
    draw: Draw | Sequence[Draw] = "normal"
    given: Mapping[int, Any] = field(default_factory=dict)
    expect: Callable[..., Any] | None = None
    law: Callable[..., bool] | None = None
    reduced: int = 1
    skip_reference: str = ""
    is_concrete: bool = False
    replicas: int = 0
    partitions: int = 1

    def arrays(self, seed: int = 0) -> tuple[np.ndarray, ...]:
        """The input arrays. Equal for equal seeds.

        With `replicas`, each is [replicas, partitions, …]: one operand for each process.
        """
        random = np.random.default_rng(seed)
        one_for_all = isinstance(self.draw, str)
        draws = cast("Sequence[Draw]", [self.draw] * len(self.inputs) if one_for_all else self.draw)
        grid = (self.replicas, self.partitions) if self.replicas else ()
        made: list[np.ndarray] = []
        for i, spec in enumerate(self.inputs):
            shape, element = parse(spec)
            shape = (*grid, *shape)
            if i in self.given:
                made.append(np.asarray(self.given[i], dtype=element).reshape(shape))
            else:
                made.append(draw(random, shape, element, draws[i]))
        return tuple(made)


def case(
    *inputs: str,
    out: str | Sequence[str] = "",
    attributes: str = "",
    region: str = "",
    body: str = "",
    functions: str = "",
    draw: Draw | Sequence[Draw] = "normal",
    given: Mapping[int, Any] | None = None,
    expect: Callable[..., Any] | None = None,
    law: Callable[..., bool] | None = None,
    reduced: int = 1,
    skip_reference: str = "",
    is_concrete: bool = False,
    replicas: int = 0,
    partitions: int = 1,
) -> Callable[[str], Case]:
    """A case of the op it is listed under.

    `out` is the result's spec, or several; left out, it is the first input's. `attributes` goes
    between `<{` and `}>` of MLIR's generic form and `region` is its region text (`^bb0(…): …`).
    For programs of more than one op give `body` instead: the body of `main`, whose arguments are
    %a0, %a1, …, including its `return`; `functions` adds private functions.
    """
    outs = [out] if isinstance(out, str) else list(out)
    outs = [o or inputs[0] for o in outs]

    def make(op_name: str) -> Case:
        arguments = ", ".join(f"%a{i}: {mlir_type(s)}" for i, s in enumerate(inputs))
        types = ", ".join(mlir_type(o) for o in outs)
        lines = body or _generic(op_name, inputs, outs, attributes, region)
        text = f"func.func @main({arguments}) -> ({types}) {{\n{lines}\n}}\n{functions}\n"
        return Case(
            text=text,
            inputs=inputs,
            draw=draw,
            given=given or {},
            expect=expect,
            law=law,
            reduced=reduced,
            skip_reference=skip_reference,
            is_concrete=is_concrete,
            replicas=replicas,
            partitions=partitions,
        )

    return make


def _generic(
    name: str, inputs: Sequence[str], outs: Sequence[str], attributes: str, region: str
) -> str:
    operands = ", ".join(f"%a{i}" for i in range(len(inputs)))
    ins, types = ", ".join(map(mlir_type, inputs)), ", ".join(map(mlir_type, outs))
    properties = f" <{{{attributes}}}>" if attributes else ""
    regions = f" ({{\n{region}\n}})" if region else ""
    results = f"%r:{len(outs)}" if len(outs) > 1 else "%r"
    names = ", ".join(f"%r#{i}" for i in range(len(outs))) if len(outs) > 1 else "%r"
    return (
        f'  {results} = "{name}"({operands}){properties}{regions} : ({ins}) -> ({types})\n'
        f"  return {names} : {types}"
    )


_SPEC = re.compile(r"^([\w<>]+)\[([\d,?]*)\]$")


def parse(spec: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and numpy type of "f32[2,3]"."""
    match = _SPEC.match(spec)
    if match is None:
        raise UsageError(f"{spec!r} is not a spec such as f32[2,3]")
    shape = tuple(int(d) for d in match[2].split(",") if d)
    return shape, dtype(match[1]).numpy


def mlir_type(spec: str) -> str:
    """ "f32[2,3]" as `tensor<2x3xf32>`; types without brackets pass unchanged."""
    match = _SPEC.match(spec)
    if match is None:
        return spec
    return f"tensor<{''.join(f'{d}x' for d in match[2].split(',') if d)}{match[1]}>"


def draw(
    random: np.random.Generator, shape: tuple[int, ...], element: np.dtype, how: Draw
) -> np.ndarray:
    """Values of one kind, see `Draw`."""
    kind, bits = dtype(element).kind, dtype(element).bits
    if kind == "bool":
        return random.integers(0, 2, shape).astype(element)
    if kind == "complex":
        finite = "normal" if how == "any" else how  # C99 and XLA disagree on infinite parts
        parts = draw(random, (2, *shape), np.dtype(np.float64), finite)
        return (parts[0] + 1j * parts[1]).astype(element)
    if kind in ("int", "uint"):
        return _integers(random, shape, element, how, kind == "int", bits)
    if how == "small":
        return random.integers(-3, 4, shape).astype(np.float64).astype(element)
    values = {
        "positive": lambda: random.uniform(0.1, 4.0, shape),
        "unit": lambda: random.uniform(-1.0, 1.0, shape),
    }.get(how, lambda: random.standard_normal(shape))()
    if how == "any" and values.size:
        special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-3, -300.0, 0.5, 2.5])
        count = min(values.size, special.size)
        places = random.choice(values.size, count, replace=False)
        values.flat[places] = special[random.permutation(special.size)[:count]]
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(element)


def _integers(
    random: np.random.Generator,
    shape: tuple[int, ...],
    element: np.dtype,
    how: Draw,
    signed: bool,
    bits: int,
) -> np.ndarray:
    low = -(1 << (bits - 1)) if signed else 0
    high = low + (1 << bits) - 1
    if how == "positive":
        low, high = 1, min(high, 8)
    elif how not in ("bits", "any"):
        reach = 3 if how in ("small", "unit") else 8
        low, high = max(low, -reach), min(high, reach)
    wide = random.integers(
        low,
        high,
        shape,
        dtype=np.uint64 if high > 2**62 and not signed else np.int64,
        endpoint=True,
    )
    return wide.astype(element)
