"""Target `chip:triton`: the kernels of a Module through Triton's compiler in a child process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anychip.compilers import child
from anychip.compilers.bind import check_fixed
from anychip.compilers.cache import Cache, cache_key
from anychip.compilers.store import Parts, cached, stages
from anychip.compilers.toolchains import TRITON
from anychip.compilers.triton.job import compile
from anychip.compilers.triton.launch import Launch, launch
from anychip.compilers.xla_executable import Artifacts
from anychip.core import (
    CompileOptions,
    Coverage,
    Module,
    OpCoverage,
    Signature,
    Trace,
    UnsupportedError,
    UsageError,
)
from anychip.core.target import Fate
from anychip.ops.view import OpView
from anychip.ops.walk import Step, walk

FREE = frozenset({"stablehlo.constant", "stablehlo.reshape", "stablehlo.optimization_barrier"})
"""Ops that need no kernel."""
_BINARY = ("cubin", "hsaco")


@dataclass(frozen=True)
class TritonTarget:
    """Triton for one architecture. `cache` keeps what it made; None compiles each time."""

    name: str
    arch: str
    cache: Cache | None = None
    runs: bool = False

    @property
    def toolchain(self) -> str:
        found = TRITON.installed
        return f"Triton {found.version if found else '(not installed)'}, {self.arch}"

    def compile(self, module: Module, options: CompileOptions) -> TritonExecutable:
        """Compile a kernel for each op that one is for, or take them from the cache.

        Raises SetupError without Triton, UsageError for symbolic dimensions and any option,
        UnsupportedError with a report of every op that has no kernel, CompileError when Triton
        says no, dies or takes too long.
        """
        found = TRITON.need(self.name)
        if options.threads is not None or options.extra:
            raise UsageError(f"{self.name} takes no options")
        check_fixed(module, self.name)
        launches, coverage = _launches(module)
        if missing := [row for row in coverage.rows if row.fate == "unsupported"]:
            first = missing[0]
            raise UnsupportedError(
                f"{self.name} has no kernel for {coverage.count('unsupported')} of "
                f"{coverage.total} ops of {module.name}, such as {first.op} at {first.origin}: "
                f"{first.why}. Use the chip's xla or iree for whole models",
                report=missing,
            )
        sources = "".join(
            Path(__file__).with_name(name).read_text(encoding="utf-8")
            for name in ("kernels.py", "job.py")
        )
        key = cache_key(repr(launches).encode() + sources.encode(), options, self.toolchain)

        def make() -> Parts:
            made = child.run(
                compile,
                *(str(found.root), self.arch, launches),
                timeout_s=options.timeout_s,
                what=f"{self.name} compile of {module.name}",
            )
            return _parts(launches, made)

        parts = cached(self.cache, key, options.timeout_s, make)
        return TritonExecutable(self.name, module, coverage, parts)


def _launches(module: Module) -> tuple[tuple[Launch, ...], Coverage]:
    """The different kernels of a module, in order, and its ledger."""
    found: dict[Launch, None] = {}
    counted: Counter[OpCoverage] = Counter()
    for step in walk(module, enter=lambda op: op.name == "func.call" or not _is_kernel(op)):
        if step.op.callee and not _is_kernel(step.op):
            continue
        why = ""
        if step.op.name not in FREE:
            one = launch(step.op)
            if isinstance(one, str):
                why = one
            else:
                found[one] = None
        counted[_row(step, "unsupported" if why else "native", why)] += step.count
    rows = (_times(row, count) for row, count in counted.items())
    return tuple(found), Coverage(tuple(rows))


def _is_kernel(op: OpView) -> bool:
    return op.name == "stablehlo.composite" and not isinstance(launch(op), str)


def _row(step: Step, fate: Fate, why: str) -> OpCoverage:
    title = str(step.op.attributes["name"]) if step.op.callee else step.op.name
    return OpCoverage(op=title, fate=fate, origin=step.origin, why=why)


def _times(row: OpCoverage, count: int) -> OpCoverage:
    return OpCoverage(op=row.op, fate=row.fate, count=count, origin=row.origin, why=row.why)


def _parts(launches: Sequence[Launch], made: Sequence[Mapping[str, Any]]) -> Parts:
    rows = [
        {**asdict(one), "constants": dict(one.constants), "shared_bytes": done["shared_bytes"]}
        for one, done in zip(launches, made, strict=True)
    ]
    parts = {"text/kernels.json": json.dumps(rows, indent=1).encode()}
    for index, (one, done) in enumerate(zip(launches, made, strict=True)):
        for stage, content in done["stages"].items():
            kind = "" if stage in _BINARY else "text/"
            parts[f"{kind}{index}-{one.kernel}.{stage}"] = content
    return parts


class TritonExecutable:
    """Compiled kernels. They never run here."""

    def __init__(self, target: str, module: Module, coverage: Coverage, parts: Parts):
        self.signature: Signature = module.signature
        self.coverage = coverage
        self._target, self._name = target, module.name
        self.artifacts: Mapping[str, str | bytes] = Artifacts(
            {
                "stablehlo": lambda: module.text(locations=True),
                **stages(parts),
            }
        )

    def run(self, *inputs: Any) -> Sequence[Any]:
        """Always raises UnsupportedError: there is no GPU here."""
        raise UnsupportedError(
            f"{self._target} compiled the kernels of {self._name} but cannot run them: the GPU is "
            "not here. Use a target that runs, such as cpu:xla."
        )

    def trace(self, *inputs: Any) -> Trace:
        """Always raises UnsupportedError: Triton does not say how long its kernels take."""
        raise UnsupportedError(
            f"{self._target} gives no times: Triton has no cost model. Use the chip's twin."
        )
