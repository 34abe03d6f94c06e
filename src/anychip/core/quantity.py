"""The two kinds of number anychip ever shows: an Estimate and a Measurement."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from anychip.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A predicted value with an interval.

    `level` is the probability the interval is meant to hold; `provenance` says which facts or
    rows it rests on; `falsify` is a command whose outcome could prove it wrong.
    `kind` is "estimated" (closed form, or a vendor compiler's own figure) or "simulated"
    (event by event).
    """

    value: float
    low: float
    high: float
    provenance: str
    falsify: str
    level: float = 0.8
    kind: Literal["estimated", "simulated"] = "estimated"

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise UsageError(
                f"estimate {self.value:g} lies outside its own interval "
                f"[{self.low:g}, {self.high:g}]"
            )

    def map(self, function: Callable[[float], float]) -> Estimate:
        """The same estimate in another unit; `function` must be monotonic."""
        a, b = function(self.low), function(self.high)
        return replace(self, value=function(self.value), low=min(a, b), high=max(a, b))

    def to_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "level": self.level,
            "provenance": self.provenance,
            "falsify": self.falsify,
        }


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was observed: every sample, and the machine it was observed on."""

    samples: tuple[float, ...]
    machine: str
    note: str = ""

    def __post_init__(self) -> None:
        if not self.samples:
            raise UsageError("a measurement needs at least one sample")

    @property
    def value(self) -> float:
        """The median."""
        return float(np.median(self.samples))

    @property
    def low(self) -> float:
        """The 10th percentile."""
        return float(np.percentile(self.samples, 10))

    @property
    def high(self) -> float:
        """The 90th percentile."""
        return float(np.percentile(self.samples, 90))

    def map(self, function: Callable[[float], float]) -> Measurement:
        """The same observations in another unit."""
        return replace(self, samples=tuple(function(s) for s in self.samples))

    def to_json(self) -> dict[str, object]:
        return {
            "kind": "measured",
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "samples": len(self.samples),
            "machine": self.machine,
            "note": self.note,
        }


Quantity = Estimate | Measurement


def measured(samples: Sequence[float], *, note: str = "") -> Measurement:
    """A Measurement made on this machine."""
    return Measurement(samples=tuple(float(s) for s in samples), machine=machine_name(), note=note)


def machine_name() -> str:
    """CPU model, core count and operating system of this machine, in one line."""
    import os

    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            ]
        model = names[0] if names else model
    except OSError:  # not Linux: platform's own name has to do
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"
