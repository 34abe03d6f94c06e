"""Which rule writes which op. A rule is called `rule(graph, op, *tensors)` and returns what
stands for the results: names of ONNX tensors of the op's own type and shape, or Tensors."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from anychip.compilers.onnx_export.composites import COMPOSITE_RULES

Rule = Callable[..., Any]

_SUBJECTS = (
    "elementwise",
    "formulas",
    "shape",
    "linear",
    "ragged",
    "convolution",
    "reduce",
    "window",
    "index",
    "control",
    "bits",
)

__all__ = ["COMPOSITE_RULES", "rules"]


@cache
def rules() -> Mapping[str, Rule]:
    """Every rule by op name; a `chlo.broadcast_…` op is its namesake, as ONNX broadcasts too."""
    found: dict[str, Rule] = {}
    for subject in _SUBJECTS:
        module = importlib.import_module(f"anychip.compilers.onnx_export.{subject}")
        found.update(module.RULES)
    return found
