"""Target `…:qnn`: a Module as ONNX, compiled for a Hexagon NPU in a child process, in f16.

Nodes that QNN does not take stay with ONNX Runtime on the CPU beside the NPU; the ledger names
them. There is no Hexagon here: nothing runs, and QNN tells no times.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anychip.compilers import child
from anychip.compilers.bind import check_fixed, check_weights
from anychip.compilers.cache import Cache, cache_key
from anychip.compilers.onnx_export import Exported, export
from anychip.compilers.onnx_hosts.executable import origin_of
from anychip.compilers.qnn import Soc
from anychip.compilers.qnn.job import compile_context
from anychip.compilers.store import Parts, cached, stages
from anychip.compilers.toolchains import QNN
from anychip.compilers.xla_executable import Artifacts
from anychip.core import (
    CompileError,
    CompileOptions,
    Coverage,
    Module,
    OpCoverage,
    Signature,
    Trace,
    UnsupportedError,
    UsageError,
    unknown,
)
from anychip.core.errors import missing_extra
from anychip.passes.fold import fold
from anychip.passes.lift import lift

_NAMED = ("softmax", "layer_norm", "rms_norm", "gelu", "silu")


@dataclass(frozen=True)
class QnnTarget:
    """QNN for one system. `cache` keeps what it made; None compiles each time."""

    name: str
    soc: Soc
    cache: Cache | None = None
    runs: bool = False

    @property
    def toolchain(self) -> str:
        found = QNN.installed
        known = f"QNN of onnxruntime-qnn {found.version}" if found else "QNN (not installed)"
        return f"{known}, system {self.soc.model}, Hexagon v{self.soc.hexagon}, f16"

    def compile(self, module: Module, options: CompileOptions) -> QnnExecutable:
        """Compile, or take the result from the cache.

        Raises SetupError without the plug-in or ONNX Runtime, UsageError for symbolic dimensions
        and options (there are none), InputError for weights known by shape only, UnsupportedError
        for what ONNX cannot say, CompileError when QNN takes nothing, dies or takes too long.
        """
        for package in ("onnx", "onnxruntime"):
            if find_spec(package) is None:
                raise missing_extra(package, "onnxruntime", self.name)
        plugin = QNN.need(self.name)
        for name in options.extra:
            raise unknown(f"option of {self.name}", name, ())
        if options.threads is not None:
            raise UsageError(f"{self.name} takes no threads: it compiles for a chip, not this host")
        check_fixed(module, self.name)
        check_weights(module, self.name)
        exported = export(lift(fold(module), _NAMED)[0], doors=True)
        held = b"".join(w.array().tobytes() for w in exported.weights.values())
        key = cache_key(exported.model.SerializeToString() + held, options, self.toolchain)
        parts = cached(
            self.cache,
            key,
            options.timeout_s,
            lambda: _made(self, module, exported, plugin.library, options.timeout_s),
        )
        return QnnExecutable(self.name, module, exported, parts)


def _made(
    target: QnnTarget, module: Module, exported: Exported, plugin: Path, timeout_s: float
) -> Parts:
    what = f"{target.name} compile of {module.name}"
    with tempfile.TemporaryDirectory(prefix="anychip-qnn-") as folder:
        path = exported.save(Path(folder))
        done: dict[str, Any] = child.run(
            compile_context,
            *(path, plugin, target.soc.model, target.soc.hexagon),
            timeout_s=timeout_s,
            what=what,
        )
    total = len(exported.model.graph.node)
    if not done["context"] or len(done["left"]) >= total:
        raise CompileError(f"{what}: QNN takes none of the {total} nodes of the ONNX model")
    return {
        "context.onnx": done["context"],
        "text/profile.csv": done["profile"],
        "text/left.json": json.dumps(done["left"]).encode(),
    }


class QnnExecutable:
    """A compiled context. It never runs here."""

    def __init__(self, target: str, module: Module, exported: Exported, parts: Parts):
        self.signature: Signature = module.signature
        self._target, self._name, self._exported = target, module.name, exported
        self.artifacts: Mapping[str, str | bytes] = Artifacts(
            {
                "stablehlo": lambda: module.text(locations=True),
                "onnx": exported.model.SerializeToString,
                **stages(parts),
            }
        )

    @property
    def coverage(self) -> Coverage:
        """The ONNX model's nodes, which hold one or more ops of the module each."""
        return self._coverage

    @cached_property
    def _coverage(self) -> Coverage:
        left: list[list[str]] = json.loads(str(self.artifacts["left.json"]))
        origins = self._exported.origins
        gone = Counter((kind, origin_of(name, origins)) for name, kind in left)
        kept = Counter(
            (node.op_type, origin_of(node.name, origins))
            for node in self._exported.model.graph.node
        )
        kept.subtract({k: n for k, n in gone.items() if k in kept})
        rows = [
            OpCoverage(op=f"onnx.{kind}", fate="native", count=count, origin=origin)
            for (kind, origin), count in kept.items()
            if count > 0
        ]
        rows += [
            OpCoverage(
                op=f"onnx.{kind}",
                fate="fallback",
                count=count,
                origin=origin,
                falls_back_to="the CPU beside the NPU",
                why="QNN does not take it; it has no price",
            )
            for (kind, origin), count in gone.items()
        ]
        return Coverage(tuple(rows))

    def run(self, *inputs: Any) -> Sequence[Any]:
        """Always raises UnsupportedError: there is no Hexagon here."""
        raise UnsupportedError(
            f"{self._target} compiled {self._name} but cannot run it: this host has no Hexagon. "
            "Use a target that runs, such as cpu:xla."
        )

    def trace(self, *inputs: Any) -> Trace:
        """Always raises UnsupportedError: QNN gives no times without the device."""
        raise UnsupportedError(f"{self._target} gives no times: QNN tells none without the device.")
