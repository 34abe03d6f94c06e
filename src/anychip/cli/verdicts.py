"""One target's verdict on one module, its numbers checked. `asking` puts the question to many."""

from __future__ import annotations

import hashlib
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from anychip.cli.model import Loaded, inputs_for
from anychip.cli.output import said_by_the_system
from anychip.core import (
    AnychipError,
    Argument,
    CompileError,
    CompileOptions,
    Coverage,
    Executable,
    Module,
    PluginError,
    Registry,
    RunFolder,
    SetupError,
    Target,
    UsageError,
    dtype,
    is_full,
    simulates,
)
from anychip.debug import made_up
from anychip.fallback import Compile

State = Literal["ok", "refused", "missing", "absent", "unasked"]
SLOW_STAGES = ("llo_profile",)
"""Endings of stages that take another compile to make; left out when all targets are asked."""
PROMPT = 32
"""Tokens that a token step stands behind when its numbers are compared."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one target said of one module. `matched` is None when numbers could not be compared.

    `ledger` has the rows that are not native. `state` tells a compiler's no ("refused") from one
    that is not installed ("missing"), not to be had ("absent") or had no time to answer
    ("unasked"); only the first is a verdict on the model. `max_rel_err` is max|Δ| / max|reference|
    of the worst result. Where a target's arithmetic is narrower than the program's types,
    `rel_err`, ‖Δ‖ / ‖reference‖, is held against its `tolerance` instead. `simulated` says what
    computed the numbers where that was not the chip. `not_kept` says why the program or what it
    left is not on disk, where that is full.
    """

    target: str
    compiled: bool = False
    ran: bool = False
    matched: bool | None = None
    seconds: float = 0.0
    error: str | None = None
    max_rel_err: float | None = None
    rel_err: float | None = None
    simulated: str = ""
    tolerance: float | None = None
    artifacts: list[str] = field(default_factory=list)
    ops: dict[str, int] | None = None
    ledger: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    summary: str = ""
    toolchain: str = ""
    state: State = "ok"
    not_kept: str = ""

    @property
    def is_no(self) -> bool:
        """Whether this is a compiler's no, or numbers that differ."""
        return self.state == "refused" or self.matched is False


@dataclass(frozen=True, kw_only=True)
class Inquiry:
    """A module before its judges. `folder` keeps what they leave; `asks_all` leaves slow stages,
    and keeps what was compiled for this host, for a target that is `given` it (cpu:auto)."""

    loaded: Loaded
    registry: Registry
    folder: RunFolder
    options: CompileOptions
    compile: Compile
    seed: int = 0
    asks_all: bool = False
    _shared: dict[tuple[str, bytes], str] = field(default_factory=dict[tuple[str, bytes], str])
    _full: list[str] = field(default_factory=list[str])
    _keeping: threading.Lock = field(default_factory=threading.Lock)
    _reference: list[Any] = field(default_factory=list[Any])
    _made: dict[str, Executable] = field(default_factory=dict[str, Executable])
    _state: dict[str, Any] = field(default_factory=dict[str, Any])

    def target(self, name: str) -> Target | Verdict:
        chip, _, how = name.partition(":")
        absent = self.registry.chip(chip).absent
        if self.asks_all and how in absent:
            return Verdict(target=name, state="absent", error=absent[how])
        try:
            return self.registry.target(name)
        except SetupError as error:
            return Verdict(target=name, state="missing", error=str(error))

    def judge(self, name: str, target: Target) -> Verdict:
        """The verdict; where all are asked a bug of ours in one does not lose the others'."""
        start = time.perf_counter()
        try:
            return self._verdict(name, target)
        except (AnychipError, KeyboardInterrupt):
            raise
        except Exception as error:
            if not self.asks_all:
                raise
            system = said_by_the_system(error) if isinstance(error, OSError) else ""
            return Verdict(
                target=name,
                toolchain=target.toolchain,
                state="refused",
                seconds=time.perf_counter() - start,
                artifacts=self._keep(name, "log.txt", traceback.format_exc()),
                error=system or f"a bug in anychip: {type(error).__name__}: {error}",
            )

    def _verdict(self, name: str, target: Target) -> Verdict:
        module = self.loaded.module
        start = time.perf_counter()
        known: dict[str, Any] = {"target": name, "toolchain": target.toolchain}
        given = getattr(target, "given", None)
        if given is not None and not self.options.extra:
            target = given(dict(self._made))
        try:
            executable = self.compile(target, module, self.options)
        except (SetupError, PluginError) as error:
            return Verdict(**known, state="missing", error=str(error))
        except AnychipError as error:
            if isinstance(error, UsageError) and not self.asks_all:
                raise
            known["seconds"] = time.perf_counter() - start
            if isinstance(error, CompileError) and error.log:
                known["artifacts"] = self._keep(name, "log.txt", error.log)
            return Verdict(**known, state="refused", error=str(error))
        known["seconds"] = time.perf_counter() - start
        stages = {
            stage: executable.artifacts[stage]
            for stage in executable.artifacts
            if not (self.asks_all and stage.endswith(SLOW_STAGES))
        }
        known["artifacts"] = [p for s, made in stages.items() for p in self._keep(name, s, made)]
        texts = {stage: made for stage, made in stages.items() if isinstance(made, str)}
        coverage = executable.coverage
        known |= {
            "compiled": coverage.count("unsupported") == 0,
            "ops": coverage.to_json(),
            "ledger": [row.to_json() for row in coverage.rows if row.fate != "native"],
            "summary": coverage.summary(),
            "not_kept": self._not_kept(executable),
        }
        if self.asks_all and target.runs and not coverage.count("fallback"):
            self._made[name] = executable
        if not known["compiled"]:
            known |= {"error": _unsupported(coverage), "state": "refused"}
        simulated = simulates(target)
        if not target.runs or module.weights.is_shape_only or not known["compiled"]:
            return Verdict(**known)
        if self.asks_all and simulated:  # half a hundred twins; ask one by name for its numbers
            return Verdict(**known)
        try:
            inputs = self._inputs()
            results = [_as_numpy(r) for r in executable.run(*inputs)]
        except AnychipError as error:
            return Verdict(**{**known, "error": str(error)})
        for stage, before in texts.items():
            if (now := executable.artifacts[stage]) != before:
                known["artifacts"] += self._keep(name, f"{stage}-after-run", now)
        known["not_kept"] = self._not_kept(executable)
        bound = getattr(executable, "tolerance", None)
        tolerance = None if bound is None else float(bound)
        try:
            wanted = self._wanted()
        except AnychipError as error:  # an op that only its compiler knows, such as a custom call
            why = " ".join(str(error).split())
            return Verdict(**known, ran=True, error=f"ran, numbers not compared: {why}")
        error, matched = near(wanted, results, tolerance)
        return Verdict(
            **known,
            ran=True,
            matched=matched,
            max_rel_err=error if tolerance is None else None,
            rel_err=None if tolerance is None else error,
            simulated=simulated,
            tolerance=tolerance,
        )

    def _keep(self, target: str, stage: str, content: str | bytes) -> list[str]:
        """Write a stage, once for all targets that leave the same; its path, none where the disk
        is full."""
        raw = content.encode() if isinstance(content, str) else content
        key = (stage, hashlib.sha256(raw).digest())
        with self._keeping:  # compilers of absent chips work side by side
            if key not in self._shared:
                folder = "" if stage == "stablehlo" else f"{target.replace(':', '-')}/"
                try:
                    self._shared[key] = str(self.folder.write(f"{folder}{stage}", content))
                except OSError as error:
                    if not is_full(error):
                        raise
                    self._full.append(said_by_the_system(error))
                    return []
            return [self._shared[key]]

    def _not_kept(self, executable: Executable) -> str:
        """What the compiler says of its cache, else that the run folder's disk is full."""
        return str(executable.artifacts.get("not_kept", "")) or "".join(self._full[:1])

    def _inputs(self) -> list[Any]:
        """Made up; but a token step stands behind a prompt that the reference has read. Caches
        drawn at random are like none that a model makes, and small roundings grow in them."""
        loaded, read = self.loaded, self.loaded.prompt
        tokens = min(PROMPT, loaded.ranges["start"][0]) if read is not None else 0
        if read is None or not tokens:
            return inputs_for(loaded, (), self.seed)
        if not self._state:
            module = read(tokens)
            starts = {**loaded.ranges, "start": (0, 1)}
            first = {a.name: _zeros(a) for a in module.signature.named("state")}
            made = reference(module, made_up(module, self.seed, given=first, ranges=starts))
            for result, array in zip(module.signature.results, made, strict=True):
                if result.updates:
                    self._state[result.updates] = array
        ranges = {**loaded.ranges, "start": (tokens, tokens + 1)}
        given = {name: array.copy() for name, array in self._state.items()}
        return made_up(loaded.module, self.seed, given=given, ranges=ranges)

    def _wanted(self) -> list[Any]:
        if not self._reference:
            inputs = self._inputs()
            self._reference.extend(reference(self.loaded.module, inputs))
        return self._reference


def _unsupported(coverage: Coverage) -> str:
    rows = [r for r in coverage.rows if r.fate == "unsupported"]
    return "; ".join(f"{r.op} ×{r.count} at {r.origin}: {r.why}" for r in rows[:5])


def _zeros(argument: Argument) -> Any:
    import numpy as np

    return np.zeros([int(d) for d in argument.shape], dtype(argument.dtype).numpy)


def _as_numpy(value: Any) -> Any:
    import numpy as np

    return np.array(value)  # a copy: the next run may reuse a donated buffer


def compare_numbers(
    module: Module, inputs: list[Any], results: list[Any], tolerance: float | None = None
) -> tuple[float, bool]:
    """`near` the op table's meanings, which XLA runs on this host: for `cpu:xla` this checks
    binding, donation and fusion, not XLA's arithmetic."""
    return near(reference(module, inputs), results, tolerance)


def reference(module: Module, inputs: list[Any]) -> list[Any]:
    """What the op table says the results are."""
    import numpy as np

    from anychip.ops.interp import evaluate

    given = iter(inputs)
    arguments = [
        module.weights[a.name].array() if a.role == "weight" else next(given)
        for a in module.signature.arguments
    ]
    return [np.array(one) for one in evaluate(module, *arguments)]


def near(
    references: Sequence[Any], results: Sequence[Any], tolerance: float | None = None
) -> tuple[float, bool]:
    """(largest max|Δ| / max|ref| over the results, whether that is near enough for their types).

    With a `tolerance`, for a target whose arithmetic is narrower than the program's types, it is
    the largest ‖Δ‖ / ‖ref‖, held against that; integers may then differ, for they may be choices
    made on floats.
    """
    import numpy as np

    worst, matched = 0.0, True
    for wanted, result in zip(references, results, strict=True):
        if wanted.dtype.kind in "biu":
            matched &= tolerance is not None or bool(np.array_equal(wanted, result))
            continue
        kind = np.complex128 if wanted.dtype.kind == "c" else np.float64
        exact, got = wanted.astype(kind), result.astype(kind)
        size = np.where(np.isfinite(exact), np.abs(exact), 0.0)
        same = (exact == got) | (np.isnan(exact) & np.isnan(got))
        difference = np.where(same, 0.0, np.abs(exact - got))
        if tolerance is None:
            error = float(np.max(difference, initial=0.0)) / (float(size.max(initial=0.0)) or 1.0)
            most = 1e-3 if wanted.dtype.itemsize >= 4 else 2e-2
        else:
            error = float(np.linalg.norm(difference)) / (float(np.linalg.norm(size)) or 1.0)
            most = tolerance
        worst = worst if error <= worst else error  # a NaN stays
        matched &= error <= most
    return worst, bool(matched)  # no NumPy bool: a verdict is written as JSON
