"""The custom calls a Module may hold: those with a meaning, on any chip or on the host."""

from __future__ import annotations

from anychip.core.errors import UnsupportedError
from anychip.core.module import Module
from anychip.core.target import OpCoverage

RESOLVED_BY_SIZES = (
    "stablehlo.dynamic_reduce_window",
    "stablehlo.dynamic_rng_bit_generator",
    "stablehlo.dynamic_top_k",
    "stablehlo.dynamic_approx_top_k",
)
"""Calls that become plain ops when the symbolic dimensions are fixed."""

HOST_PREFIX = "lapack_"
"""Linear algebra of the host (jax.numpy.linalg): only CPU targets have it."""


def check_custom_calls(module: Module, *, path: str = "") -> None:
    """Raise UnsupportedError listing every other custom call, with its place and a remedy."""
    from anychip.ops.control import CUSTOM_CALLS
    from anychip.ops.walk import walk

    rows: dict[tuple[str, str], OpCoverage] = {}
    for step in walk(module):
        if step.op.name != "stablehlo.custom_call":
            continue
        target = step.op.attributes["call_target_name"]
        if target in CUSTOM_CALLS or target in RESOLVED_BY_SIZES or target.startswith(HOST_PREFIX):
            continue
        key = target, str(step.origin)
        count = rows[key].count + 1 if key in rows else 1
        rows[key] = OpCoverage(
            op=f"custom call @{target}",
            fate="unsupported",
            count=count,
            origin=step.origin,
            why=_remedy(target),
        )
    if not rows:
        return
    lines = [f"  {r.op} × {r.count} at {r.origin}: {r.why}" for r in rows.values()]
    subject = path or f"module {module.name}"
    raise UnsupportedError(
        f"{subject} calls {len(rows)} thing(s) that only some other runtime knows:\n"
        + "\n".join(lines),
        report=rows.values(),
    )


def _remedy(target: str) -> str:
    if "callback" in target:
        return "a Python callback has no place in a compiled program; take it out of the model"
    if target in ("tpu_custom_call", "mosaic_gpu_v2") or "triton" in target:
        return "a hand-written kernel for one chip; export the model with its plain form instead"
    if target.startswith(("cu", "hip")):
        return "a kernel of one vendor's library; trace the model for the CPU instead"
    return "export the model with standard ops instead"
