"""`anychip.torch`: a PyTorch model compiled and called as before (`optimize`), or as a Module."""

from anychip.frontends.torch import Optimized, load, optimize

__all__ = ["Optimized", "load", "optimize"]
