"""Target `rk…:rknn`: a Module as ONNX of opset 19, compiled by Rockchip's toolkit in f16.

The toolkit works in a child process. It tells what runs on the NPU and what on the CPU beside it,
and an estimate of cycles; its simulator gives the NPU's numbers, not its time.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from anychip.compilers import child
from anychip.compilers.bind import check_fixed, check_weights, placed
from anychip.compilers.cache import Cache, cache_key
from anychip.compilers.onnx_export import DOORS, Exported, export
from anychip.compilers.rknn.job import build
from anychip.compilers.store import Parts, cached, stages
from anychip.compilers.toolchains import RKNN
from anychip.compilers.xla_executable import Artifacts
from anychip.core import (
    CompileError,
    CompileOptions,
    Coverage,
    Module,
    OpCoverage,
    Origin,
    Signature,
    Span,
    Trace,
    UsageError,
    dtype,
    unknown,
)
from anychip.core.errors import missing_extra
from anychip.passes.fold import fold
from anychip.passes.lift import lift

_OPSET, _IR = 19, 9
"""The newest that RKNN-Toolkit2 2.5 reads. What we write of opset 23 means the same there."""
_NAMED = ("softmax", "layer_norm")
"""Composites that opset 19 has ops for."""


@dataclass(frozen=True)
class RknnTarget:
    """The toolkit for one platform. `cache` keeps what it made; None compiles each time."""

    name: str
    platform: str
    clock_hz: float
    cache: Cache | None = None
    runs: bool = True
    simulates: str = "RKNN-Toolkit2's simulator"

    @property
    def toolchain(self) -> str:
        found = RKNN.installed
        known = found.version if found else "(not installed)"
        return f"RKNN-Toolkit2 {known}, {self.platform}, f16"

    def compile(self, module: Module, options: CompileOptions) -> RknnExecutable:
        """Compile, or take the result from the cache.

        Raises SetupError without the toolkit, UsageError for symbolic dimensions and options (there
        are none), InputError for weights known by shape only, UnsupportedError for what ONNX cannot
        say, CompileError when the toolkit says no, dies or takes too long.
        """
        if find_spec("onnx") is None:
            raise missing_extra("onnx", "onnxruntime", self.name)
        packages = RKNN.need(self.name).root
        for name in options.extra:
            raise unknown(f"option of {self.name}", name, ())
        if options.threads is not None:
            raise UsageError(f"{self.name} takes no threads: it compiles for a chip, not this host")
        check_fixed(module, self.name)
        check_weights(module, self.name)
        exported = export(lift(fold(module), _NAMED)[0], fused=_NAMED, doors=True)
        exported.model.opset_import[0].version = _OPSET
        exported.model.ir_version = _IR
        held = b"".join(w.array().tobytes() for w in exported.weights.values())
        key = cache_key(exported.model.SerializeToString() + held, options, self.toolchain)
        job = _Job(self, module.name, exported, packages, options.timeout_s)
        parts = cached(self.cache, key, options.timeout_s, job.compiled)
        return RknnExecutable(module, job, parts)


@dataclass(frozen=True)
class _Job:
    target: RknnTarget
    module: str
    exported: Exported
    packages: Path
    timeout_s: float

    def compiled(self) -> Parts:
        done = self._done()
        return {"model.rknn": done["rknn"], "text/log": done["log"].encode()}

    def simulated(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The simulator only takes what was built in its own process."""
        outputs = self._done(arrays)["outputs"]
        if not outputs:
            raise CompileError(f"{self.target.name} simulated {self.module} without a result")
        with np.load(io.BytesIO(outputs)) as found:
            return [found[name] for name in found.files]

    def _done(self, arrays: Sequence[np.ndarray] = ()) -> dict[str, Any]:
        what = f"{self.target.name} {'run' if arrays else 'compile'} of {self.module}"
        with tempfile.TemporaryDirectory(prefix="anychip-rknn-") as folder:
            path, given = Path(folder, "model.onnx"), Path(folder, "inputs.npz")
            path.write_bytes(self.exported.self_contained().SerializeToString())
            if arrays:
                np.savez(given, *arrays)
            done: dict[str, Any] = child.run(
                build,
                *(str(self.packages), str(path), self.target.platform),
                str(given) if arrays else "",
                timeout_s=self.timeout_s,
                what=what,
                environment={"PYTHONPATH": str(self.packages)},
            )
        if done["refusal"]:
            said = [x for x in plain(done["log"]).splitlines() if x.startswith("E ")]
            reason = f": {said[-1][2:].strip()}" if said else ""
            raise CompileError(f"{what}: the toolkit {done['refusal']}{reason}", log=done["log"])
        return done


@dataclass(frozen=True)
class Layer:
    """A row of the toolkit's table: `cycles` are its estimate of memory, arithmetic and in all."""

    kind: str
    where: str
    cycles: tuple[int, int, int]
    name: str


_ROW = re.compile(
    r"\] (?P<id>\d+) +(?P<kind>\S+) +\S+ +(?P<where>NPU|CPU|GPU) .* "
    r"(?P<ddr>\d+)/(?P<npu>\d+)/(?P<total>\d+) +\d+ +(?P<name>.+?) *$"
)


def plain(log: str) -> str:
    """A log without colours and progress bars."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log)
    return "\n".join(line.rpartition("\r")[2] for line in text.split("\n"))


def layers(log: str) -> Iterator[Layer]:
    """The last table of layers in a log, without what only stands for inputs and outputs."""
    _, _, table = plain(log).rpartition("Network Layer Information Table")
    for line in table.splitlines():
        row = _ROW.search(line)
        if row is None or row["kind"] in ("InputOperator", "OutputOperator"):
            continue
        cycles = (int(row["ddr"]), int(row["npu"]), int(row["total"]))
        yield Layer(row["kind"], row["where"], cycles, row["name"].partition(":")[2])


class RknnExecutable:
    """A compiled model. `run` simulates it in a child process, which builds it again: seconds."""

    tolerance = 1e-2
    """Of the simulator's f16 from the program's f32, ‖Δ‖ / ‖reference‖."""

    def __init__(self, module: Module, job: _Job, parts: Parts):
        self.signature: Signature = module.signature
        self._module, self._job = module, job
        self.artifacts: Mapping[str, str | bytes] = Artifacts(
            {
                "stablehlo": lambda: module.text(locations=True),
                "onnx": job.exported.model.SerializeToString,
                **stages(parts),
            }
        )

    @property
    def coverage(self) -> Coverage:
        """The toolkit's layers, which hold one or more ops of the module each."""
        return self._coverage

    @cached_property
    def _coverage(self) -> Coverage:
        counted = Counter((x.kind, x.where, self._origin(x.name)) for x in self._layers)
        return Coverage(
            tuple(
                OpCoverage(
                    op=f"rknn.{kind}",
                    fate="native" if where == "NPU" else "fallback",
                    count=count,
                    origin=origin,
                    falls_back_to="" if where == "NPU" else f"the {where} beside the NPU",
                    why="" if where == "NPU" else f"the toolkit leaves it to the {where}",
                )
                for (kind, where, origin), count in counted.items()
            )
        )

    def run(self, *inputs: Any) -> Sequence[Any]:
        """What the toolkit's simulator gives: the NPU's f16, not its time."""
        given = placed(self._module, inputs)
        arrays = [
            array.astype(dtype(DOORS.get(argument.dtype, argument.dtype)).numpy)
            for index, array in given.items()
            for argument in (self.signature.arguments[index],)
        ]
        results = self._job.simulated(arrays)
        return [
            np.reshape(r, [int(d) for d in s.shape]).astype(dtype(s.dtype).numpy)
            for r, s in zip(results, self.signature.results, strict=True)
        ]

    def trace(self, *inputs: Any) -> Trace:
        """The toolkit's estimated cycles, layer after layer; inputs are not looked at."""
        target, spans, now = self._job.target, list[Span](), 0.0
        for one in self._layers:
            memory, compute, total = one.cycles
            if not total:
                continue  # what the CPU does, and what is fused, has no figure
            seconds = total / target.clock_hz
            spans.append(
                Span(
                    resource="npu",
                    op=one.kind,
                    start_s=now,
                    end_s=now + seconds,
                    origin=self._origin(one.name),
                    bound="memory" if memory >= compute else "compute",
                )
            )
            now += seconds
        left = sum(not one.cycles[2] for one in self._layers)
        note = (
            f"the toolkit's own cycles at {target.clock_hz / 1e9:g} GHz, one core; "
            f"{left} of {len(self._layers)} layers have no figure"
        )
        return Trace("estimated", target.name, tuple(spans), note)

    @cached_property
    def _layers(self) -> tuple[Layer, ...]:
        return tuple(layers(str(self.artifacts["log"])))

    def _origin(self, name: str) -> Origin:
        """A layer's name holds that of our node, or of the tensor it makes."""
        origins = self._job.exported.origins
        if name in origins:
            return origins[name]
        inside = [ours for ours in origins if ours.rpartition("/")[2] in name]
        return origins[max(inside, key=len)] if inside else Origin()
