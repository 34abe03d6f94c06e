"""Target `cpu:onnxruntime`: ONNX Runtime's CPU provider. Weights are not copied into the model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from anychip.compilers.onnx_export import Exported
from anychip.compilers.onnx_hosts.executable import OnnxExecutable, build, origin_of
from anychip.core import CompileError, CompileOptions, Module, Span

CHOICES = {
    "graph_optimization": ("all", "extended", "basic", "off"),
    "spinning": ("yes", "no"),
}


@dataclass(frozen=True)
class OrtTarget:
    """ONNX Runtime. Symbolic dimensions are kept: one executable serves every size."""

    name: str = "cpu:onnxruntime"
    runs: bool = True
    huge_pages: bool = True

    @property
    def toolchain(self) -> str:
        return f"ONNX Runtime {version('onnxruntime')}"

    def compile(self, module: Module, options: CompileOptions) -> OnnxExecutable:
        """See `executable.build` for what it raises."""
        return build(
            self.name,
            module,
            options,
            CHOICES,
            lambda e: _Session(self.name, e, options),
            huge_pages=self.huge_pages,
            gates=True,
        )


class _Session:
    def __init__(self, target: str, exported: Exported, options: CompileOptions):
        self._target, self._exported, self._options = target, exported, options
        self._arrays: dict[str, Any] = {}
        self._session = self._open(None)
        self._names = [i.name for i in self._session.get_inputs()]

    def run(self, arrays: Sequence[np.ndarray]) -> Sequence[Any]:
        return self._on(self._session, arrays)

    def profile(self, arrays: Sequence[np.ndarray]) -> tuple[tuple[Span, ...], str]:
        """In a session of its own, since profiling is decided when one is opened."""
        with tempfile.TemporaryDirectory(prefix="anychip-ort-") as folder:
            session = self._open(Path(folder) / "profile")
            self._on(session, arrays)
            self._on(session, arrays)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        runs = [e for e in events if e.get("name") == "model_run"]
        start, end = runs[-1]["ts"], runs[-1]["ts"] + runs[-1]["dur"]
        kernels = [
            e
            for e in events
            if e.get("cat") == "Node"
            and str(e.get("name", "")).endswith("_kernel_time")
            and start <= e["ts"] <= end
        ]
        spans = tuple(
            Span(
                resource="cpu",
                op=str(e["args"].get("op_name", "")),
                start_s=(e["ts"] - start) * 1e-6,
                end_s=(e["ts"] + e["dur"] - start) * 1e-6,
                origin=origin_of(e["name"].removesuffix("_kernel_time"), self._exported.origins),
            )
            for e in kernels
        )
        busy = sum(s.seconds for s in spans)
        note = f"{len(spans)} kernels took {busy * 1e3:.3g} of {(end - start) * 1e-3:.3g} ms"
        return spans, note

    def _on(self, session: Any, arrays: Sequence[np.ndarray]) -> Sequence[Any]:
        from onnxruntime.capi import onnxruntime_pybind11_state as state  # pyright: ignore

        try:
            return session.run(None, dict(zip(self._names, arrays, strict=True)))
        except (state.Fail, state.InvalidArgument, state.RuntimeException) as error:
            raise CompileError(f"{self._target} could not run: {error}") from None

    def _open(self, profile: Path | None) -> Any:
        import onnxruntime as ort
        from onnxruntime.capi import onnxruntime_pybind11_state as state  # pyright: ignore

        settings = ort.SessionOptions()
        settings.log_severity_level = 4  # refusals come as exceptions
        level = self._options.extra.get("graph_optimization", "all")
        settings.graph_optimization_level = {
            "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
            "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
            "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
            "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        }[level]
        if self._options.threads is not None:
            settings.intra_op_num_threads = self._options.threads
        if self._options.extra.get("spinning") == "no":
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if profile is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(profile)
        if self._exported.weights and not self._arrays:
            self._arrays = {
                name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(weight.array()))
                for name, weight in self._exported.weights.items()
            }
        if self._arrays:
            settings.add_external_initializers([*self._arrays], [*self._arrays.values()])
        try:
            return ort.InferenceSession(
                self._exported.model.SerializeToString(),
                settings,
                providers=["CPUExecutionProvider"],
            )
        except (
            state.Fail,
            state.InvalidGraph,
            state.InvalidArgument,
            state.NotImplemented,
            state.RuntimeException,
        ) as error:
            first = str(error).splitlines()[0]
            raise CompileError(
                f"{self._target} refused the model: {first}", log=str(error)
            ) from None
