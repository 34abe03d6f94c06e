"""A Module on cpu:xla, torch tensors in and out."""

from __future__ import annotations

import numpy as np
import torch

from anychip.compilers.xla import XlaTarget
from anychip.core import CompileOptions, Module
from anychip.frontends.torch.tensors import to_numpy, to_torch


def run(module: Module, *inputs: torch.Tensor) -> list[torch.Tensor]:
    executable = XlaTarget().compile(module, CompileOptions())
    return [to_torch(np.asarray(r)) for r in executable.run(*map(to_numpy, inputs))]
