"""Target `tpu-…:xla`: a Module through libtpu's compiler, on a host that has no TPU."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from anychip.compilers import topology
from anychip.compilers.cache import Cache
from anychip.compilers.deviceless import Build, check
from anychip.compilers.libtpu.executable import LibtpuExecutable
from anychip.compilers.libtpu.generations import GENERATIONS
from anychip.compilers.libtpu.generations import topology as slice_of
from anychip.compilers.libtpu.job import ENVIRONMENT, PROFILE, compile, profile
from anychip.compilers.spread import annotated, spread
from anychip.compilers.store import Parts
from anychip.compilers.toolchains import LIBTPU
from anychip.compilers.xla_input import prepare
from anychip.core import CompileOptions, Module, UsageError

if TYPE_CHECKING:
    from anychip.compilers.libtpu import LinkModel
    from anychip.core import Chip

EXTRA = {
    "profile": "no: cost by the compiler's HLO estimate, which is quicker than its static schedule",
    "shards": "devices to spread over: 8 (tensor), tensor=4, data=2,tensor=4",
    "split": "weight=dimension,… to split by tensor, where the choice made from names is wrong",
}
"""Extra compile options; besides these, any `xla_…` flag of libtpu."""


@dataclass(frozen=True)
class LibtpuTarget:
    """libtpu's compiler for one generation. `cache` keeps what it made; None compiles each time."""

    chip: Chip
    generation: str
    link_model: LinkModel
    cache: Cache | None = None
    runs: bool = False

    @property
    def name(self) -> str:
        return f"{self.chip.name or self.chip.spec.name}:xla"

    @property
    def toolchain(self) -> str:
        found = LIBTPU.installed
        known = found.version if found else "(not installed)"
        return f"libtpu {known} through jaxlib {version('jaxlib')}"

    def compile(self, module: Module, options: CompileOptions) -> LibtpuExecutable:
        """Compile in a child process, or take the result from the cache.

        The compiler chooses all layouts. Raises SetupError without libtpu, UsageError for symbolic
        dimensions and unknown options, CompileError when libtpu says no (out of memory: with the
        sizes), dies, or takes longer than `options.timeout_s`.
        """
        library = str(LIBTPU.need(self.name).library)
        check(self.name, module, options, EXTRA)
        if options.extra.get("profile", "yes") not in ("yes", "no"):
            raise UsageError(f"{self.name}: option profile must be yes or no")
        bytecode, table = prepare(module)
        over = None
        if "shards" in options.extra:
            over = spread(module, options.extra["shards"], options.extra.get("split", ""))
            bytecode = annotated(bytecode, module, over)
        elif "split" in options.extra:
            raise UsageError(f"{self.name}: option split needs shards")
        devices = over.devices if over else 1
        given = os.environ.get("LIBTPU_INIT_ARGS", "")
        build = Build(
            target=self.name,
            toolchain=f"{self.toolchain} {given}",
            chip=self.chip,
            module=module,
            table=table,
            options=options,
            request=topology.Request(
                bytecode=bytecode,
                topology=slice_of(self.generation, devices, library),
                flags={n: v for n, v in options.extra.items() if n not in EXTRA},
                devices=devices,
                is_layout_free=True,
            ),
            cache=self.cache,
            environment=ENVIRONMENT,
        )
        return LibtpuExecutable(
            chip=self.chip,
            generation=GENERATIONS[self.generation],
            link_model=self.link_model,
            target=self.name,
            module=module,
            table=table,
            parts=build.cached("program", lambda: build.accepted(build.child(compile))),
            spread=over,
            profiled=(
                (lambda: build.cached("profile", lambda: _profile(build, given)))
                if options.extra.get("profile") != "no"
                else None
            ),
        )


def _profile(build: Build, given: str) -> Parts:
    """The HLO with the static schedule's cycles in it, and the profile itself.

    Raises CompileError when the profiler dies; the verdict is not touched by that.
    """
    with tempfile.TemporaryDirectory(prefix="anychip-llo-") as folder:
        done, text = build.child(
            profile,
            folder,
            what="static profile",
            environment={"LIBTPU_INIT_ARGS": f"{given} {PROFILE}{folder}".strip()},
        )
    return {"hlo": build.accepted(done)["hlo"], "llo_profile": text.encode()}
