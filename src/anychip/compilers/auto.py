"""Target `cpu:auto`: every host compiler is tried on the user's inputs, the fastest is kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anychip.compilers.cache import cache_key, cpu_features, keep
from anychip.compilers.contest import Entrant, contest
from anychip.compilers.ledger import ledger
from anychip.core import (
    AnychipError,
    CompileError,
    CompileOptions,
    Coverage,
    Executable,
    Module,
    Target,
    Trace,
    UsageError,
    machine_name,
    unknown,
)

EXTRA = {
    "tolerance": "how far results may lie from the reference, relative to the largest value",
    "seconds": "how long the timed rounds may take in all",
}
_TOLERANCE, _SECONDS = 1e-3, 6.0
_REFERENCE = "xla"
"""XLA compiles the StableHLO itself, so that the others' exports are judged from outside."""


@dataclass(frozen=True)
class AutoTarget:
    """`makers` give the host's targets by name, or raise when something is not installed; of those
    that time does not tell apart the first is taken.

    Choices are kept in `folder`, one JSON file for module, options, toolchains and machine.
    `finest` gives the relative error that a target which rounds cannot go below: with a tolerance
    under it that target is not even compiled. What is `ready` is not compiled again.
    """

    makers: Mapping[str, Callable[[], Target]]
    folder: Path | None = None
    finest: Mapping[str, float] = field(default_factory=dict[str, float])
    name: str = "cpu:auto"
    runs: bool = True
    ready: Mapping[str, Executable] = field(default_factory=dict[str, Executable])

    def given(self, ready: Mapping[str, Executable]) -> AutoTarget:
        """This target, with what the caller has compiled of the same module, by target name and
        without options of its own."""
        own = {name.removeprefix("cpu:"): one for name, one in ready.items()}
        return replace(self, ready=own)

    @property
    def toolchain(self) -> str:
        made, _ = self._made()
        return "the fastest of " + ", ".join(t.toolchain for t in made.values())

    def compile(self, module: Module, options: CompileOptions) -> AutoExecutable:
        """Compile with each, or with the one an earlier run chose.

        Raises UsageError for unknown options and CompileError when none of them can.
        """
        for name in options.extra:
            if name not in EXTRA:
                raise unknown(f"option of {self.name}", name, EXTRA)
        tolerance = _number(self.name, options, "tolerance", _TOLERANCE)
        seconds = _number(self.name, options, "seconds", _SECONDS)
        targets, missing = self._made()
        plain = replace(options, extra={})
        path = self._path(module, options, targets)
        chosen = _stored(path, targets)
        refused: dict[str, str] = dict(missing)
        for how in [h for h in targets if self.finest.get(h, 0.0) > tolerance]:
            del targets[how]
            refused[how] = f"rounds by up to {self.finest[how]:.2g}, tolerance is {tolerance:g}"
        made: dict[str, Executable] = {}
        for how, target in targets.items():
            if chosen and how != chosen["chosen"]:
                continue
            try:
                made[how] = self.ready.get(how) or target.compile(module, plain)
            except AnychipError as error:
                refused[how] = str(error).splitlines()[0]
        if not made:
            lines = "\n".join(f"  {how}: {why}" for how, why in refused.items())
            raise CompileError(f"no compiler of this host takes {module.name}:\n{lines}")
        return AutoExecutable(module, made, _Contest(path, refused, tolerance, seconds, chosen))

    def _made(self) -> tuple[dict[str, Target], dict[str, str]]:
        made: dict[str, Target] = {}
        missing: dict[str, str] = {}
        for how, make in self.makers.items():
            try:
                made[how] = make()
            except AnychipError as error:
                missing[how] = str(error)
        return made, missing

    def _path(
        self, module: Module, options: CompileOptions, targets: Mapping[str, Target]
    ) -> Path | None:
        if self.folder is None:
            return None
        toolchains = " ".join(f"{how}={t.toolchain}" for how, t in targets.items())
        machine = f"{machine_name()} {cpu_features()}"
        return (
            self.folder / f"{cache_key(module.bytecode, options, toolchains, machine=machine)}.json"
        )


def _number(target: str, options: CompileOptions, name: str, default: float) -> float:
    text = options.extra.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        raise UsageError(f"{target}: {name} must be a number above 0, got {text!r}")
    return value


def _stored(path: Path | None, targets: Mapping[str, Target]) -> dict[str, Any] | None:
    """The evidence of an earlier choice; None when there is none or it is unreadable."""
    if path is None or not path.exists():
        return None
    try:
        evidence = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    known = isinstance(evidence, dict) and evidence.get("chosen") in targets
    return evidence if known else None


@dataclass(frozen=True)
class _Contest:
    """What a choice needs besides the compiled programs."""

    path: Path | None
    refused: Mapping[str, str]
    tolerance: float
    seconds: float
    evidence: dict[str, Any] | None = field(default=None)


class AutoExecutable:
    """Chooses at the first run, on its inputs; from then on it is the chosen program."""

    def __init__(self, module: Module, made: Mapping[str, Executable], terms: _Contest):
        self.signature = module.signature
        self._module, self._terms = module, terms
        self._made = dict(made)
        self._evidence = terms.evidence
        self._not_kept = ""
        self._choosing = threading.Lock()
        self._chosen: Executable | None = None
        if self._evidence is not None:
            self._chosen = self._made[self._evidence["chosen"]]

    @property
    def artifacts(self) -> Mapping[str, str | bytes]:
        """`evidence` says which was chosen and why; the rest is the chosen program's."""
        undecided = {"chosen": None, "why": "decided at the first run, on its inputs"}
        text = json.dumps(self._evidence or undecided, indent=1)
        own = dict(self._chosen.artifacts) if self._chosen else {}
        why = {"not_kept": self._not_kept} if self._not_kept else {}
        return {**own, **why, "evidence": text}

    @property
    def coverage(self) -> Coverage:
        return self._chosen.coverage if self._chosen else ledger(self._module)

    def run(self, *inputs: Any) -> Sequence[Any]:
        """As the chosen one's. The first run also times the others and takes that much longer."""
        return self._choice(inputs).run(*inputs)

    def trace(self, *inputs: Any) -> Trace:
        return self._choice(inputs).trace(*inputs)

    def _choice(self, inputs: Sequence[Any]) -> Executable:
        with self._choosing:
            if self._chosen is None:
                entrants = [Entrant(how, one.run) for how, one in self._made.items()]
                found = contest(
                    entrants,
                    inputs,
                    reference=_REFERENCE,
                    tolerance=self._terms.tolerance,
                    seconds=self._terms.seconds,
                )
                self._evidence = {
                    "chosen": found.fastest,
                    "module": self._module.name,
                    "machine": machine_name(),
                    "tolerance": self._terms.tolerance,
                    "not_compiled": dict(self._terms.refused),
                    "entrants": found.to_json(),
                }
                self._chosen = self._made[found.fastest]
                self._made = {found.fastest: self._chosen}
                if (path := self._terms.path) is not None:
                    text = json.dumps(self._evidence, indent=1)
                    self._not_kept = keep(path, text, path.parent)
            return self._chosen
