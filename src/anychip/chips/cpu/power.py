"""The CPU's own energy counters (RAPL, through Linux powercap). Often absent or not readable."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Power:
    """One folder a CPU package, holding `energy_uj` and its range."""

    packages: tuple[Path, ...]

    def watts_of(self, work: Callable[[], object]) -> tuple[float, float]:
        """(mean watts of all packages, seconds) while doing the work once."""
        before, start = self._microjoules(), time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        joules = 0.0
        for package, b, a in zip(self.packages, before, self._microjoules(), strict=True):
            wrap = float((package / "max_energy_range_uj").read_text())
            joules += ((a - b) if a >= b else (a - b + wrap)) * 1e-6
        return joules / seconds, seconds

    def limits_w(self) -> list[float]:
        """The long-term power limit, all packages together; empty where none is declared."""
        files = [p / "constraint_0_power_limit_uw" for p in self.packages]
        if not all(f.exists() for f in files):
            return []
        return [sum(float(f.read_text()) for f in files) * 1e-6]

    def _microjoules(self) -> list[float]:
        return [float((p / "energy_uj").read_text()) for p in self.packages]


def power_meter(powercap: Path) -> Power | None:
    """The meter over the packages in a powercap folder; None unless all can be read."""
    packages = sorted(p for p in powercap.glob("*-rapl:*") if p.name.count(":") == 1)
    try:
        for package in packages:
            (package / "energy_uj").read_text()
    except OSError:  # readable by root only, on most systems
        return None
    return Power(tuple(packages)) if packages else None
