"""Run Cases of the op table through the interpreter, on one process or a grid of them."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anychip.core.module import Module
from anychip.ops.case import Case

Arrays = tuple[np.ndarray, ...]

QUICKLY: Mapping[str, str | bool] = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
"""Flags of XLA for programs that are many and tiny: LLVM does not optimise, and XLA writes its IR
itself, rather than by way of MLIR: a quarter of the time to compile."""


def run_cases(cases: Sequence[Case], inputs: Sequence[Arrays]) -> list[Arrays]:
    """The interpreter's results of each case; [replicas, partitions, …] where it has replicas.

    All cases that can be traced are compiled as one program.
    """
    import jax

    traced = [i for i, case in enumerate(cases) if not case.is_concrete]
    functions = [traced_case(case) for case in cases]

    def together(given: list[Arrays]) -> list[Any]:
        return [functions[i](*arrays) for i, arrays in zip(traced, given, strict=True)]

    with jax.enable_x64(True):
        given = [inputs[i] for i in traced]
        compiled = jax.jit(together).lower(given).compile(compiler_options=dict(QUICKLY))
        done = dict(zip(traced, compiled(given), strict=True))
        for i, function in enumerate(functions):
            if i not in done:
                done[i] = function(*inputs[i])
    return [tuple(np.asarray(r) for r in done[i]) for i in range(len(cases))]


def traced_case(case: Case) -> Any:
    """The case as a function of its inputs that JAX can trace (under `jax.enable_x64`)."""
    import jax

    from anychip.ops.interp import evaluate

    module = Module.from_mlir(case.text)
    if not case.replicas:
        return lambda *inputs: evaluate(module, *inputs)
    row = jax.vmap(
        lambda *inputs: evaluate(module, *inputs), axis_name="partition", axis_size=case.partitions
    )
    return jax.vmap(row, axis_name="replica", axis_size=case.replicas)


def expected(case: Case, inputs: Arrays, like: Arrays) -> Arrays | None:
    """What `case.expect` says, in the element types of `like`; None when it says nothing."""
    if case.expect is None:
        return None
    want = case.expect(*inputs)
    wanted: tuple[Any, ...] = want if isinstance(want, tuple) else (want,)
    with np.errstate(invalid="ignore", over="ignore"):
        return tuple(np.asarray(w).astype(g.dtype) for w, g in zip(wanted, like, strict=True))


def by_process(case: Case, results: Arrays) -> list[np.ndarray]:
    """Results as `reference.case_program` returns them: those of process 0, then 1, …."""
    if not case.replicas:
        return list(results)
    flat = [r.reshape(-1, *r.shape[2:]) for r in results]
    return [r[p] for p in range(case.replicas * case.partitions) for r in flat]
