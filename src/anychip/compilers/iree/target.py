"""Target `chip:iree`: a Module through IREE's compiler in a child process.

It runs where the device is this host's: its CPU, or what its Vulkan driver drives.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anychip.compilers.bind import check_weights, placed
from anychip.compilers.cache import Cache, cache_key, cpu_features
from anychip.compilers.iree.prepare import PREPARED, prepare
from anychip.compilers.iree.profiles import PROFILES, Profile
from anychip.compilers.iree.runtime import OnCpu, OnVulkan, Runner, check_types
from anychip.compilers.ledger import ledger
from anychip.compilers.store import Parts, cached, stages
from anychip.compilers.xla_executable import Artifacts
from anychip.core import (
    CompileError,
    CompileOptions,
    Coverage,
    Module,
    Signature,
    Span,
    Trace,
    UnsupportedError,
    UsageError,
    unknown,
)
from anychip.core import origin as origins
from anychip.core.child import run_module
from anychip.core.errors import missing_extra

_TOOL = "iree.compiler.tools.scripts.iree_compile"
_ERROR = re.compile(r"^.*?error: (?:(loc\(.*?\)): (?=\S))?(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class IreeTarget:
    """IREE for one profile. `cache` keeps what it made; None compiles each time.

    `device` is what of this host the program runs on: cpu, vulkan, or "" for a device elsewhere.
    """

    name: str
    profile: str
    cache: Cache | None = None
    device: Literal["", "cpu", "vulkan"] = ""

    @property
    def runs(self) -> bool:
        return self.device != ""

    @property
    def toolchain(self) -> str:
        try:
            return f"IREE {version('iree-base-compiler')}, {self.profile}"
        except PackageNotFoundError:
            return "IREE, not installed"

    def compile(self, module: Module, options: CompileOptions) -> IreeExecutable:
        """Compile, or take the result from the cache.

        Extra options are iree-compile's own, by name without dashes (`iree-opt-level` = `O2`).
        On the CPU, `threads` may be 1; else all cores are used.
        Raises SetupError without IREE, UsageError for options that are not its own, CompileError,
        with the place in the model and IREE's log, when it says no, dies or takes too long.
        """
        try:
            version("iree-base-compiler")
        except PackageNotFoundError:
            raise missing_extra("iree-base-compiler", "iree", self.name) from None
        if self.profile not in PROFILES:
            raise unknown("IREE profile", self.profile, PROFILES)
        if options.threads is not None and self.device != "cpu":
            raise UsageError(f"{self.name} takes no threads: it compiles for a chip, not this host")
        if options.threads not in (None, 1):
            raise UsageError(f"{self.name}: threads may be 1, or left out to use all cores")
        for name in options.extra:
            if not name.startswith("iree-"):
                raise unknown(f"option of {self.name}", name, ("iree-…",))
        key = cache_key(
            module.bytecode,
            replace(options, threads=None),  # the runtime's, not the compiler's
            f"{self.toolchain}, prepared {PREPARED}",
            machine=cpu_features() if self.profile == "host" else "",
        )
        parts = cached(self.cache, key, options.timeout_s, lambda: _compile(self, module, options))
        return IreeExecutable(self.name, module, parts, self._runner(module, parts, options))

    def _runner(
        self, module: Module, parts: Parts, options: CompileOptions
    ) -> Callable[[], Runner] | None:
        vmfb = parts["vmfb"]
        if self.device == "cpu":
            driver = "local-sync" if options.threads == 1 else "local-task"
            return lambda: OnCpu(module, vmfb, driver)
        if self.device == "vulkan":
            return lambda: OnVulkan(module, vmfb, self.name, min(options.timeout_s, 120.0))
        return None


def _compile(target: IreeTarget, module: Module, options: CompileOptions) -> Parts:
    profile = PROFILES[target.profile]
    text, table = prepare(module)
    with tempfile.TemporaryDirectory(prefix="anychip-iree-") as name:
        folder = Path(name)
        (folder / "module.mlir").write_text(text, encoding="utf-8")
        arguments = [
            "--iree-input-type=stablehlo",
            f"--iree-hal-target-backends={profile.backend}",
            *profile.flags,
            *(f"--{option}={value}" for option, value in options.extra.items()),
            f"--iree-hal-dump-executable-binaries-to={folder}",
            f"--iree-hal-dump-executable-intermediates-to={folder}",
            str(folder / "module.mlir"),
            "-o",
            str(folder / "module.vmfb"),
        ]
        what = f"{target.name} compile of {module.name}"
        try:
            run_module(_TOOL, arguments, timeout_s=options.timeout_s, what=what)
        except CompileError as error:
            raise _explained(error, target.name, module.name, table) from None
        return _parts(folder, profile)


def _parts(folder: Path, profile: Profile) -> Parts:
    parts = {"vmfb": (folder / "module.vmfb").read_bytes()}
    for stage, ending in profile.texts.items():
        files = sorted(folder.glob(f"*{ending}"))
        parts[f"text/{stage}"] = "\n".join(f.read_text(errors="replace") for f in files).encode()
    for stage, ending in profile.binaries.items():
        for index, file in enumerate(sorted(folder.glob(f"*{ending}"))):
            parts[f"{stage}/{index}{ending}"] = file.read_bytes()
    return parts


def _explained(
    error: CompileError, target: str, module: str, table: tuple[str, ...]
) -> CompileError | UsageError:
    """The same verdict, said by IREE's first error and the user's layer."""
    if unknown_option := re.search(r"Unknown command line argument '([^']*)'", error.log):
        return UsageError(f"{target}: iree-compile has no option {unknown_option[1]}")
    said = _ERROR.search(error.log)
    if said is None:
        return error
    place = origins.parse(said[1], table) if said[1] else None
    where = f", at {place}" if place and place != origins.Origin() else ""
    return CompileError(f"{target} could not compile {module}: {said[2]}{where}", log=error.log)


class IreeExecutable:
    """A compiled program: IREE's module file and the device code inside it.

    `runner` loads it, at the first run; None where the device is not here.
    """

    def __init__(
        self,
        target: str,
        module: Module,
        parts: Parts,
        runner: Callable[[], Runner] | None = None,
    ):
        self.signature: Signature = module.signature
        self._load = runner
        self._loaded: Runner | None = None
        self._target, self._module = target, module
        self.artifacts: Mapping[str, str | bytes] = Artifacts(
            {
                "stablehlo": lambda: module.text(locations=True),
                **stages(parts),
            }
        )

    @property
    def coverage(self) -> Coverage:
        """Every op is native: IREE compiles all of a module or refuses it."""
        return self._coverage

    @cached_property
    def _coverage(self) -> Coverage:
        return ledger(self._module)

    def run(self, *inputs: Any) -> Sequence[np.ndarray]:
        """The results as numpy arrays. State is not donated: the arrays given stay as they were.

        Raises UnsupportedError where the device is not here and for arrays narrower than a byte,
        UsageError for a wrong number, shape or element type, InputError for weights known by shape
        only, CompileError when the child that runs it dies.
        """
        if self._load is None:
            raise UnsupportedError(
                f"{self._target} compiled {self._module.name} but cannot run it: the device is not "
                "here. Use a target that runs, such as cpu:xla."
            )
        if self._loaded is None:
            check_types(self._module, self._target)
            check_weights(self._module, self._target)
            self._loaded = self._load()
        return self._loaded(placed(self._module, inputs))

    def trace(self, *inputs: Any) -> Trace:
        """One span for a whole run on the CPU, after one to warm up: IREE gives no time per op.

        Raises UnsupportedError on other devices: IREE has no cost model, and a run in a child
        spends most of its time on files.
        """
        if self._load is None or not self._target.startswith("cpu:"):
            raise UnsupportedError(
                f"{self._target} gives no times: IREE has no cost model. Use the chip's twin."
            )
        self.run(*inputs)
        start = time.perf_counter()
        self.run(*inputs)
        seconds = time.perf_counter() - start
        span = Span(resource="cpu", op=self._module.name, start_s=0.0, end_s=seconds)
        return Trace("measured", self._target, (span,), "one span: IREE gives no time per op")
