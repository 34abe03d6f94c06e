"""Random weights under which a model's numbers mean something: seeded, scaled, not degenerate."""

from __future__ import annotations

import math

import torch

# parameters whose values are not free: state-space decays, time steps, temperatures, frequencies
_KEPT = ("A_log", "dt_", "dt.", "logit_scale", "freq", "inv_", "time_", "slope", "decay")


def fill(model: torch.nn.Module, seed: int = 0) -> None:
    """Draw every weight anew: matrices with variance 1/fan-in, norms near 1, biases near 0.

    Default initialisations are for training: many are zero, or so small that a wrong op could
    hide in the noise.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(like: torch.Tensor, std: float) -> torch.Tensor:
        return torch.randn(like.shape, generator=random).to(like.dtype) * std

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if (
                not weight.is_floating_point()
                or any(k in name for k in _KEPT)
                or not weight.numel()
            ):
                continue
            first = weight.flatten()[0]
            is_constant = bool((weight == first).all())
            if weight.ndim >= 2 and not is_constant:
                fan_in = weight.numel() / weight.shape[0]
                weight.copy_(normal(weight, 1 / math.sqrt(max(fan_in, 1))))
            elif is_constant:
                weight.add_(normal(weight, 0.1))


def settle(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    """Set the running statistics of batch norms to those of these inputs.

    With statistics of its own choosing a deep network's activations grow without bound, and what
    is compared is rounding noise.
    """
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    kept = [(m, m.momentum) for m in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model(**inputs)
    for norm, momentum in kept:
        norm.eval()
        norm.momentum = momentum
