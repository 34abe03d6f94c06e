"""frontends/torch: every rule against torch itself, all of one subject in one program."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quick_xla import QuickXla
from torch_groups import GROUPS
from torch_tensors import Both

from anychip.core import CompileOptions
from anychip.frontends.torch import load
from anychip.frontends.torch.tensors import to_numpy, to_torch


def tolerance(value: torch.Tensor) -> float:
    return 2e-2 if value.dtype in (torch.bfloat16, torch.float16) else 2e-5


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", sorted(GROUPS))
def test_rules_agree_with_torch(name: str):
    group = GROUPS[name]
    model = Both(group).eval()
    with torch.no_grad():
        expected = model(torch.zeros(()))
    target = QuickXla()
    module = load(model, torch.zeros(()))
    inputs = [np.zeros((), np.float32)] * len(module.signature.named("input"))
    got = target.compile(module, CompileOptions()).run(*inputs)
    wrong = []
    for label, want, have in zip(group, expected, got, strict=True):
        have = to_torch(np.asarray(have))
        if have.dtype != want.dtype or have.shape != want.shape:
            wrong.append(
                f"{label}: {have.dtype}{tuple(have.shape)}, not {want.dtype}{tuple(want.shape)}"
            )
            continue
        wide = [
            to_numpy(t).astype(np.complex128 if t.is_complex() else np.float64)
            for t in (have, want)
        ]
        largest = max(
            1.0, float(np.max(np.abs(np.where(np.isfinite(wide[1]), wide[1], 0)), initial=0))
        )
        if not np.allclose(
            *wide, rtol=tolerance(want), atol=tolerance(want) * largest, equal_nan=True
        ):
            wrong.append(f"{label}: max |Δ| {np.nanmax(np.abs(wide[0] - wide[1])):.3g}")
    assert not wrong, "\n".join(wrong)
