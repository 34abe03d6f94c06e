"""Compiled programs on disk, by key: written atomically, built once however many ask at a time."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from anychip.core import CompileError, CompileOptions, SetupError, is_full, write_atomically
from anychip.core.config import read

_MAGIC = b"anychip1"
_DIGEST_BYTES = 32
CACHES = ("xla", "native", "iree", "libtpu", "xla-gpu", "triton", "vela", "qnn", "rknn")
"""Names under the home folder, one a compiler. Repacked weights (`packed`) are not among them."""


def cache_key(
    bytecode: bytes, options: CompileOptions, toolchain: str, *, spec: str = "", machine: str = ""
) -> str:
    """Hex key of everything the compiled bytes depend on.

    `spec` stands for the chip's figures where they steer the compiler, `machine` for what the code
    was tuned to (`cpu_features()`). `options.timeout_s` changes no code and is left out.
    """
    digest = hashlib.sha256(_MAGIC)
    extra = sorted(options.extra.items())
    for part in (bytecode, f"{options.threads} {extra}".encode(), toolchain, spec, machine):
        raw = part if isinstance(part, bytes) else part.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


@cache
def own_code() -> str:
    """Hex digest that changes with any file of the package: its names, sizes and times."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        stat = path.stat()
        digest.update(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def cpu_features() -> str:
    """What code compiled for this CPU may rely on: its instruction sets, else its name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            found = next((x for x in lines if x.startswith(("flags", "Features"))), "")
        return f"{platform.machine()} {found.partition(':')[2].strip()}"
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"


@dataclass(frozen=True)
class Entry:
    """The place of one key, while its lock is held."""

    path: Path
    cache: Cache

    def read(self) -> bytes | None:
        """The stored bytes; None when there are none or they are not what was written."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return None
        start = len(_MAGIC) + _DIGEST_BYTES
        if raw[:start] != _MAGIC + hashlib.sha256(raw[start:]).digest():
            return None
        os.utime(self.path)  # used now: pruning takes the longest unused first
        return raw[start:]

    def write(self, content: bytes) -> str:
        """Store, all or nothing; returns why it could not be kept, empty when it was.

        Where the disk or a quota is full, older entries make room first. A program that is not
        kept can be run all the same, so it is no error: whoever shows the program says it.
        """
        stored = _MAGIC + hashlib.sha256(content).digest() + content
        why = keep(self.path, stored, self.cache.folder)
        if why and self.cache.prune(self.cache.total_bytes - len(stored)):
            why = keep(self.path, stored, self.cache.folder)
        return why

    @property
    def is_damaged(self) -> bool:
        """Whether something is stored that `read` refuses."""
        return self.path.exists() and self.read() is None


@dataclass(frozen=True)
class Cache:
    """A folder of entries, kept below `max_bytes` by dropping the longest unused."""

    folder: Path
    max_bytes: int = 4 << 30

    @staticmethod
    def under_home(name: str) -> Cache:
        """The cache of one compiler, where the settings say and as large as they allow."""
        return Cache(read("home") / name, read("cache_bytes"))

    @property
    def total_bytes(self) -> int:
        """What all entries take."""
        return sum(size for _, size, _ in self.entries())

    @contextmanager
    def locked(self, key: str, timeout_s: float) -> Iterator[Entry]:
        """The entry of a key, held by no other process or thread until the block ends.

        A killed holder's lock goes with it. Raises CompileError when the wait is longer than
        `timeout_s`, SetupError where the system has no POSIX file locks.
        """
        path = self.folder / key[:2] / key
        with locked_file(path.with_suffix(".lock"), timeout_s, "compiling the same program"):
            yield Entry(path, self)

    def prune(self, max_bytes: int | None = None) -> int:
        """Drop the longest unused entries until the rest fits; returns the bytes freed.

        Entries in use are left. `max_bytes` defaults to the cache's own.
        """
        limit = self.max_bytes if max_bytes is None else max_bytes
        entries = sorted(self.entries())
        total = sum(size for _, size, _ in entries)
        freed = 0
        for _, size, path in entries:
            if total - freed <= limit:
                break
            handle = _lock(path.with_suffix(".lock"), time.monotonic())
            if handle is None:
                continue
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
            os.close(handle)
            freed += size
        return freed

    def entries(self) -> Iterator[tuple[float, int, Path]]:
        """(last use, bytes, path) of each, and of what killed writers left behind."""
        for path in self.folder.glob("??/*"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # pruned by another process meanwhile
                continue
            is_being_written = path.name.startswith(".") and time.time() - stat.st_mtime < 3600
            if path.suffix != ".lock" and not is_being_written:
                yield stat.st_mtime, stat.st_size, path


def keep(path: Path, content: str | bytes, folder: Path) -> str:
    """Write all or nothing; returns `no_room` of `folder` where there is none, else nothing."""
    try:
        write_atomically(path, content)
    except OSError as error:
        if not is_full(error):
            raise
        return no_room(folder, len(content), error)
    return ""


def no_room(folder: Path, size_bytes: int, error: OSError) -> str:
    """Why something made is not kept, and what would make room."""
    return (
        f"{size_bytes / 1e6:.3g} MB could not be kept in {folder}: {error.strerror}; the next "
        "process makes it again. Free some space there (anychip cache --prune 0 empties the "
        "caches), or set ANYCHIP_HOME to another disk"
    )


@contextmanager
def locked_file(path: Path, timeout_s: float, doing: str) -> Iterator[None]:
    """Hold an exclusive lock on a file, made when missing, until the block ends.

    Raises CompileError, saying that another process has been `doing` it, after `timeout_s`. Where
    the disk is too full for that file none is held: what is made cannot be kept there either.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _lock(path, time.monotonic() + timeout_s)
    except OSError as error:
        if not is_full(error):
            raise
        yield
        return
    if handle is None:
        raise CompileError(
            f"another process has been {doing} for {timeout_s:g} s; "
            f"wait for it, or stop whoever holds {path}"
        )
    try:
        yield
    finally:
        os.close(handle)


def _lock(path: Path, deadline_s: float) -> int | None:
    """An open file descriptor that holds the lock, None when the deadline passes first."""
    try:
        import fcntl
    except ImportError:
        raise SetupError(
            "the compile cache needs POSIX file locks, which this system lacks; "
            "make the target without a cache folder"
        ) from None
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, handle):
                return handle
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                os.close(handle)
                return None
            time.sleep(0.02)
        os.close(handle)


def _is_at(path: Path, handle: int) -> bool:
    """Whether the open file is still the one at `path`: pruning removes lock files."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
