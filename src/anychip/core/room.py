"""Whether memory suffices, asked before it is taken: a system that promises more than it has ends
the process when the pages are touched. Sources: proc_meminfo(5), the kernel's cgroup-v2.rst.
"""

from __future__ import annotations

from pathlib import Path

from anychip.core.errors import SetupError

MEMINFO = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")


def free_memory_bytes(meminfo: Path = MEMINFO, group: Path = GROUP) -> int | None:
    """Bytes this process could still take without swapping: what the system calls available, or
    what is left of its control group, where that is less. None where the system does not tell."""
    if not meminfo.exists():
        return None
    available = _fields(meminfo)["MemAvailable"] << 10
    most = group_limit_bytes(group)
    if most is None:
        return available
    stat, used = _fields(group / "memory.stat"), int((group / "memory.current").read_text())
    reclaimable = stat["active_file"] + stat["inactive_file"]
    return min(available, max(most - used + reclaimable, 0))


def group_limit_bytes(group: Path = GROUP) -> int | None:
    """What this process's control group may take; None where it has no limit."""
    limit = group / "memory.max"
    text = limit.read_text().strip() if limit.exists() else "max"
    return int(text) if text.isdigit() else None


def require_memory(nbytes: int, what: str, instead: str) -> None:
    """Raises SetupError when `nbytes` for `what` are not to be had here; `instead` would work."""
    free = free_memory_bytes()
    if free is not None and nbytes > free:
        raise SetupError(
            f"{what}: {nbytes / 1e9:.1f} GB of memory needed, {free / 1e9:.1f} GB are free on this "
            f"host. Instead: {instead}"
        )


def _fields(path: Path) -> dict[str, int]:
    """`name number` or `name: number kB`, a line each."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {words[0].removesuffix(":"): int(words[1]) for words in lines if len(words) > 1}
