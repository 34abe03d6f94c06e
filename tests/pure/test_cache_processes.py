"""The compile cache between real processes: waiting, killed builders, full disks, and the verb."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anychip.compilers.cache import Cache, cache_key
from anychip.compilers.store import cached, stages
from anychip.core import CompileOptions
from anychip.core.config import size_in_bytes

KEY = cache_key(b"code", CompileOptions(), "toy 1")

BUILDER = """
import os, sys, time
from pathlib import Path
from anychip.compilers.cache import Cache
from anychip.compilers.store import cached

folder, key, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])


def make():
    with open(folder / "built.txt", "a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(seconds)
    return {"code": b"x" * 1000}


print(len(cached(Cache(folder / "cache"), key, 60.0, make)["code"]))
"""


def _builder(folder: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(folder), KEY, str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )


def _builds(folder: Path) -> list[int]:
    log = folder / "built.txt"
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def _until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_two_processes_build_one_thing_once(tmp_path):
    both = [_builder(tmp_path, 1.0) for _ in range(2)]
    assert [one.communicate(timeout=120)[0].strip() for one in both] == ["1000", "1000"]
    assert len(_builds(tmp_path)) == 1


def test_a_builder_killed_midway_is_succeeded_by_the_one_that_waits(tmp_path):
    first = _builder(tmp_path, 600.0)
    _until(lambda: _builds(tmp_path) == [first.pid])
    second = _builder(tmp_path, 0.0)
    time.sleep(0.3)
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    assert second.communicate(timeout=120)[0].strip() == "1000"
    assert _builds(tmp_path) == [first.pid, second.pid]
    left = [p.name for p in (tmp_path / "cache").glob("??/*") if p.suffix != ".lock"]
    assert left == [KEY]


@pytest.fixture
def small_files():
    """No file may grow beyond 64 KiB here: what a full quota does, without filling a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_on_a_full_disk_a_program_is_made_and_said_not_to_be_kept(tmp_path, small_files):
    cache, code = Cache(tmp_path), os.urandom(1 << 20)
    made = cached(cache, KEY, 5.0, lambda: {"code": code})
    assert made["code"] == code
    (said,) = [stage() for name, stage in stages(made).items() if name == "not_kept"]
    assert "could not be kept in" in said
    assert "anychip cache --prune 0" in said
    assert list(cache.entries()) == []
    assert cached(cache, KEY, 5.0, lambda: {"code": b"small"}) == {"code": b"small"}


def test_older_entries_make_room_when_the_disk_is_full(tmp_path, monkeypatch):
    from anychip.compilers import cache as module

    disk_bytes = 5000
    cache, written = Cache(tmp_path), module.write_atomically

    def write(path: Path, content: bytes) -> None:
        if cache.total_bytes + len(content) > disk_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(path, content)

    monkeypatch.setattr(module, "write_atomically", write)
    keys = [cache_key(bytes([i]), CompileOptions(), "toy") for i in range(6)]
    for age, key in enumerate(keys):
        with cache.locked(key, 5.0) as entry:
            entry.write(bytes(1500))
        os.utime(tmp_path / key[:2] / key, (1000 + age, 1000 + age))
    assert cache.total_bytes <= disk_bytes
    with cache.locked(keys[-1], 5.0) as entry:
        assert entry.read() == bytes(1500)


def test_the_quota_holds_while_entries_are_added(tmp_path):
    cache = Cache(tmp_path, max_bytes=4000)
    for i in range(8):
        key = cache_key(bytes([i]), CompileOptions(), "toy")
        cached(cache, key, 5.0, lambda: {"code": os.urandom(1000)})
        assert cache.total_bytes <= 4000
    assert len(list(cache.entries())) >= 2


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("1000", 1000), ("2k", 2048), ("1.5M", 3 << 19), ("4GB", 4 << 30)]
)
def test_sizes_are_read(text, size):
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "big", "-1", "nan", "inf"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match=r"size|convert"):
        size_in_bytes(text)


def test_the_verb_lists_and_prunes(tmp_path):
    cache = Cache(tmp_path / "iree")
    for i in range(3):
        key = cache_key(bytes([i]), CompileOptions(), "toy")
        cached(cache, key, 5.0, lambda: {"code": os.urandom(1000)})

    def call(*words: str) -> dict[str, dict]:
        done = subprocess.run(
            [sys.executable, "-m", "anychip", "cache", *words, "-f", "json"],
            env={**os.environ, "ANYCHIP_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return {row["cache"]: row for row in json.loads(done.stdout)["caches"]}

    rows = call()
    assert len(rows["iree"]["entries"]) == 3
    assert rows["iree"]["bytes"] == cache.total_bytes
    assert rows["xla"]["entries"] == []
    pruned = call("iree", "--prune", "2500")["iree"]
    assert pruned["freed_bytes"] > 0
    assert pruned["bytes"] == cache.total_bytes <= 2500


def test_on_a_full_disk_a_compile_runs_its_program_and_says_what_is_not_kept(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from anychip.cli.app import application

    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "one.mlir").write_text(
        "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {\n"
        "  %0 = stablehlo.tanh %x : tensor<4xf32>\n  return %0 : tensor<4xf32>\n}"
    )
    monkeypatch.setenv("ANYCHIP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANYCHIP_RUNS", str(tmp_path / "runs"))
    for module in ("compilers.cache", "core.runs", "cli.record"):
        monkeypatch.setattr(f"anychip.{module}.write_atomically", full)
    words = ["compile", str(tmp_path / "one.mlir"), "-t", "cpu:xla", "-f", "json"]
    done = CliRunner().invoke(application(["compile"]), words)
    assert done.exit_code == 0, done.output
    (verdict,) = json.loads(done.stdout)["verdicts"]
    assert verdict["matched"]
    assert verdict["error"] is None
    assert f"could not be kept in {tmp_path / 'home' / 'xla'}: No space left" in verdict["not_kept"]
    assert verdict["artifacts"] == []
    assert "not kept: No space left on device" in done.stderr.replace("\n", " ")
