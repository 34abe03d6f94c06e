"""What goes in and out of a Module: names, shapes, element types and roles."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from anychip.core.dtypes import dtype, nbytes
from anychip.core.errors import InputError

Dim = int | str
"""A dimension: a size, or the name of a symbolic one (`"batch"`)."""

Role = Literal["weight", "state", "input"]
"""weight: constant over calls; state: donated and returned updated (a KV cache); input: the rest."""


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
    """Arguments and results of `main`, in order."""

    arguments: tuple[Argument, ...]
    results: tuple[Result, ...]

    def __post_init__(self) -> None:
        names = [a.name for a in self.arguments]
        doubled = (
            sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
        )
        if doubled:
            raise InputError(f"argument names must differ; doubled: {', '.join(doubled)}")
        states = {a.name for a in self.arguments if a.role == "state"}
        for result in self.results:
            if result.updates is not None and result.updates not in states:
                raise InputError(
                    f"result {result.name} updates {result.updates!r}, which is no state"
                )
        for one in (*self.arguments, *self.results):
            dtype(one.dtype)

    def named(self, role: Role) -> tuple[Argument, ...]:
        """The arguments with this role, in order."""
        return tuple(a for a in self.arguments if a.role == role)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbolic dimensions, sorted."""
        dims = {d for a in self.arguments for d in a.shape if isinstance(d, str)}
        return tuple(sorted(dims))

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Signature:
        raw = json.loads(text)
        shaped = lambda row: {**row, "shape": tuple(row["shape"])}  # noqa: E731
        return Signature(
            tuple(Argument(**shaped(a)) for a in raw["arguments"]),
            tuple(Result(**shaped(r)) for r in raw["results"]),
        )
