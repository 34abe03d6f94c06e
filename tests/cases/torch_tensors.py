"""The tensors every torch case is made of, and a module that computes a group of cases."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

Group = dict[str, Callable[[Any], Any]]
"""What a case is called, and what it computes of the tensors, which are attributes of `t`."""


@cache
def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Made once, outside any tracing, so that rules see constants."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = randn(3, 4, 5)
Y = randn(3, 4, 5, seed=1)
POSITIVE = X.abs() + 0.1
UNIT = torch.sigmoid(X) * 1.8 - 0.9
INTS = torch.arange(-30, 30).reshape(3, 4, 5)
OTHER_INTS = (torch.arange(60) * 7 % 11 + 1).reshape(3, 4, 5)
BYTES = torch.arange(60, dtype=torch.uint8).reshape(3, 4, 5)
BOOLS = X > 0
COMPLEX = torch.complex(X, Y)
HALF = X.to(torch.bfloat16)
IMAGE = randn(2, 4, 9, 10, seed=2)
LINE = randn(2, 4, 11, seed=3)
VOLUME = randn(1, 2, 5, 6, 7, seed=4)
TIED = torch.tensor([[3, 1, 2, 1, 3], [0, 0, 0, 5, 5]])
TENSORS = {
    "X": X,
    "Y": Y,
    "POSITIVE": POSITIVE,
    "UNIT": UNIT,
    "INTS": INTS,
    "OTHER_INTS": OTHER_INTS,
    "BYTES": BYTES,
    "BOOLS": BOOLS,
    "COMPLEX": COMPLEX,
    "HALF": HALF,
    "IMAGE": IMAGE,
    "LINE": LINE,
    "VOLUME": VOLUME,
    "TIED": TIED,
}


def same(*shape: int) -> torch.Tensor:
    return randn(*shape, seed=sum(shape))


class Both(torch.nn.Module):
    """Every entry of a group, on buffers, which are arguments: nothing folds away."""

    def __init__(self, group: Group):
        super().__init__()
        self.group = group
        for name, value in TENSORS.items():
            self.register_buffer(name, value)

    def forward(self, zero: torch.Tensor) -> list[torch.Tensor]:
        return [make(self) for make in self.group.values()]
