"""Target `cpu:xla`: a Module through XLA's CPU compiler to machine code for this host."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anychip.compilers import child, pjrt
from anychip.compilers.bind import check_fixed
from anychip.compilers.cache import Cache, Entry, cache_key, cpu_features
from anychip.compilers.within import within
from anychip.compilers.xla_executable import Bound, Made, XlaExecutable
from anychip.compilers.xla_input import origin_of, prepare
from anychip.core import CompileError, CompileOptions, Module, Origin, UsageError, unknown
from anychip.ops.walk import walk

EXTRA = {
    "isolate": "yes: compile in a child process, which a crash or the timeout ends cleanly",
    "llvm_ir": "yes: keep the LLVM IR as an artifact (bypasses the cache)",
}
"""Extra compile options; besides these, any `xla_…` flag of XLA."""
_ISOLATE = "Give it longer, or compile with isolate=yes, which can be stopped"


@dataclass(frozen=True)
class XlaTarget:
    """XLA:CPU. Executables of one target share the device arrays of equal weights.

    `cache` keeps compiled code between processes; None compiles every time.
    """

    name: str = "cpu:xla"
    cache: Cache | None = None
    runs: bool = True
    _bound: Bound = field(default_factory=Bound, repr=False, compare=False)

    @property
    def toolchain(self) -> str:
        return f"XLA:CPU of jaxlib {version('jaxlib')}"

    def compile(self, module: Module, options: CompileOptions) -> XlaExecutable:
        """Compile, or load from the cache.

        Raises UsageError for symbolic dimensions and unknown options, CompileError when XLA says
        no, dies (`isolate`) or takes longer than `options.timeout_s`.
        """
        flags = self._flags(options)
        check_fixed(module, self.name)
        at = pjrt.client(_pool(options.threads))
        if b"lapack_" in module.bytecode:
            pjrt.load_lapack()
        build = _Build(self.name, module, options, flags)
        if self.cache is None or build.wants_ir:
            why = "the cache is off" if self.cache is None else "llvm_ir needs a fresh compile"
            made = build.fresh(at, why)
        else:
            key = cache_key(
                module.bytecode,
                options,
                f"{self.toolchain} {os.environ.get('XLA_FLAGS', '')}",
                machine=cpu_features(),
            )
            with self.cache.locked(key, options.timeout_s) as entry:
                made = build.cached(at, entry)
            if not made.is_hit:
                self.cache.prune()
        return XlaExecutable(self.name, module, at, made, self._bound)

    def _flags(self, options: CompileOptions) -> dict[str, Any]:
        flags: dict[str, Any] = {}
        for name, value in options.extra.items():
            if name.startswith("xla_"):
                flags[name] = {"true": True, "false": False}.get(value, value)
            elif name not in EXTRA:
                raise unknown(f"option of {self.name}", name, (*EXTRA, "xla_…"))
            elif value not in ("yes", "no"):
                raise UsageError(f"{self.name}: option {name}={value!r} must be yes or no")
        if options.threads is not None and options.threads < 1:
            raise UsageError(f"{self.name}: threads must be at least 1, got {options.threads}")
        return flags


def _pool(threads: int | None) -> int | None:
    """None, which is JAX's own client, when that has as many threads."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return None if threads == usable else threads


@dataclass(frozen=True)
class _Build:
    """One compile of one module."""

    target: str
    module: Module
    options: CompileOptions
    flags: Mapping[str, Any]

    @property
    def wants_ir(self) -> bool:
        return self.options.extra.get("llvm_ir") == "yes"

    def cached(self, at: pjrt.Client, entry: Entry) -> Made:
        """From the cache entry, filling it when it is empty or damaged."""
        import jax

        note = "not found, stored"
        stored = entry.read()
        if stored is not None:
            try:
                return Made(pjrt.deserialize(at, stored), stored, "found", is_hit=True)
            except jax.errors.JaxRuntimeError as error:
                note = f"found but does not load ({error}), compiled again and stored"
        elif entry.is_damaged:
            note = "found damaged, compiled again and stored"
        made = self.fresh(at, note)
        if isinstance(made.stored, str):
            return Made(made.loaded, made.stored, f"not stored: {made.stored}")
        if why := entry.write(made.stored):
            return replace(made, cache_note=f"not stored: {why}", not_kept=why)
        return made

    def fresh(self, at: pjrt.Client, note: str) -> Made:
        bytecode, table = prepare(self.module)
        what = f"{self.target} compile of {self.module.name}"
        job = (bytecode, _pool(self.options.threads), dict(self.flags), self.wants_ir)
        timeout_s = self.options.timeout_s
        if self.options.extra.get("isolate") == "yes":
            outcome = child.run(_compile_to_bytes, *job, timeout_s=timeout_s, what=what)
        else:
            outcome = within(timeout_s, what, lambda: _compile(*job), instead=_ISOLATE)
        if isinstance(outcome, _Refusal):
            raise self._refused(outcome.message, table)
        loaded, stored, ir = outcome
        if loaded is None:
            assert isinstance(stored, bytes)  # else the child would have raised
            loaded = pjrt.deserialize(at, stored)
        return Made(loaded, stored, note, llvm_ir=ir)

    def _refused(self, message: str, table: tuple[str, ...]) -> Exception:
        if "No such compile option" in message or "While setting option" in message:
            return UsageError(f"{self.target}: {message}")
        where = self._where(message, table)
        place = f", at {where}" if where else ""
        return CompileError(
            f"{self.target} could not compile {self.module.name}: {message.splitlines()[0]}{place}",
            log=message,
        )

    def _where(self, message: str, table: tuple[str, ...]) -> Origin | None:
        """The place in the user's model that XLA's message is about, when it names an op."""
        if named := re.search(r'op_name="([^"]+)"', message):
            return origin_of(named[1], table)
        if call := re.search(r"custom call to (\S+)", message):
            for step in walk(self.module):
                if step.op.attributes.get("call_target_name") == call[1]:
                    return step.origin
        return None


@dataclass(frozen=True)
class _Refusal:
    """XLA's own error: a value, so that it crosses threads and processes alike."""

    message: str


def _compile(
    bytecode: bytes, threads: int | None, flags: dict[str, Any], wants_ir: bool
) -> tuple[Any, bytes | str, str | None] | _Refusal:
    """(executable, its bytes or why there are none, LLVM IR when wanted)."""
    import jax

    at = pjrt.client(threads)
    with tempfile.TemporaryDirectory(prefix="anychip-ir-") as folder:
        try:
            loaded = pjrt.compile(at, bytecode, flags, folder if wants_ir else None)
        except jax.errors.JaxRuntimeError as error:
            return _Refusal(str(error))
        files = sorted(Path(folder).glob("*.ir-with-opt.ll"))
        ir = "\n".join(f.read_text() for f in files) if wants_ir else None
    try:
        return loaded, pjrt.serialize(at, loaded), ir
    except jax.errors.JaxRuntimeError as error:
        return loaded, str(error), ir


def _compile_to_bytes(
    bytecode: bytes, threads: int | None, flags: dict[str, Any], wants_ir: bool
) -> tuple[None, bytes, str | None] | _Refusal:
    """The same in a child process, which can hand on bytes only."""
    if b"lapack_" in bytecode:
        pjrt.load_lapack()
    outcome = _compile(bytecode, threads, flags, wants_ir)
    if isinstance(outcome, _Refusal):
        return outcome
    _, stored, ir = outcome
    if isinstance(stored, str):
        raise CompileError(f"the program cannot leave the child process: {stored}")
    return None, stored, ir
