"""Target `cpu:openvino`: OpenVINO's CPU plug-in, in f32 unless asked otherwise."""

from __future__ import annotations

import importlib
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from anychip.compilers.onnx_export import Exported
from anychip.compilers.onnx_hosts.executable import OnnxExecutable, build, origin_of
from anychip.core import CompileError, CompileOptions, Module, Span

CHOICES = {
    "precision": ("f32", "bf16", "f16"),
    "hint": ("latency", "throughput"),
    "hyper_threading": ("default", "yes", "no"),
    "partitioner": ("default", "static", "auto"),
}
"""`partitioner` is how oneTBB divides an op among threads: in equal parts, or as they come free.
`precision` is what matrix products and convolutions are computed in. int8 needs a quantised
model; OpenVINO then computes in int8 by itself."""


@dataclass(frozen=True)
class OpenVinoTarget:
    """OpenVINO. Symbolic dimensions are kept: one executable serves every size.

    `precision` and `partitioner` are what the options of these names are when a user gives none.
    """

    name: str = "cpu:openvino"
    runs: bool = True
    precision: str = "f32"
    partitioner: str = "default"
    huge_pages: bool = True

    @property
    def toolchain(self) -> str:
        own = [v for v in (self.precision, self.partitioner) if v not in ("f32", "default")]
        return " ".join(["OpenVINO", version("openvino"), *own])

    def compile(self, module: Module, options: CompileOptions) -> OnnxExecutable:
        """See `executable.build` for what it raises."""
        extra = {
            "precision": self.precision,
            "partitioner": self.partitioner,
            **options.extra,
        }
        options = replace(options, extra=extra)
        return build(
            self.name,
            module,
            options,
            CHOICES,
            lambda e: _Session(self.name, e, options),
            huge_pages=self.huge_pages,
        )


def openvino() -> Any:
    """The package, without its telemetry: importing it forks a process that reports home."""
    if "openvino" in sys.modules:
        return importlib.import_module("openvino")
    before = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules["openvino_telemetry"]
        if before is not None:
            sys.modules["openvino_telemetry"] = before


class _Session:
    def __init__(self, target: str, exported: Exported, options: CompileOptions):
        self._target, self._exported, self._options = target, exported, options
        self._request = self._open(profiled=False)
        self._turn = threading.Lock()  # a request serves one caller at a time

    def run(self, arrays: Sequence[np.ndarray]) -> Sequence[Any]:
        with self._turn:
            return self._on(self._request, arrays)

    def profile(self, arrays: Sequence[np.ndarray]) -> tuple[tuple[Span, ...], str]:
        """In a model of its own: counting costs a little time."""
        request = self._open(profiled=True)
        self._on(request, arrays)
        self._on(request, arrays)
        spans: list[Span] = []
        at_s = 0.0
        for one in request.profiling_info:
            seconds = one.real_time.total_seconds()
            if not seconds:
                continue
            origin = origin_of(one.node_name, self._exported.origins)
            name = f"{one.node_type} {one.exec_type}"
            spans.append(
                Span(resource="cpu", op=name, start_s=at_s, end_s=at_s + seconds, origin=origin)
            )
            at_s += seconds
        note = (
            f"{len(spans)} nodes, {at_s * 1e3:.3g} ms; OpenVINO tells how long each took, not "
            "when: they are laid one after the other"
        )
        return tuple(spans), note

    def _on(self, request: Any, arrays: Sequence[np.ndarray]) -> Sequence[Any]:
        shared = [a if a.flags.writeable else a.copy() for a in arrays]  # it shares no others
        try:
            results = request.infer(shared, share_inputs=True)
        except RuntimeError as error:
            raise CompileError(f"{self._target} could not run: {error}") from None
        return results.to_tuple()  # in the model's order; by name each would be searched for

    def _open(self, *, profiled: bool) -> Any:
        core = openvino().Core()
        extra = self._options.extra
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": extra.get("hint", "latency").upper(),
            "INFERENCE_PRECISION_HINT": extra.get("precision", "f32"),
        }
        if extra.get("precision", "f32") == "f32":
            config["EXECUTION_MODE_HINT"] = "ACCURACY"
        if self._options.threads is not None:
            config["INFERENCE_NUM_THREADS"] = self._options.threads
        if extra.get("hyper_threading", "default") != "default":
            config["ENABLE_HYPER_THREADING"] = extra["hyper_threading"] == "yes"
        if extra.get("partitioner", "default") != "default":
            config["TBB_PARTITIONER"] = extra["partitioner"].upper()
        if profiled:
            config["PERF_COUNT"] = True
        with tempfile.TemporaryDirectory(prefix="anychip-ov-") as folder:
            path = self._exported.save(Path(folder))
            try:
                compiled = core.compile_model(core.read_model(path), "CPU", config)
            except RuntimeError as error:
                lines = [line for line in str(error).splitlines() if line.strip()]
                raise CompileError(
                    f"{self._target} refused the model: {lines[-1]}", log=str(error)
                ) from None
        return compiled.create_infer_request()
