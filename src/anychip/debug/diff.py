"""One program on two targets: the error after every layer, and what it does to the output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anychip.core import (
    CompileOptions,
    Executable,
    InputError,
    LanguageModel,
    Module,
    Precision,
    Target,
    UsageError,
    dtype,
    simulates,
)
from anychip.debug.errors import Distance
from anychip.debug.instrument import Probe, instrument
from anychip.debug.language import LanguageOutput

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """How far b is from a after one layer; `sqnr_db` is None where they are equal."""

    layer: str
    source: str
    op: str
    max_abs: float
    rel: float
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class Output:
    """How far one result is; `top1_agreement` is the share of rows with the same largest element,
    None for results that are no rows of several numbers."""

    name: str
    max_abs: float
    rel: float
    sqnr_db: float | None
    top1_agreement: float | None


@dataclass(frozen=True, kw_only=True)
class Diff:
    """What a comparison found. `layers` stand in program order and hold what has built up so far,
    not what one layer adds. `threshold` is the relative error that counts as a divergence.
    `simulated` says which of the two were."""

    a: str
    b: str
    model: str
    layers: tuple[LayerError, ...]
    outputs: tuple[Output, ...]
    threshold: float
    simulated: dict[str, str] = field(default_factory=dict[str, str])
    language: LanguageOutput | None = None

    @property
    def first_divergence(self) -> LayerError | None:
        """The first layer whose error is above the threshold."""
        return next((one for one in self.layers if not one.rel <= self.threshold), None)

    def to_json(self) -> dict[str, Any]:
        """The shape other programs read (DESIGN, `diff`); infinities are null."""
        first = self.first_divergence
        output: dict[str, Any] = {"results": [_finite(vars(one)) for one in self.outputs]}
        if self.language is not None:
            output |= _finite(vars(self.language))
        return {
            "a": self.a,
            "b": self.b,
            "model": self.model,
            "simulated": self.simulated,
            "threshold": self.threshold,
            "layers": [_finite(vars(one)) for one in self.layers],
            "first_divergence": None if first is None else _finite(vars(first)),
            "output": output,
        }


def diff_module(
    module: Module,
    a: Target,
    b: Target,
    inputs: Sequence[np.ndarray],
    *,
    threshold: float = 1e-3,
    layers: bool = True,
    options: tuple[CompileOptions, CompileOptions] | None = None,
    say: Say = lambda what: None,
) -> Diff:
    """Run a Module on both targets with the same inputs (arguments that are not weights).

    Raises UsageError for a target that does not run. With `layers` False the program is left as it
    is and only its results are compared, for targets that take no other.
    """
    pair = _Pair(module, a, b, layers, options, say)
    results = [Distance() for _ in module.signature.results]
    rows = [_Rows() for _ in results]
    say(f"running {module.name}")
    for left, right in pair.run(inputs):
        for index, (x, y) in enumerate(zip(left, right, strict=True)):
            results[index].add(x, y)
            rows[index].add(x, y)
    outputs = tuple(
        Output(
            name=one.name,
            max_abs=distance.max_abs,
            rel=distance.rel,
            sqnr_db=distance.sqnr_db,
            top1_agreement=row.agreement,
        )
        for one, distance, row in zip(module.signature.results, results, rows, strict=True)
    )
    return pair.diff(module.name, outputs, threshold)


WINDOW = 128
"""Tokens of a text read at once."""


def diff_language(
    model: LanguageModel,
    a: Target,
    b: Target,
    tokens: Sequence[int],
    *,
    precision: Precision,
    window: int | None = None,
    threshold: float = 1e-3,
    layers: bool = True,
    options: tuple[CompileOptions, CompileOptions] | None = None,
    say: Say = lambda what: None,
) -> Diff:
    """Read a text on both targets, in windows of so many tokens (WINDOW, or all of a shorter text)
    that know nothing of each other.

    Every window predicts all its tokens but the first; what is left over at the end of the text is
    dropped. Raises UsageError when the text is shorter than one window.
    """
    if model.score is None:
        raise UsageError(f"{model.name} has no way to give logits at every position of a text")
    window = min(WINDOW, len(tokens)) if window is None else window
    if not 2 <= window <= model.facts.context:
        raise UsageError(f"a window of {window} is not between 2 and {model.facts.context} tokens")
    count = len(tokens) // window
    if not count:
        raise UsageError(
            f"the text has {len(tokens)} tokens, a window {window}: use a longer text or a "
            "shorter window"
        )
    module = model.score(1, window, precision).with_weights(model.bind(precision))
    pair = _Pair(module, a, b, layers, options, say)
    output = LanguageOutput.empty()
    for index in range(count):
        say(f"reading window {index + 1} of {count}")
        piece = np.asarray(tokens[index * window : (index + 1) * window], np.int32)[None]
        for left, right in pair.run(_window_inputs(module, piece)):
            output = output.with_window(piece[0], left[0][0], right[0][0])
    return pair.diff(model.name, (), threshold, output)


def _window_inputs(module: Module, tokens: np.ndarray) -> list[np.ndarray]:
    named = {"tokens": tokens, "start": np.zeros(1, np.int32)}
    return [
        named[a.name]
        if a.name in named
        else np.zeros([int(d) for d in a.shape], dtype(a.dtype).numpy)
        for a in module.signature.arguments
        if a.role != "weight"
    ]


class _Pair:
    """Both targets' executables of one module, and the errors of its layers so far."""

    def __init__(
        self,
        module: Module,
        a: Target,
        b: Target,
        layers: bool,
        options: tuple[CompileOptions, CompileOptions] | None,
        say: Say,
    ):
        for target in (a, b):
            if not target.runs:
                raise UsageError(
                    f"{target.name} does not run here; there are no numbers to compare"
                )
        if module.weights.is_shape_only:
            raise InputError(f"{module.name} is known by shape only; a diff needs its weights")
        self.a, self.b = a, b
        self._own = len(module.signature.results)
        self._probes: tuple[Probe, ...] = ()
        if layers:
            module, self._probes = instrument(module)
        self._distances = [Distance() for _ in self._probes]
        self._executables: list[Executable] = []
        both = options or (CompileOptions(), CompileOptions())
        for target, option in zip((a, b), both, strict=True):
            say(f"compiling {module.name} for {target.name}")
            self._executables.append(target.compile(module, option))

    def run(self, inputs: Sequence[np.ndarray]) -> Iterator[tuple[list[Any], list[Any]]]:
        """(a's results, b's results) of the module itself; its layers' errors are kept here."""
        both: list[list[Any]] = []
        for executable in self._executables:
            # Copies: state is donated, and a later run may write where a result lies.
            results = executable.run(*(np.array(x) for x in inputs))
            both.append([np.array(x) for x in results])
        for distance, x, y in zip(
            self._distances, both[0][self._own :], both[1][self._own :], strict=True
        ):
            distance.add(x, y)
        yield both[0][: self._own], both[1][: self._own]

    def diff(
        self,
        model: str,
        outputs: tuple[Output, ...],
        threshold: float,
        language: LanguageOutput | None = None,
    ) -> Diff:
        layers = tuple(
            LayerError(
                layer=probe.origin.layer,
                source=probe.origin.source,
                op=probe.op,
                max_abs=distance.max_abs,
                rel=distance.rel,
                sqnr_db=distance.sqnr_db,
            )
            for probe, distance in zip(self._probes, self._distances, strict=True)
        )
        return Diff(
            a=self.a.name,
            b=self.b.name,
            model=model,
            layers=layers,
            outputs=outputs,
            threshold=threshold,
            simulated={t.name: simulates(t) for t in (self.a, self.b) if simulates(t)},
            language=language,
        )


@dataclass
class _Rows:
    """Counts rows of a result with the same largest element."""

    same: int = 0
    total: int = 0

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        if a.ndim and a.shape[-1] > 1 and a.size and a.dtype.kind in "fV":
            wide = [x.astype(np.float64).reshape(-1, x.shape[-1]).argmax(-1) for x in (a, b)]
            self.same += int((wide[0] == wide[1]).sum())
            self.total += len(wide[0])

    @property
    def agreement(self) -> float | None:
        return self.same / self.total if self.total else None


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    bad = (float("inf"), float("-inf"))
    return {
        key: None if isinstance(x, float) and (x in bad or x != x) else x for key, x in row.items()
    }
