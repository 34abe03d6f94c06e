"""Target `ethos-u…:vela`: a Module quantised to int8, then compiled by Vela in a child process.

Vela gives cycles for each operator; they are its own estimate. What it leaves to the CPU beside the
NPU is said to fall back there, at a price it does not tell.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

from anychip.compilers import child, tflite
from anychip.compilers.bind import check_fixed, check_weights
from anychip.compilers.cache import Cache, cache_key
from anychip.compilers.store import Parts, cached, stages
from anychip.compilers.vela import Configuration
from anychip.compilers.xla_executable import Artifacts
from anychip.compilers.xla_input import origin_of, prepare
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
    UnsupportedError,
    UsageError,
    unknown,
)
from anychip.core.child import run_module
from anychip.core.errors import missing_extra

EXTRA = {"calibration": "an .npz of samples by input name, to calibrate the int8 ranges on"}
"""Extra compile options."""
_LEVELS = {
    "NPU": "compute",
    "SRAM AC": "memory",
    "DRAM AC": "memory",
    "OnFlash AC": "memory",
    "OffFlash AC": "memory",
}


@dataclass(frozen=True)
class VelaTarget:
    """Vela for one configuration. `cache` keeps what it made; None compiles each time."""

    name: str
    configuration: Configuration
    cache: Cache | None = None
    runs: bool = False

    @property
    def toolchain(self) -> str:
        try:
            known = f"Vela {version('ethos-u-vela')}, TensorFlow {version('tensorflow-cpu')}"
        except PackageNotFoundError as error:
            known = f"Vela ({error.name} is not installed)"
        one = self.configuration
        return f"{known}, {one.accelerator}, {one.system}, {one.memory}"

    def compile(self, module: Module, options: CompileOptions) -> VelaExecutable:
        """Quantise and compile, or take the result from the cache.

        Raises SetupError without Vela or TensorFlow, UsageError for symbolic dimensions and unknown
        options, InputError for weights known by shape only, UnsupportedError for element types
        that are not quantised, CompileError when the converter or Vela says no, dies or takes too
        long.
        """
        for package in ("ethos-u-vela", "tensorflow-cpu"):
            try:
                version(package)
            except PackageNotFoundError:
                raise missing_extra(package, "ethos-u", self.name) from None
        if options.threads is not None:
            raise UsageError(f"{self.name} takes no threads: it compiles for a chip, not this host")
        for name in options.extra:
            if name not in EXTRA:
                raise unknown(f"option of {self.name}", name, EXTRA)
        check_fixed(module, self.name)
        check_weights(module, self.name)
        weights = {
            index: module.weights[argument.name].array()
            for index, argument in enumerate(module.signature.arguments)
            if argument.role == "weight"
        }
        bytecode, table = prepare(module)
        calibration = tflite.samples(module, options.extra.get("calibration", ""))
        held = b"".join(a.tobytes() for a in chain(weights.values(), *calibration))
        plain = replace(options, extra={})

        def quantised() -> Parts:
            """The same for every Ethos-U, so it is made once for all of them."""
            return cached(
                self.cache,
                cache_key(bytecode + held, plain, f"TensorFlow {version('tensorflow-cpu')}, int8"),
                options.timeout_s,
                lambda: _quantised(self, module, options, bytecode, weights, calibration),
            )

        parts = cached(
            self.cache,
            cache_key(bytecode + held, plain, self.toolchain),
            options.timeout_s,
            lambda: _made(self, module, options, quantised()),
        )
        return VelaExecutable(self.name, module, table, parts)


def _quantised(
    target: VelaTarget,
    module: Module,
    options: CompileOptions,
    bytecode: bytes,
    weights: Mapping[int, Any],
    calibration: Sequence[Sequence[Any]],
) -> Parts:
    arguments = module.signature.arguments
    kinds = [(tuple(a.shape), a.dtype) for a in arguments if a.role != "weight"]
    results = [(tuple(r.shape), r.dtype) for r in module.signature.results]
    done: tflite.Converted = child.run(
        tflite.convert,
        tflite.portable(module, bytecode),
        [weights.get(index) for index in range(len(arguments))],
        *(kinds, results, calibration),
        timeout_s=options.timeout_s,
        what=f"{target.name} quantisation of {module.name}",
        environment=tflite.ENVIRONMENT,
    )
    if done.refusal:
        reason = done.refusal.strip().splitlines()[0]
        raise CompileError(
            f"{target.name}: TensorFlow's converter cannot make {module.name} an int8 TFLite "
            f"file: {reason}",
            log=done.refusal,
        )
    names = (r.name for r in module.signature.results)
    quality = {
        "sqnr_db": dict(zip(names, done.sqnr_db, strict=True)),
        "calibrated_on": options.extra.get("calibration", "standard normals"),
    }
    return {"model.tflite": done.file, "text/int8.json": json.dumps(quality).encode()}


def _made(target: VelaTarget, module: Module, options: CompileOptions, quantised: Parts) -> Parts:
    with tempfile.TemporaryDirectory(prefix="anychip-vela-") as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(quantised["model.tflite"])
        one = target.configuration
        words = [
            str(folder / "model.tflite"),
            f"--accelerator-config={one.accelerator}",
            "--config=Arm/vela.ini",
            f"--system-config={one.system}",
            f"--memory-mode={one.memory}",
            f"--output-dir={folder}",
            "--verbose-performance",
        ]
        what = f"{target.name} compile of {module.name}"
        log = run_module("ethosu.vela", words, timeout_s=options.timeout_s, what=what)
        summary = next(iter(folder.glob("model_summary_*.csv")), None)
        layers, compiled = folder / "model_per-layer.csv", folder / "model_vela.tflite"
        if summary is None or not layers.exists() or not compiled.exists():
            raise CompileError(f"{what} left no result", log=log)
        return {
            **quantised,
            "vela.tflite": compiled.read_bytes(),
            "text/per_layer.csv": layers.read_bytes(),
            "text/summary.csv": summary.read_bytes(),
            "text/log": log.encode(),
        }


class VelaExecutable:
    """A compiled program with Vela's cycles. It never runs here."""

    def __init__(self, target: str, module: Module, table: tuple[str, ...], parts: Parts):
        self.signature: Signature = module.signature
        self._target, self._name, self._table = target, module.name, table
        self.artifacts: Mapping[str, str | bytes] = Artifacts(
            {
                "stablehlo": lambda: module.text(locations=True),
                **stages(parts),
            }
        )

    @property
    def coverage(self) -> Coverage:
        """The TFLite file's operators, which hold one or more ops of the module each."""
        return self._coverage

    @cached_property
    def _coverage(self) -> Coverage:
        places = Counter(
            (row["Original Operator"], row["Target"], self._origin(row["Name"]))
            for row in self._rows
        )
        return Coverage(
            tuple(
                OpCoverage(
                    op=f"tflite.{op}",
                    fate="native" if where == "NPU" else "fallback",
                    count=count,
                    origin=origin,
                    falls_back_to="" if where == "NPU" else "the CPU beside the NPU",
                    why="" if where == "NPU" else "Vela leaves it to the CPU",
                )
                for (op, where, origin), count in places.items()
            )
        )

    def run(self, *inputs: Any) -> Sequence[Any]:
        """Always raises UnsupportedError: there is no Ethos-U here."""
        raise UnsupportedError(
            f"{self._target} compiled {self._name} but cannot run it: this host has no Ethos-U. "
            "Use .trace() for Vela's estimate, or a target that runs, such as cpu:xla."
        )

    def trace(self, *inputs: Any) -> Trace:
        """Vela's estimated cycles, operator after operator; inputs are not looked at."""
        (summary,) = _table(str(self.artifacts["summary.csv"]))
        clock_hz = float(summary["core_clock"])
        spans: list[Span] = []
        now = 0.0
        for row in self._rows:
            seconds = float(row["Op Cycles"]) / clock_hz
            if not seconds:
                continue  # fused into the operator before it
            slowest = max(_LEVELS, key=lambda level: float(row[level]))
            spans.append(
                Span(
                    resource="npu" if row["Target"] == "NPU" else "cpu",
                    op=row["NNG Operator"],
                    start_s=now,
                    end_s=now + seconds,
                    origin=self._origin(row["Name"]),
                    flops=2 * int(float(row["MAC Count"])),
                    bound=_LEVELS[slowest],
                )
            )
            now += seconds
        quality = json.loads(str(self.artifacts["int8.json"]))
        worst = min(quality["sqnr_db"].values())
        return Trace(
            "estimated",
            self._target,
            tuple(spans),
            f"Vela's own estimate ({summary['accelerator_configuration']}, "
            f"{summary['system_config']}): {summary['cycles_total']} cycles; int8, "
            f"{worst:.3g} dB from f32 on {quality['calibrated_on']}",
        )

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        return _table(str(self.artifacts["per_layer.csv"]))

    def _origin(self, name: str) -> Origin:
        """A tensor's name is made of the op names that `prepare` gave, joined by ";"."""
        for part in reversed(name.split(";")):
            found = origin_of(part, self._table)
            if found.layer or found.source:
                return found
        return Origin()


def _table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))
