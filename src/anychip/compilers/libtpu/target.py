"""Target `tpu-…:xla`: a Module through libtpu's compiler, on a host that has no TPU."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from anychip.compilers import child, topology
from anychip.compilers.cache import Cache, cache_key
from anychip.compilers.libtpu.executable import LibtpuExecutable
from anychip.compilers.libtpu.generations import GENERATIONS
from anychip.compilers.libtpu.generations import topology as slice_of
from anychip.compilers.libtpu.job import ENVIRONMENT, PROFILE, compile, profile
from anychip.compilers.spread import annotated, spread
from anychip.compilers.store import Parts, cached
from anychip.compilers.toolchains import LIBTPU
from anychip.compilers.xla_input import origin_of, prepare
from anychip.core import CompileError, CompileOptions, Module, UsageError, unknown

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
        flags = self._flags(options)
        if module.signature.symbols:
            raise UsageError(
                f"{self.name} compiles fixed shapes; module {module.name} has symbolic dimensions "
                f"{', '.join(module.signature.symbols)}. Fix them first: "
                "module.specialise({name: size, …})"
            )
        bytecode, table = prepare(module)
        over = None
        if "shards" in options.extra:
            over = spread(module, options.extra["shards"], options.extra.get("split", ""))
            bytecode = annotated(bytecode, module, over)
        elif "split" in options.extra:
            raise UsageError(f"{self.name}: option split needs shards")
        request = topology.Request(
            bytecode=bytecode,
            topology=slice_of(self.generation, over.devices if over else 1, library),
            flags=flags,
            devices=over.devices if over else 1,
            is_layout_free=True,
        )
        build = _Build(self, module, options, request, table)
        return LibtpuExecutable(
            chip=self.chip,
            generation=GENERATIONS[self.generation],
            link_model=self.link_model,
            target=self.name,
            module=module,
            table=table,
            parts=build.program(),
            spread=over,
            profiled=build.profiled if options.extra.get("profile") != "no" else None,
        )

    def _flags(self, options: CompileOptions) -> Mapping[str, str]:
        if options.threads is not None:
            raise UsageError(f"{self.name} takes no threads: it compiles for a chip, not this host")
        for name, value in options.extra.items():
            if name not in EXTRA and not name.startswith("xla_"):
                raise unknown(f"option of {self.name}", name, (*EXTRA, "xla_…"))
            if name == "profile" and value not in ("yes", "no"):
                raise UsageError(f"{self.name}: option {name}={value!r} must be yes or no")
        return {n: v for n, v in options.extra.items() if n not in EXTRA}


@dataclass(frozen=True)
class _Build:
    """One module on its way through libtpu."""

    target: LibtpuTarget
    module: Module
    options: CompileOptions
    request: topology.Request
    table: tuple[str, ...]

    def program(self) -> Parts:
        """The stages of the plain compile."""
        return self._cached("program", self._compile)

    def profiled(self) -> Parts:
        """The HLO with the static schedule's cycles in it, and the profile itself.

        Raises CompileError when the profiler dies; the verdict is not touched by that.
        """
        return self._cached("profile", self._profile)

    def _cached(self, what: str, make: Callable[[], Parts]) -> Parts:
        key = cache_key(
            self.request.bytecode,
            replace(self.options, extra=dict(self.request.flags)),
            f"{self.target.toolchain} {os.environ.get('LIBTPU_INIT_ARGS', '')} {what}",
            spec=f"{self.request.topology.name} {self.request.topology.arguments}",
        )
        return cached(self.target.cache, key, self.options.timeout_s, make)

    def _compile(self) -> Parts:
        what = f"{self.target.name} compile of {self.module.name}"
        done: topology.Compiled = child.run(
            compile,
            self.request,
            timeout_s=self.options.timeout_s,
            what=what,
            environment=ENVIRONMENT,
        )
        if done.refusal:
            raise self._refused(done.refusal)
        return _parts(done)

    def _profile(self) -> Parts:
        with tempfile.TemporaryDirectory(prefix="anychip-llo-") as folder:
            given = os.environ.get("LIBTPU_INIT_ARGS", "")
            done, text = child.run(
                profile,
                self.request,
                folder,
                timeout_s=self.options.timeout_s,
                what=f"{self.target.name} static profile of {self.module.name}",
                environment=ENVIRONMENT
                | {"LIBTPU_INIT_ARGS": f"{given} {PROFILE}{folder}".strip()},
            )
        if done.refusal:
            raise self._refused(done.refusal)
        return {"hlo": done.hlo.encode(), "llo_profile": text.encode()}

    def _refused(self, message: str) -> Exception:
        if "No such compile option" in message or "While setting option" in message:
            return UsageError(f"{self.target.name}: {message.splitlines()[0]}")
        reason = message.splitlines()[0]
        if "RESOURCE_EXHAUSTED" in message:
            reason = f"out of memory: {self._sizes()}; libtpu says: {reason}"
        named = re.search(r'op_name="([^"]+)"', message)
        place = f", at {origin_of(named[1], self.table)}" if named else ""
        return CompileError(
            f"{self.target.name} could not compile {self.module.name}: {reason}{place}",
            log=message,
        )

    def _sizes(self) -> str:
        roles = ("weight", "state", "input")
        held = {
            role: sum(a.nbytes for a in self.module.signature.arguments if a.role == role)
            for role in roles
        }
        said = ", ".join(f"{name} {size / 1e9:.3g} GB" for name, size in held.items() if size)
        has = self.target.chip.spec.main_memory.capacity_bytes.value
        return f"arguments take {said}; the chip has {has / 1e9:.3g} GB"


def _parts(done: topology.Compiled) -> Parts:
    parts = {"hlo": done.hlo.encode(), "memory.json": done.memory.encode()}
    if done.executable:
        parts["executable"] = done.executable
    else:
        parts["executable.missing"] = done.unsaved.encode()
    return parts
