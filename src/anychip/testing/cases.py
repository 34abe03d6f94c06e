"""Run a Case of the op table through the interpreter, on one process or a grid of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anychip.core.module import Module
from anychip.ops.case import Case


def run_case(case: Case, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Results of the case on these inputs; [replicas, partitions, …] when it has replicas."""
    import jax

    with jax.enable_x64(True):
        return tuple(np.asarray(r) for r in traced_case(case)(*arrays))


def traced_case(case: Case) -> Any:
    """The case as a function of its inputs that JAX can trace (under `jax.enable_x64`)."""
    import jax

    from anychip.ops.interp import evaluate

    module = Module.from_mlir(case.text)
    if not case.replicas:
        return lambda *inputs: evaluate(module, *inputs)
    sizes = {"axis_size": case.partitions}, {"axis_size": case.replicas}
    one = jax.vmap(lambda *inputs: evaluate(module, *inputs), axis_name="partition", **sizes[0])
    return jax.vmap(one, axis_name="replica", **sizes[1])


def expected(case: Case, arrays: Sequence[np.ndarray], like: Sequence[np.ndarray]) -> Any:
    """What `case.expect` says, in the element types of `like`; None when it says nothing."""
    if case.expect is None:
        return None
    want = case.expect(*arrays)
    want = want if isinstance(want, tuple) else (want,)
    with np.errstate(invalid="ignore", over="ignore"):
        return tuple(np.asarray(w).astype(g.dtype) for w, g in zip(want, like, strict=True))
