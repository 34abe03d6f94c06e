"""The stages after building: torch's own numbers, export, lower, compile, and compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten
from zoo_built import Built

from anychip.core import CompileOptions, Executable, discover
from anychip.frontends.torch import caches, export
from anychip.frontends.torch.optimize import Program
from anychip.frontends.torch.program import Lowered, lower_program
from anychip.frontends.torch.tensors import to_numpy
from anychip.zoo import relative_error


def reference(built: Built) -> list[list[np.ndarray]]:
    """The tensors torch gives at each step, after making sure that they say something.

    Buffers the model changes are put back afterwards.
    """
    caches.register()
    kept = {n: b.clone() for n, b in built.model.named_buffers()}
    out = []
    with torch.no_grad():
        for step in built.steps:
            out.append([to_numpy(t).copy() for t in _tensors(built.model(**_copied(step)))])
        for name, buffer in built.model.named_buffers():
            if buffer.shape == kept[name].shape:  # else forward made another buffer
                buffer.copy_(kept[name])
    floats = [a for a in out[-1] if a.dtype.kind == "f" and a.size > 1]
    if not any(np.isfinite(a).all() and a.std() > 1e-6 for a in floats):
        raise ValueError("torch's own outputs are degenerate: constant, or not finite")
    return out


def _copied(step: dict[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in step.items()}


def _tensors(output: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, torch.Tensor)]


def export_program(built: Built) -> Any:
    return export.capture(
        built.model, (), built.steps[0], None, built.strict, follow_example=built.follow_example
    )


def lower(program: Any, built: Built) -> Lowered:
    return lower_program(
        program,
        type(built.model).__name__,
        seed=built.seed,
        follows_example=built.follow_example,
    )


def compile_for(target: str, lowered: Lowered) -> Executable:
    return discover().target(target).compile(lowered.module, CompileOptions(timeout_s=600))


def compare(
    built: Built, executable: Executable, lowered: Lowered, expected: list[list[np.ndarray]]
) -> float:
    """The largest max |Δ| / max |reference| over the outputs of all steps."""
    held = dict(built.model.named_buffers(remove_duplicate=False))
    held |= dict(built.model.named_parameters(remove_duplicate=False))
    program = Program(executable, lowered, held)
    worst = 0.0
    with torch.no_grad():
        for step, wanted in zip(built.steps, expected, strict=True):
            got = _tensors(program(tree_flatten(((), _copied(step)))[0]))
            worst = max(worst, relative_error([to_numpy(g) for g in got], wanted))
    return worst


def compare_dynamo(built: Built, target: str) -> float:
    """The same for torch.compile, at the sizes of the entry and with one row more in the batch."""
    (step,) = built.steps
    wider = {
        name: torch.cat([value, value[:1]]) if isinstance(value, torch.Tensor) else value
        for name, value in step.items()
    }
    fast = torch.compile(built.model, backend="anychip", options={"target": target})
    worst = 0.0
    with torch.no_grad():
        for inputs in (step, wider):
            wanted, got = (
                [to_numpy(t) for t in _tensors(model(**_copied(inputs)))]
                for model in (built.model, fast)
            )
            worst = max(worst, relative_error(got, wanted))
    return worst
