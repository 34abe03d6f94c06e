"""What both runtimes share: checked inputs in order, coverage, artifacts, the time limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from anychip.compilers.bind import check_weights
from anychip.compilers.ledger import ledger
from anychip.compilers.onnx_export import DOORS, Exported, export
from anychip.compilers.onnx_hosts.pages import HugePages
from anychip.compilers.within import within
from anychip.compilers.xla_executable import Artifacts
from anychip.core import (
    CompileOptions,
    Coverage,
    Module,
    Origin,
    Span,
    Trace,
    UnsupportedError,
    UsageError,
    dtype,
    unknown,
)
from anychip.passes.lift import lift

_AT_THE_DOOR = frozenset(
    ("i1", "i8", "i16", "i32", "i64", "ui8", "ui16", "ui32", "ui64", "f16", "f32", "f64", *DOORS)
)
"""Element types that NumPy and both runtimes share, or that a wider one stands for."""

_NAMED = ("softmax", "layer_norm", "rms_norm", "gelu", "silu")
"""What is lifted before export. Attention stays spelled out: the runtimes know that spelling."""


class Session(Protocol):
    """A loaded model. `run` takes arrays by name in order; `profile` gives spans and a note."""

    def run(self, arrays: Sequence[np.ndarray]) -> Sequence[Any]: ...

    def profile(self, arrays: Sequence[np.ndarray]) -> tuple[tuple[Span, ...], str]: ...


class OnnxExecutable:
    """A module in a runtime. Results are new NumPy arrays; state is an input like others."""

    def __init__(
        self,
        target: str,
        module: Module,
        exported: Exported,
        session: Session,
        settings: str,
        lifted: str,
        pages: HugePages,
    ):
        self.signature = module.signature
        self._target, self._module, self._session = target, module, session
        self._pages, self._settling, self._is_settled = pages, threading.Lock(), False
        self._coverage: Coverage | None = None
        self._slots = [a for a in module.signature.arguments if a.role != "weight"]
        self.artifacts: Mapping[str, str | bytes] = Artifacts(
            {
                "stablehlo": lambda: module.text(locations=True),
                "onnx": exported.model.SerializeToString,
                "settings": lambda: settings,
                "lifted": lambda: lifted,
                "huge_pages": lambda: pages.note,
            },
            live=("huge_pages",),
        )

    @property
    def coverage(self) -> Coverage:
        """Every op is native: what ONNX cannot express does not compile."""
        if self._coverage is None:
            self._coverage = ledger(self._module)
        return self._coverage

    def run(self, *inputs: Any) -> Sequence[Any]:
        """The results as NumPy arrays. Raises UsageError for inputs that do not fit.

        After the first run what the runtime reserved moves into huge pages.
        """
        arrays = self._checked(inputs)
        results = self._session.run(arrays) if self._is_settled else self._first(arrays)
        return [
            np.asarray(r, dtype=dtype(s.dtype).numpy)
            for r, s in zip(results, self.signature.results, strict=True)
        ]

    def _first(self, arrays: Sequence[np.ndarray]) -> Sequence[Any]:
        with self._settling:
            if self._is_settled:
                return self._session.run(arrays)
            with self._pages.watch():
                results = self._session.run(arrays)
            self._pages.move()
            self._is_settled = True
            return results

    def trace(self, *inputs: Any) -> Trace:
        """The runtime's own profile of one run, after one to warm up."""
        spans, note = self._session.profile(self._checked(inputs))
        return Trace("measured", self._target, spans, note)

    def _checked(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        if len(inputs) != len(self._slots):
            wanted = ", ".join(a.name for a in self._slots)
            raise UsageError(
                f"{self._module.name} takes {len(self._slots)} arrays besides its weights "
                f"({wanted}), got {len(inputs)}"
            )
        arrays: list[np.ndarray] = []
        for argument, value in zip(self._slots, inputs, strict=True):
            array = np.asarray(value)
            fits = len(array.shape) == len(argument.shape) and all(
                isinstance(want, str) or want == have
                for want, have in zip(argument.shape, array.shape, strict=True)
            )
            if not fits or array.dtype != dtype(argument.dtype).numpy:
                raise UsageError(
                    f"{argument.role} {argument.name} of {self._module.name} should be "
                    f"{argument.dtype}{list(argument.shape)}, got {array.dtype}{list(array.shape)}"
                )
            door = DOORS.get(argument.dtype)
            array = array if door is None else array.astype(dtype(door).numpy)
            arrays.append(np.ascontiguousarray(array).reshape(array.shape))
        return arrays


def build(
    target: str,
    module: Module,
    options: CompileOptions,
    choices: Mapping[str, tuple[str, ...]],
    load: Callable[[Exported], Session],
    *,
    huge_pages: bool,
    gates: bool = False,
) -> OnnxExecutable:
    """Check the options, export, and `load` within the time limit.

    `choices` are the extra options with their values, the default first; `huge_pages` is what the
    option of that name is when a user gives none, `gates` is `export`'s. Raises UsageError for
    others, InputError for weights without values, UnsupportedError for what ONNX cannot say and
    CompileError when the runtime refuses or takes too long.
    """
    choices = {**choices, "huge_pages": ("yes", "no") if huge_pages else ("no", "yes")}
    for name, value in options.extra.items():
        if name not in choices:
            raise unknown(f"option of {target}", name, choices)
        if value not in choices[name]:
            raise UsageError(
                f"{target}: {name}={value!r} must be one of {', '.join(choices[name])}"
            )
    if options.threads is not None and options.threads < 1:
        raise UsageError(f"{target}: threads must be at least 1, got {options.threads}")
    check_weights(module, target)
    for one in (*module.signature.arguments, *module.signature.results):
        if getattr(one, "role", "") != "weight" and one.dtype not in _AT_THE_DOOR:
            raise UnsupportedError(
                f"{target} takes and gives no {one.dtype} ({one.name} of {module.name}); "
                "convert it to f32 in the model, or use cpu:xla"
            )
    named, found = lift(module, _NAMED)
    exported = export(named, doors=True, gates=gates)
    what = f"{target} compile of {module.name}"
    settings = f"threads={options.threads} " + " ".join(
        f"{name}={options.extra.get(name, values[0])}" for name, values in choices.items()
    )
    wanted = options.extra.get("huge_pages", choices["huge_pages"][0])
    pages = HugePages(wanted=wanted == "yes")
    with pages.watch():
        session = within(options.timeout_s, what, lambda: load(exported))
    lifted = "".join(f"{one.name}: {one.ops} ops, at {one.origin}\n" for one in found)
    return OnnxExecutable(target, module, exported, session, settings, lifted, pages)


def origin_of(name: str, origins: Mapping[str, Origin]) -> Origin:
    """A runtime's node by its name, which may wrap ours (`…/MatMul_7_transformed`, `…_nchwc`)."""
    if name in origins:
        return origins[name]
    inside = [ours for ours in origins if ours and ours in name]
    return origins[max(inside, key=len)] if inside else Origin()
