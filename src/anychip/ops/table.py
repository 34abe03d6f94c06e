"""The op table: for every op its meaning, its work, the unit that does it, and its cases."""

# pyright: reportUnknownVariableType=false, reportUnknownParameterType=false

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from anychip.core.errors import UnsupportedError, unknown
from anychip.ops.case import Case, case
from anychip.ops.view import OpView
from anychip.ops.work import Work

__all__ = ["OPS", "Case", "Op", "Unit", "case", "op"]

Unit = Literal["matmul", "vector", "move", "control", "collective"]
"""Which part of a chip does the op: matrix unit, elementwise and reduction lanes, data movement,
sequencing, or links between chips."""

Meaning = Callable[..., Any]
"""`meaning(op, *operands)` gives the result, or a tuple when there is not exactly one. An op with
regions takes `bodies`, a tuple of callables (arrays → tuple of arrays), as a keyword."""


@dataclass(frozen=True, kw_only=True)
class Op:
    """One entry. Call it with an OpView and JAX arrays to get the results as a tuple.

    `reference` says why the StableHLO reference interpreter cannot judge the op ("" when it does).
    `refusal(view)` says why an op has no meaning on one chip ("" when it has); calling it then
    raises UnsupportedError. `inexpressible` says why the MLIR bindings cannot parse a program with
    the op ("" when they can).
    """

    name: str
    unit: Unit
    meaning: Meaning
    work: Callable[[OpView], Work]
    cases: tuple[Case, ...]
    reference: str = ""
    refusal: Callable[[OpView], str] = lambda view: ""
    inexpressible: str = ""

    def __call__(
        self, view: OpView, *operands: Any, bodies: tuple[Any, ...] = ()
    ) -> tuple[Any, ...]:
        """Results in order. `bodies` are the op's regions as functions of arrays."""
        if reason := self.refusal(view):
            raise UnsupportedError(f"{self.name} at {view.origin}: {reason}")
        keywords = {"bodies": bodies} if bodies else {}
        result = self.meaning(view, *operands, **keywords)
        return result if isinstance(result, tuple) else (result,)


def op(
    name: str,
    *,
    unit: Unit,
    work: Callable[[OpView], Work],
    cases: Sequence[Callable[[str], Case]] = (),
    reference: str = "",
    refusal: str | Callable[[OpView], str] = "",
    inexpressible: str = "",
) -> Callable[[Meaning], Op]:
    """Declare an op; the decorated function is its meaning, a rule JAX can trace."""

    def declare(meaning: Meaning) -> Op:
        return Op(
            name=name,
            unit=unit,
            meaning=meaning,
            work=work,
            cases=tuple(make(name) for make in cases),
            reference=reference,
            refusal=_always(refusal) if isinstance(refusal, str) else refusal,
            inexpressible=inexpressible,
        )

    return declare


def _always(reason: str) -> Callable[[OpView], str]:
    return lambda view: reason


SUBJECTS: tuple[str, ...] = (
    "elementwise",
    "shape",
    "linear",
    "factor",
    "index",
    "reduce",
    "sort",
    "norm",
    "control",
    "token",
    "random",
    "dynamic",
    "collective",
    "chlo",
    "chlo_broadcast",
    "quantized",
)
"""The files of the table, in the order it is printed."""


def entries(subject: str) -> tuple[Op, ...]:
    """The entries one file declares, alone or in tuples, in its order."""
    module = importlib.import_module(f"anychip.ops.{subject}")
    found: list[Op] = []
    for value in vars(module).values():
        for entry in value if isinstance(value, tuple) else (value,):
            if isinstance(entry, Op):
                found.append(entry)
    return tuple(found)


class _Ops(Mapping[str, Op]):
    """All entries by name, collected from the subject files when first asked for."""

    @cached_property
    def _entries(self) -> dict[str, Op]:
        by_name: dict[str, Op] = {}
        for subject in SUBJECTS:
            for entry in entries(subject):
                if by_name.setdefault(entry.name, entry) is not entry:
                    raise AssertionError(f"{entry.name} is declared twice")
        return by_name

    def __getitem__(self, name: str) -> Op:
        if name not in self._entries:
            raise unknown("op", name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


OPS: Mapping[str, Op] = _Ops()
