"""What the operating system tells of this host: processor, caches, memory, and who uses it."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anychip.core import machine_name
from anychip.core.room import group_limit_bytes

_BENCHMARKS = 5
"""Goes up when the benchmarks change, so that old measurements are taken again."""


@dataclass(frozen=True)
class Host:
    """What is measured, and with what. Asked of the system by `this_host`."""

    machine: str
    cores: int
    cache_bytes: int
    memory_bytes: int
    vendor: str
    compiler: str

    @property
    def fingerprint(self) -> dict[str, Any]:
        """A measurement holds for an equal one only."""
        return {
            "machine": self.machine,
            "cores": self.cores,
            "cache_bytes": self.cache_bytes,
            "compiler": self.compiler,
            "benchmarks": _BENCHMARKS,
        }


def this_host() -> Host:
    """This machine, as the operating system describes it and this process may use it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    vendor = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}
    return Host(
        machine=machine_name(),
        cores=cores or 1,
        cache_bytes=_last_level_cache_bytes(Path("/sys/devices/system/cpu/cpu0/cache")),
        memory_bytes=_memory_bytes(),
        vendor=next((v for k, v in vendor.items() if k in _cpuinfo("vendor_id")), "unknown"),
        compiler=f"jaxlib {version('jaxlib')}",
    )


def busy_share(seconds: float = 0.2) -> float:
    """Share of all CPUs that other programs take just now; 0 where the system hides it."""
    before = cpu_seconds()
    time.sleep(seconds)
    return others_share(before, cpu_seconds())


CpuSeconds = tuple[float, float, float]
"""All CPUs together: available, used by anyone, used by this process."""


def cpu_seconds() -> CpuSeconds:
    """Since the machine started; zeros where the system does not tell."""
    own = os.times()
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0]
    except FileNotFoundError:  # not Linux
        return 0.0, 0.0, 0.0
    ticks = [int(n) / os.sysconf("SC_CLK_TCK") for n in first.split()[1:9]]
    return sum(ticks), sum(ticks) - ticks[3] - ticks[4], own.user + own.system  # idle, disk


def others_share(before: CpuSeconds, after: CpuSeconds) -> float:
    """Share of all CPUs that other programs took in between."""
    available, used, own = (a - b for a, b in zip(after, before, strict=True))
    return max(0.0, used - own) / available if available > 0 else 0.0


def _cpuinfo(key: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((x.partition(":")[2].strip() for x in lines if x.startswith(key)), "")
    except FileNotFoundError:  # not Linux
        return platform.processor()


def _last_level_cache_bytes(folder: Path) -> int:
    """The largest cache that the first CPU sees; 32 MiB where the system does not tell."""
    scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = [f.read_text().strip() for f in folder.glob("index*/size")]
    known = [int(s[:-1]) * scale[s[-1]] for s in sizes if s[-1:] in scale]
    return max(known, default=32 << 20)


def _memory_bytes() -> int:
    """Physical memory, or this control group's limit where that is lower."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = group_limit_bytes()
    return physical if limit is None else min(physical, limit)
