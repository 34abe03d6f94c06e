"""A program compiled by XLA:CPU: run it with weights bound once, trace it, look at its stages."""

from __future__ import annotations

import json
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anychip.compilers import child, pjrt
from anychip.compilers.xla_input import prepare
from anychip.compilers.xla_trace import profile, profile_stored
from anychip.core import (
    Argument,
    CompileError,
    Coverage,
    InputError,
    Module,
    OpCoverage,
    Span,
    Trace,
    UsageError,
    Weight,
    dtype,
    require_memory,
)
from anychip.ops.walk import walk


@dataclass(frozen=True)
class Made:
    """What a compile left: the loaded program, its bytes or why there are none, and notes."""

    loaded: Any
    stored: bytes | str
    cache_note: str
    is_hit: bool = False
    not_kept: str = ""
    llvm_ir: str | None = None


@dataclass(frozen=True, eq=False)
class BoundWeight:
    """A weight on the device. Holds the Weight, whose reader identifies it."""

    weight: Weight
    array: Any


Bound = weakref.WeakValueDictionary[Any, BoundWeight]
"""Device arrays of weights that some executable still holds, by (client, weight)."""


class XlaExecutable:
    """A loaded program. Weights go to the device at the first run, in place where aligned."""

    def __init__(
        self,
        target: str,
        module: Module,
        at: pjrt.Client,
        made: Made,
        bound: Bound,
    ):
        self.signature = module.signature
        self._target, self._module, self._at = target, module, at
        self._loaded, self._bound = made.loaded, bound
        self._slots = [
            (index, argument, dtype(argument.dtype).numpy)
            for index, argument in enumerate(module.signature.arguments)
            if argument.role != "weight"
        ]
        self._binding = threading.Lock()
        self._coverage: Coverage | None = None
        self._weights: list[tuple[int, BoundWeight]] | None = None
        stages: dict[str, Callable[[], str | bytes]] = {
            "stablehlo": lambda: module.text(locations=True),
            "hlo": lambda: pjrt.hlo_text(made.loaded),
            "memory": lambda: json.dumps(pjrt.memory(made.loaded)),
            "cache": lambda: made.cache_note,
        }
        if made.not_kept:
            stages["not_kept"] = lambda: made.not_kept
        if made.llvm_ir is not None:
            stages["llvm_ir"] = lambda: made.llvm_ir or ""
        if isinstance(stored := made.stored, bytes):
            stages["executable"] = lambda: stored
        self.artifacts: Mapping[str, str | bytes] = Artifacts(stages)

    @property
    def coverage(self) -> Coverage:
        """Every op is native: XLA:CPU compiles all of StableHLO, or the compile fails.

        Calls and composites do not count as ops; XLA inlines them.
        """
        if self._coverage is None:
            places = Counter(
                (step.op.name, step.origin) for step in walk(self._module) if not step.op.callee
            )
            self._coverage = Coverage(
                tuple(
                    OpCoverage(op=op, fate="native", count=count, origin=origin)
                    for (op, origin), count in places.items()
                )
            )
        return self._coverage

    def run(self, *inputs: Any) -> Sequence[Any]:
        """The results as JAX arrays on the CPU device, of numpy or JAX arrays.

        Returns before the work is done; reading a result waits for it. Numpy inputs are copied.
        State given as a JAX array is donated: its memory holds the new state afterwards. Raises
        UsageError for a wrong number, shape or element type and for state used twice, InputError
        when weights are known by shape only.
        """
        import jax

        if len(inputs) != len(self._slots):
            wanted = ", ".join(a.name for _, a, _ in self._slots)
            raise UsageError(
                f"{self._module.name} takes {len(self._slots)} arrays besides its weights "
                f"({wanted}), got {len(inputs)}"
            )
        arguments = self._with_weights()
        for (index, argument, element), value in zip(self._slots, inputs, strict=True):
            arguments[index] = self._placed(argument, element, value)
        try:
            return pjrt.execute(self._loaded, arguments)
        except jax.errors.JaxRuntimeError as error:
            raise CompileError(
                f"{self._target} could not run {self._module.name}: {error}"
            ) from None

    def trace(self, *inputs: Any) -> Trace:
        """Spans of the optimised program's ops in one run, after one run to warm up.

        State is copied first, so the arrays given stay usable. Where a profile would crash this
        process (see `pjrt.profiler_crashes`) the run happens in a child.
        """
        import jax

        def run() -> None:
            jax.block_until_ready(self.run(*copies.pop()))

        copies = [self._copies(inputs), self._copies(inputs)]
        run()
        _, table = prepare(self._module)
        hlo = str(self.artifacts["hlo"])
        if pjrt.profiler_crashes():
            spans, note = self._profiled_apart(inputs, hlo, table)
        else:
            spans, note = profile(run, hlo, table, self._module.name)
        return Trace("measured", self._target, spans, note)

    def _profiled_apart(
        self, inputs: Sequence[Any], hlo: str, table: tuple[str, ...]
    ) -> tuple[tuple[Span, ...], str]:
        arguments = [None if one is None else np.asarray(one) for one in self._with_weights()]
        for (index, _, _), value in zip(self._slots, inputs, strict=True):
            arguments[index] = np.asarray(value)
        name = self._module.name
        what = f"profiling {name} apart from libtpu"
        if "executable" not in self.artifacts:
            raise CompileError(f"{what}: XLA gave no executable that another process could load")
        code = self.artifacts["executable"]
        spans, note = child.run(
            profile_stored,
            *(code, arguments, hlo, table, name),
            timeout_s=300.0,
            what=what,
            environment={"JAX_PLATFORMS": "cpu"},
        )
        return spans, f"{note}; measured in a child process, apart from libtpu"

    def _with_weights(self) -> list[Any]:
        """A fresh argument list with the weights in place."""
        with self._binding:
            if self._weights is None:
                self._require_memory()
                self._weights = [
                    (index, self._bind(argument))
                    for index, argument in enumerate(self.signature.arguments)
                    if argument.role == "weight"
                ]
        arguments: list[Any] = [None] * len(self.signature.arguments)
        for index, one in self._weights:
            arguments[index] = one.array
        return arguments

    def _require_memory(self) -> None:
        """For weights that are stored in another format than they are used in; the others may be
        used where they lie."""
        used = {a.name for a in self.signature.arguments if a.role == "weight"}
        grown = [
            w
            for name, w in self._module.weights.items()
            if name in used and w.stored_as not in ("", w.dtype)
        ]
        require_memory(
            sum(w.nbytes for w in grown),
            f"weights of {self._module.name} as {', '.join(sorted({w.dtype for w in grown}))}",
            "cpu:native, which keeps them in their blocks; a smaller model or --precision bf16",
        )

    def _bind(self, argument: Argument) -> BoundWeight:
        if argument.name not in self._module.weights:
            raise InputError(
                f"module {self._module.name} has no values for weight {argument.name}; "
                "bind them with module.with_weights(…) before compiling"
            )
        weight = self._module.weights[argument.name]
        key = (id(self._at), weight.name, weight.shape, weight.dtype, id(weight.read))
        found = self._bound.get(key)
        if found is None:
            array = self._checked(argument, dtype(argument.dtype).numpy, weight.array())
            found = BoundWeight(weight, pjrt.put(self._at, array, copy=False))
            self._bound[key] = found
        return found

    def _placed(self, argument: Argument, element: np.dtype, value: Any) -> Any:
        import jax

        if isinstance(value, jax.Array):
            if value.is_deleted():
                raise UsageError(
                    f"{argument.role} {argument.name} was donated to an earlier run; "
                    "pass the array which that run returned for it"
                )
            if value.device == self._at.device:
                return self._checked(argument, element, value)
        array = self._checked(argument, element, np.asarray(value))
        return pjrt.put(self._at, array, copy=True)

    def _checked(self, argument: Argument, element: np.dtype, value: Any) -> Any:
        if value.shape != argument.shape or value.dtype != element:
            raise UsageError(
                f"{argument.role} {argument.name} of {self._module.name} should be "
                f"{argument.dtype}{list(argument.shape)}, got {value.dtype}{list(value.shape)}"
            )
        return value

    def _copies(self, inputs: Sequence[Any]) -> list[Any]:
        states = {index for index, a, _ in self._slots if a.role == "state"}
        return [
            np.array(value) if index in states else value
            for (index, _, _), value in zip(self._slots, inputs, strict=False)
        ] + list(inputs[len(self._slots) :])


class Artifacts(Mapping[str, str | bytes]):
    """Stage → text or bytes, made when first looked at; those that are `live`, each time."""

    def __init__(
        self, stages: Mapping[str, Callable[[], str | bytes]], *, live: Collection[str] = ()
    ):
        self._stages, self._live = dict(stages), live
        self._made: dict[str, str | bytes] = {}

    def __getitem__(self, stage: str) -> str | bytes:
        if stage not in self._made or stage in self._live:
            self._made[stage] = self._stages[stage]()
        return self._made[stage]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stages)

    def __len__(self) -> int:
        return len(self._stages)
