"""anychip: the open software layer between every model and every chip.

Everything here is imported when first touched, so `import anychip` stays quick and pulls in no
framework. The command line has one verb for each function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anychip.api import chips, compare, compile, diff, load
    from anychip.core import Estimate, Measurement, Module, Precision
    from anychip.mapper import Plan, Workload

__version__ = "0.1.0"

_HOME = {
    "Estimate": "anychip.core",
    "Measurement": "anychip.core",
    "Module": "anychip.core",
    "Plan": "anychip.mapper",
    "Precision": "anychip.core",
    "Workload": "anychip.mapper",
    "chips": "anychip.api",
    "compare": "anychip.api",
    "compile": "anychip.api",
    "diff": "anychip.api",
    "load": "anychip.api",
}

__all__ = [
    "Estimate",
    "Measurement",
    "Module",
    "Plan",
    "Precision",
    "Workload",
    "chips",
    "compare",
    "compile",
    "diff",
    "load",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "torch":
        return import_module("anychip.torch")
    if name not in _HOME:
        raise AttributeError(f"module 'anychip' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
