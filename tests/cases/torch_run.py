"""A Module on cpu:xla, torch tensors in and out."""

from __future__ import annotations

import numpy as np
import torch
from quick_xla import QuickXla

from anychip.core import CompileOptions, Module
from anychip.frontends.torch.tensors import to_numpy, to_torch


def run(module: Module, *inputs: torch.Tensor) -> list[torch.Tensor]:
    executable = QuickXla().compile(module, CompileOptions())
    return [to_torch(np.asarray(r)) for r in executable.run(*map(to_numpy, inputs))]
