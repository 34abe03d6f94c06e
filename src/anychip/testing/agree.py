"""Whether what a target made of a random program agrees with what its ops mean."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anychip.ops.interp import evaluate
from anychip.testing.programs import RandomProgram

RTOL, ATOL = 1e-4, 2e-5
"""Room for sums of some dozen f32 terms in another order, several ops deep; numbers stay near 1."""


def disagreement(program: RandomProgram, got: Sequence[Any]) -> str:
    """What differs from the op meanings, in words; "" when nothing does. Integers and booleans must
    be equal."""
    inputs = iter(program.inputs)
    signature, weights = program.module.signature, program.module.weights
    arrays = [
        weights[a.name].array() if a.role == "weight" else next(inputs) for a in signature.arguments
    ]
    want = [np.asarray(value) for value in evaluate(program.module, *arrays)]
    if len(got) != len(want):
        return f"{len(got)} results, should be {len(want)}"
    for result, made, meant in zip(signature.results, got, want, strict=True):
        found = np.asarray(made)
        if (found.shape, found.dtype) != (meant.shape, meant.dtype):
            return (
                f"{result.name} is {found.dtype}{list(found.shape)}, should be "
                f"{meant.dtype}{list(meant.shape)}"
            )
        near = found == meant
        if meant.dtype.kind == "f":
            near = np.isclose(found, meant, rtol=RTOL, atol=ATOL)
        if not near.all():
            where = tuple(int(i) for i in np.argwhere(~near)[0])
            return (
                f"{result.name}: {int((~near).sum())} of {near.size} numbers differ, the first at "
                f"{list(where)}: {found[where]}, should be {meant[where]}"
            )
    return ""
