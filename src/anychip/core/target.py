"""The seams: Target compiles a Module, Executable runs and traces it. Protocols, not bases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from anychip.core.errors import PluginError, UsageError
from anychip.core.module import Module
from anychip.core.origin import Origin
from anychip.core.quantity import Estimate
from anychip.core.signature import Signature
from anychip.core.trace import Trace
from anychip.core.weights import Weights


@dataclass(frozen=True)
class TargetName:
    """`chip:how`, such as `h100:twin` or `cpu:xla`. `how` is empty when only a chip was named."""

    chip: str
    how: str = ""

    @staticmethod
    def parse(text: str) -> TargetName:
        """Read `chip` or `chip:how`. Raises UsageError on anything else."""
        chip, colon, how = text.partition(":")
        if not chip or (colon and not how) or ":" in how:
            raise UsageError(f"{text!r} is not a target; write chip:how, such as cpu:xla")
        return TargetName(chip, how)

    def __str__(self) -> str:
        return f"{self.chip}:{self.how}" if self.how else self.chip


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """How to compile. A target that cannot honour an option raises UsageError; none is dropped."""

    threads: int | None = None
    timeout_s: float = 300.0
    extra: Mapping[str, str] = field(default_factory=dict[str, str])


Fate = Literal["native", "emulated", "fallback", "unsupported"]


@dataclass(frozen=True, kw_only=True)
class OpCoverage:
    """What becomes of one kind of op at one place of the model.

    `price_s` is what falling back costs in seconds a call, for all ops that cross over together;
    the first of their rows carries it.
    """

    op: str
    fate: Fate
    count: int = 1
    origin: Origin = Origin()
    falls_back_to: str = ""
    why: str = ""
    price_s: Estimate | None = None

    def to_json(self) -> dict[str, object]:
        return {
            "op": self.op,
            "fate": self.fate,
            "count": self.count,
            "layer": self.origin.layer,
            "source": self.origin.source,
            "falls_back_to": self.falls_back_to,
            "why": self.why,
            "price_s": self.price_s.to_json() if self.price_s else None,
        }


@dataclass(frozen=True)
class Coverage:
    """The ledger of one compile: every op of the module is in exactly one row."""

    rows: tuple[OpCoverage, ...] = ()

    def count(self, fate: Fate) -> int:
        return sum(row.count for row in self.rows if row.fate == fate)

    @property
    def total(self) -> int:
        return sum(row.count for row in self.rows)

    @property
    def fallback_s(self) -> float:
        """What all that falls back costs, in seconds a call, as far as it was predicted."""
        return sum(row.price_s.value for row in self.rows if row.price_s is not None)

    def to_json(self) -> dict[str, int]:
        fates: tuple[Fate, ...] = ("native", "emulated", "fallback", "unsupported")
        return {"total": self.total, **{fate: self.count(fate) for fate in fates}}

    def summary(self) -> str:
        """One line: "412 ops: 409 native, 3 fall back to cpu:xla: +1.8 ms"."""
        parts = [f"{self.count('native')} native"]
        if emulated := self.count("emulated"):
            parts.append(f"{emulated} emulated")
        where = {row.falls_back_to for row in self.rows if row.fate == "fallback"}
        if fallback := self.count("fallback"):
            price = self.fallback_s
            said = f": +{price * 1e3:.3g} ms" if price else ""
            parts.append(f"{fallback} fall back to {', '.join(sorted(where))}{said}")
        if unsupported := self.count("unsupported"):
            parts.append(f"{unsupported} unsupported")
        return f"{self.total} ops: {', '.join(parts)}"


@runtime_checkable
class Executable(Protocol):
    """A compiled Module."""

    @property
    def signature(self) -> Signature: ...

    @property
    def artifacts(self) -> Mapping[str, str | bytes]:
        """Stage name → what that stage left."""
        ...

    @property
    def coverage(self) -> Coverage: ...

    def run(self, *inputs: Any) -> Sequence[Any]:
        """Run on the arguments that are not weights, in signature order; returns the results.

        Arguments with role "state" are donated: do not use them again. Raises UnsupportedError
        when the target is compile-only.
        """
        ...

    def trace(self, *inputs: Any) -> Trace:
        """One run's Trace. Estimating targets need no inputs."""
        ...


@runtime_checkable
class Target(Protocol):
    """Something that turns a Module into an Executable."""

    @property
    def name(self) -> str:
        """`chip:how`."""
        ...

    @property
    def runs(self) -> bool:
        """Whether `Executable.run` gives numbers here; False means "compiled, not run"."""
        ...

    @property
    def toolchain(self) -> str:
        """Name and version of the compiler or model behind it, for keys and reports."""
        ...

    def compile(self, module: Module, options: CompileOptions) -> Executable: ...


def simulates(target: Target) -> str:
    """What stands behind a target's numbers when the chip does not, in a few words; "" when it
    does. Such a target has an attribute `simulates`; the time its `run` takes says nothing."""
    return str(getattr(target, "simulates", ""))


def check_target(candidate: object, owner: str) -> Target:
    """The candidate, if it has a Target's shape; PluginError naming what is missing otherwise."""
    missing = [n for n in ("name", "runs", "toolchain", "compile") if not hasattr(candidate, n)]
    if missing:
        raise PluginError(
            f"{owner}: {type(candidate).__name__} is no Target; it lacks {', '.join(missing)}"
        )
    return candidate  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A Module that need not be built where its executable is known already.

    `key` stands for all that the built program depends on beside anychip's own code; `build()`
    gives the module, bound to `weights`.
    """

    name: str
    key: str
    weights: Weights
    build: Callable[[], Module] = field(repr=False)


@runtime_checkable
class Recalls(Protocol):
    """What a target may be besides: one that keeps executables under their recipes' keys."""

    def recall(self, recipe: Recipe, options: CompileOptions) -> Executable:
        """The executable kept for this recipe, else what `compile` makes of it, which is kept."""
        ...
