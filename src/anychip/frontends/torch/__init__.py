"""PyTorch: models in (`load`), and the compiled model back as a torch callable (`optimize`)."""

from anychip.frontends.torch.optimize import Optimized, optimize
from anychip.frontends.torch.program import load

__all__ = ["Optimized", "load", "optimize"]
