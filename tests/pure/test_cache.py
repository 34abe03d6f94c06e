"""The compile cache: keys, atomic writes, damage, waiting, pruning."""

import os
import subprocess
import sys
import threading
import time

import pytest

from anychip.compilers.cache import Cache, cache_key, cpu_features
from anychip.core import CompileError, CompileOptions

KEY = cache_key(b"code", CompileOptions(), "toy 1")


def _store(cache: Cache, key: str, content: bytes) -> None:
    with cache.locked(key, 5) as entry:
        entry.write(content)


def _read(cache: Cache, key: str) -> bytes | None:
    with cache.locked(key, 5) as entry:
        return entry.read()


@pytest.mark.parametrize(
    "other",
    [
        cache_key(b"other", CompileOptions(), "toy 1"),
        cache_key(b"code", CompileOptions(threads=1), "toy 1"),
        cache_key(b"code", CompileOptions(extra={"a": "b"}), "toy 1"),
        cache_key(b"code", CompileOptions(), "toy 2"),
        cache_key(b"code", CompileOptions(), "toy 1", spec="x"),
        cache_key(b"code", CompileOptions(), "toy 1", machine="x"),
        cache_key(b"codetoy 1", CompileOptions(), ""),
    ],
)
def test_whatever_changes_the_code_changes_the_key(other):
    assert other != KEY


def test_timeout_is_no_part_of_the_key():
    assert cache_key(b"code", CompileOptions(timeout_s=1), "toy 1") == KEY


def test_cpu_features_are_the_same_twice():
    assert cpu_features() == cpu_features() != ""


def test_what_is_stored_is_read_back(tmp_path):
    cache = Cache(tmp_path)
    assert _read(cache, KEY) is None
    _store(cache, KEY, b"machine code")
    assert _read(cache, KEY) == b"machine code"


@pytest.mark.parametrize("cut", [0, 5, 39, 45])
def test_truncated_entry_is_refused_and_can_be_replaced(tmp_path, cut):
    cache = Cache(tmp_path)
    _store(cache, KEY, b"machine code")
    with cache.locked(KEY, 5) as entry:
        entry.path.write_bytes(entry.path.read_bytes()[:cut])
        assert entry.read() is None
        assert entry.is_damaged
        entry.write(b"again")
    assert _read(cache, KEY) == b"again"


def test_flipped_bit_is_refused(tmp_path):
    cache = Cache(tmp_path)
    _store(cache, KEY, b"machine code")
    with cache.locked(KEY, 5) as entry:
        raw = bytearray(entry.path.read_bytes())
        raw[-1] ^= 1
        entry.path.write_bytes(raw)
        assert entry.read() is None


def test_second_builder_waits_and_finds_the_first_ones_work(tmp_path):
    cache, found, started = Cache(tmp_path), [], threading.Event()

    def second():
        started.wait(5)
        found.append(_read(cache, KEY))

    thread = threading.Thread(target=second)
    thread.start()
    with cache.locked(KEY, 5) as entry:
        started.set()
        time.sleep(0.1)
        assert found == []
        entry.write(b"built once")
    thread.join(5)
    assert found == [b"built once"]


def test_other_keys_do_not_wait(tmp_path):
    cache = Cache(tmp_path)
    with cache.locked(KEY, 5):
        _store(cache, cache_key(b"other", CompileOptions(), "toy 1"), b"x")


def test_waiting_too_long_is_a_compile_error(tmp_path):
    cache = Cache(tmp_path)
    with cache.locked(KEY, 5):
        waiting = cache.locked(KEY, 0.05)
        with pytest.raises(CompileError, match="another process"):
            waiting.__enter__()


def test_killed_builder_leaves_nothing_broken(tmp_path):
    script = (
        "import sys, os, signal; from pathlib import Path\n"
        "from anychip.compilers.cache import Cache\n"
        "with Cache(Path(sys.argv[1])).locked(sys.argv[2], 5) as entry:\n"
        "    (entry.path.parent / f'.{entry.path.name}.half').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), KEY], timeout=60)
    assert done.returncode == -9
    cache = Cache(tmp_path)
    assert _read(cache, KEY) is None
    _store(cache, KEY, b"built")
    assert _read(cache, KEY) == b"built"


def test_pruning_drops_the_longest_unused_first(tmp_path):
    cache = Cache(tmp_path)
    keys = [cache_key(bytes([i]), CompileOptions(), "toy") for i in range(4)]
    for age, key in enumerate(keys):
        _store(cache, key, bytes(1000))
        path = tmp_path / key[:2] / key
        os.utime(path, (1000 + age, 1000 + age))
    assert _read(cache, keys[0]) is not None  # used now, so no longer the oldest
    freed = cache.prune(2500)
    assert freed == 2 * 1040
    assert [_read(cache, key) is not None for key in keys] == [True, False, False, True]
    assert cache.prune(0) == 2 * 1040


def test_pruning_leaves_an_entry_in_use(tmp_path):
    cache = Cache(tmp_path)
    with cache.locked(KEY, 5) as entry:
        entry.write(b"x" * 100)
        assert cache.prune(0) == 0
        assert entry.read() == b"x" * 100


def test_pruning_clears_what_killed_writers_left_but_not_what_is_being_written(tmp_path):
    cache = Cache(tmp_path)
    (tmp_path / "ab").mkdir()
    old, new = tmp_path / "ab" / ".old.tmp", tmp_path / "ab" / ".new.tmp"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (1000, 1000))
    cache.prune(0)
    assert not old.exists()
    assert new.exists()


def test_lock_taken_while_its_file_was_pruned_is_taken_again(tmp_path):
    cache = Cache(tmp_path)
    lock = tmp_path / KEY[:2] / f"{KEY}.lock"
    with cache.locked(KEY, 5):
        lock.unlink()
        with cache.locked(KEY, 1):  # a new file: both go on, and writes stay atomic
            assert lock.exists()
