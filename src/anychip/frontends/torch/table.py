"""The table ATen overload → JAX function, gathered from one file per subject.

A rule takes what the overload takes, tensors as JAX arrays and sizes as ints or JAX's symbolic
sizes, and returns arrays of exactly the shapes and element types that torch gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any

Rule = Callable[..., Any]

_SUBJECTS = (
    "pointwise",
    "activation",
    "compare",
    "shape",
    "index",
    "scatter",
    "reduce",
    "order",
    "linear",
    "convolution",
    "pool",
    "norm",
    "attention",
    "recurrent",
    "image",
    "fourier",
    "create",
    "random",
    "control",
    "sizes",
)


class Rules(dict[str, Rule]):
    """The rules of one subject file; filled by its decorator while the file is imported."""

    def __call__(self, *names: str, space: str = "aten") -> Callable[[Rule], Rule]:
        """Register a rule under overload names; a bare name means its `.default` overload."""

        def register(rule: Rule) -> Rule:
            for name in names:
                self[f"{space}.{name if '.' in name else f'{name}.default'}"] = rule
            return rule

        return register


@cache
def table() -> Mapping[str, Rule]:
    """Every rule by overload name, such as `aten.add.Tensor`."""
    merged: dict[str, Rule] = {}
    for subject in _SUBJECTS:
        rules: Rules = import_module(f"anychip.frontends.torch.{subject}").RULES
        assert not (doubled := merged.keys() & rules.keys()), f"two rules for {sorted(doubled)}"
        merged |= rules
    return MappingProxyType(merged)
