"""cpu:xla where it only judges, or carries a frontend's program: compiling is most of such a test,
and what optimising saves in runs of microseconds is nothing. test_xla*.py, test_cli*.py and the
tour test cpu:xla as users get it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from anychip.compilers.xla import XlaTarget
from anychip.compilers.xla_executable import XlaExecutable
from anychip.core import CompileOptions, Module
from anychip.testing.cases import QUICKLY


@dataclass(frozen=True)
class QuickXla(XlaTarget):
    """cpu:xla with few optimisations."""

    def compile(self, module: Module, options: CompileOptions) -> XlaExecutable:
        quickly = {name: str(value).lower() for name, value in QUICKLY.items()}
        return super().compile(module, replace(options, extra={**quickly, **options.extra}))
