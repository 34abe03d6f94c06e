"""What a zoo entry becomes before its stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Built:
    """A model in eval mode and the keyword arguments of each step, in order."""

    model: torch.nn.Module
    steps: tuple[dict[str, Any], ...]
    strict: bool | None = None
    seed: int | None = None
    follow_example: bool = False
