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
    limit, used = group / "memory.max", group / "memory.current"
    if not (limit.exists() and used.exists()) or (most := limit.read_text().strip()) == "max":
        return available
    stat = _fields(group / "memory.stat")
    reclaimable = stat["active_file"] + stat["inactive_file"]
    return min(available, max(int(most) - int(used.read_text()) + reclaimable, 0))


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
