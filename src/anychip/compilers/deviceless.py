"""What libtpu and XLA:GPU have in common: one compile in a child, cached, and its refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from anychip.compilers import child, topology
from anychip.compilers.bind import check_fixed
from anychip.compilers.cache import Cache, cache_key
from anychip.compilers.store import Parts, cached
from anychip.compilers.xla_input import origin_of
from anychip.core import CompileError, CompileOptions, Module, UsageError, unknown

if TYPE_CHECKING:
    from anychip.core import Chip


@dataclass(frozen=True, kw_only=True)
class Build:
    """One module on its way through a compiler whose device is not here.

    `toolchain` is all of the compiler that the result depends on, `table` the source lines that
    `prepare` gave.
    """

    target: str
    toolchain: str
    chip: Chip
    module: Module
    table: tuple[str, ...]
    options: CompileOptions
    request: topology.Request
    cache: Cache | None
    environment: Mapping[str, str]

    def cached(self, what: str, make: Callable[[], Parts]) -> Parts:
        """What `make` gives, kept under a key of everything it depends on and `what` it is."""
        at = self.request.topology
        key = cache_key(
            self.request.bytecode,
            replace(self.options, extra=dict(self.request.flags)),
            f"{self.toolchain} {what}",
            spec=f"{at.name} {dict(at.arguments)} {self.request.devices}",
        )
        return cached(self.cache, key, self.options.timeout_s, make)

    def child(
        self,
        job: Callable[..., Any],
        *arguments: Any,
        what: str = "compile",
        environment: Mapping[str, str] | None = None,
    ) -> Any:
        """`job(request, *arguments)` in a child. Raises CompileError when the child ends early."""
        return child.run(
            job,
            self.request,
            *arguments,
            timeout_s=self.options.timeout_s,
            what=f"{self.target} {what} of {self.module.name}",
            environment={**self.environment, **(environment or {})},
        )

    def accepted(self, done: topology.Compiled) -> Parts:
        """The stages of a compile. Raises CompileError, with sizes and place, when it was refused.

        Raises UsageError when an option was.
        """
        if done.refusal:
            raise self._refused(done.refusal)
        parts = {"hlo": done.hlo.encode(), "memory.json": done.memory.encode()}
        if done.executable:
            return {**parts, "executable": done.executable}
        return {**parts, "executable.missing": done.unsaved.encode()}

    def check_memory(self, parts: Parts) -> None:
        """Raise CompileError for a program larger than the chip, where the compiler does not."""
        memory = json.loads(parts["memory.json"])
        needs = sum(memory[f"{part}_bytes"] for part in ("argument", "result", "temporary"))
        needs -= memory["aliased_bytes"]
        if needs > self.chip.spec.main_memory.capacity_bytes.value:
            raise CompileError(
                f"{self.target} compiled {self.module.name}, which is too large for it: out of "
                f"memory: {self._sizes()}, and the program needs {needs / 1e9:.4g} GB in all",
                log=parts["memory.json"].decode(),
            )

    def _refused(self, message: str) -> Exception:
        if "No such compile option" in message or "While setting option" in message:
            return UsageError(f"{self.target}: {message.splitlines()[0]}")
        reason = message.splitlines()[0]
        if "RESOURCE_EXHAUSTED" in message:
            reason = f"out of memory: {self._sizes()}; the compiler says: {reason}"
        named = re.search(r'op_name="([^"]+)"', message)
        place = f", at {origin_of(named[1], self.table)}" if named else ""
        return CompileError(
            f"{self.target} could not compile {self.module.name}: {reason}{place}", log=message
        )

    def _sizes(self) -> str:
        held = {
            role: sum(a.nbytes for a in self.module.signature.arguments if a.role == role)
            for role in ("weight", "state", "input")
        }
        said = ", ".join(f"{name} {size / 1e9:.3g} GB" for name, size in held.items() if size)
        has = self.chip.spec.main_memory.capacity_bytes.value
        return f"arguments take {said}; the chip has {has / 1e9:.3g} GB"


def check(target: str, module: Module, options: CompileOptions, known: Mapping[str, str]) -> None:
    """Raise UsageError for symbolic dimensions, threads, and options neither known nor XLA's."""
    if options.threads is not None:
        raise UsageError(f"{target} takes no threads: it compiles for a chip, not this host")
    for name in options.extra:
        if name not in known and not name.startswith("xla_"):
            raise unknown(f"option of {target}", name, (*known, "xla_…"))
    check_fixed(module, target)


def saved(parts: Parts) -> str | bytes:
    """The serialised executable, or why there is none."""
    if "executable" in parts:
        return parts["executable"]
    return f"not serialised: {parts['executable.missing'].decode()}"
