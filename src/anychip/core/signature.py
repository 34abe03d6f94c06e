"""What goes in and out of a Module: names, shapes, element types and roles."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from anychip.core.dtypes import dtype, nbytes
from anychip.core.errors import InputError

Dim = int | str
"""A dimension: a size, or the name of a symbolic one (`"batch"`)."""

Role = Literal["weight", "state", "input"]
"""weight: constant over calls; state: donated, returned updated (a KV cache); input: the rest."""


@dataclass(frozen=True)
class Argument:
    """One parameter of `main`."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str
    role: Role = "input"

    @property
    def nbytes(self) -> int:
        """Bytes of the dense array. Raises InputError while a dimension is symbolic."""
        return _nbytes(self.name, self.shape, self.dtype)


@dataclass(frozen=True)
class Result:
    """One result of `main`. `updates` names the state argument whose next value it is."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str
    updates: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the dense array. Raises InputError while a dimension is symbolic."""
        return _nbytes(self.name, self.shape, self.dtype)


def _nbytes(name: str, shape: tuple[Dim, ...], element: str) -> int:
    sizes = tuple(d for d in shape if isinstance(d, int))
    if len(sizes) != len(shape):
        raise InputError(f"{name} has symbolic shape {shape}; specialise the module first")
    return nbytes(sizes, element)


@dataclass(frozen=True)
class Signature:
    """Arguments and results of `main`, in order.

    `guards` are comparisons between symbolic dimensions that the program relies on, such as
    `"batch <= 64"` or `"mod(length, 8) == 0"` (the grammar of jax.export's constraints).
    """

    arguments: tuple[Argument, ...]
    results: tuple[Result, ...]
    guards: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [a.name for a in self.arguments]
        doubled = (
            sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
        )
        if doubled:
            raise InputError(f"argument names must differ; doubled: {', '.join(doubled)}")
        for one in (*self.arguments, *self.results):
            dtype(one.dtype)
            if any(isinstance(d, int) and d < 0 for d in one.shape):
                raise InputError(f"{one.name} has a negative size: {list(one.shape)}")
        states = {a.name: a for a in self.arguments if a.role == "state"}
        for result in self.results:
            if result.updates is None:
                continue
            if result.updates not in states:
                raise InputError(
                    f"result {result.name} updates {result.updates!r}, which is no state, or "
                    "which another result updates too"
                )
            state = states.pop(result.updates)
            if (state.shape, state.dtype) != (result.shape, result.dtype):
                raise InputError(
                    f"result {result.name} is {result.dtype}{list(result.shape)} and cannot "
                    f"update {state.name}, which is {state.dtype}{list(state.shape)}"
                )

    def named(self, role: Role) -> tuple[Argument, ...]:
        """The arguments with this role, in order."""
        return tuple(a for a in self.arguments if a.role == role)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbolic dimensions, sorted."""
        dims = {d for a in self.arguments for d in a.shape if isinstance(d, str)}
        return tuple(sorted(dims))

    def violated(self, dims: Mapping[str, int]) -> tuple[str, ...]:
        """The guards that do not hold for these sizes. Raises InputError for a malformed one."""
        return tuple(guard for guard in self.guards if not _value(guard, dims))

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Signature:
        """The signature that `to_json` wrote. Raises ValueError for any other text."""
        try:
            raw: dict[str, Any] = json.loads(text)
            return Signature(
                tuple(Argument(**_shaped(a)) for a in raw["arguments"]),
                tuple(Result(**_shaped(r)) for r in raw["results"]),
                tuple(raw.get("guards", ())),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a signature: {type(error).__name__}: {error}") from None


def _shaped(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "shape": tuple(row["shape"])}


_OPERATORS: dict[type, Callable[..., int]] = {
    ast.Add: int.__add__,
    ast.Sub: int.__sub__,
    ast.Mult: int.__mul__,
    ast.GtE: int.__ge__,
    ast.LtE: int.__le__,
    ast.Eq: int.__eq__,
}
_CALLS: dict[str, Callable[..., int]] = {
    "mod": int.__mod__,
    "floordiv": int.__floordiv__,
    "max": max,
    "min": min,
}


def _value(text: str, dims: Mapping[str, int]) -> int:
    """Evaluate a guard. Not `eval`: the text may come from a file."""

    def visit(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(value)):
                return value
            case ast.Name(id=name) if name in dims:
                return dims[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](visit(left), visit(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](visit(left), visit(right))
            case ast.Call(func=ast.Name(id=name), args=parts) if name in _CALLS:
                return _CALLS[name](*map(visit, parts))
            case _:
                raise InputError(f"guard {text!r} is not a comparison of known dimensions")

    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        raise InputError(f"guard {text!r} is not a comparison of known dimensions") from None
    return visit(tree.body)
