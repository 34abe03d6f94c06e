"""The ledger of a compiler that takes a whole module or refuses it: every op is in one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from anychip.core import Coverage, Module, OpCoverage
from anychip.ops.view import OpView
from anychip.ops.walk import walk


def ledger(module: Module, emulates: Callable[[OpView], str] = lambda op: "") -> Coverage:
    """One row per kind of op and place. `emulates` says why an op is emulated, "" when native.

    Calls and composites do not count as ops; these compilers inline them.
    """
    places = Counter(
        (step.op.name, step.origin, emulates(step.op))
        for step in walk(module)
        if not step.op.callee
    )
    return Coverage(
        tuple(
            OpCoverage(
                op=op, fate="emulated" if why else "native", count=count, origin=origin, why=why
            )
            for (op, origin, why), count in places.items()
        )
    )
