"""Memory is asked for before it is taken; the error says what is free, and a way out."""

from pathlib import Path

import pytest

from anychip.core import SetupError, require_memory, room

MEMINFO = "MemTotal:       24000000 kB\nMemAvailable:   10000000 kB\nHugePages_Total:       0\n"


@pytest.fixture
def system(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text(MEMINFO)
    return tmp_path


def _group(folder: Path, limit: str, used: int) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text("anon 7\nactive_file 2000\ninactive_file 1000\n")


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [
        ("max", 0, 10_240_000_000),
        ("5000000", 4_000_000, 1_003_000),  # what files take can be had again
        ("5000000", 5_100_000, 0),
        ("99000000000", 0, 10_240_000_000),
    ],
)
def test_what_is_free_is_the_systems_or_the_groups(
    system: Path, limit: str, used: int, free: int
) -> None:
    _group(system, limit, used)
    assert room.free_memory_bytes(system / "meminfo", system) == free


def test_no_group_and_no_answer(system: Path) -> None:
    assert room.free_memory_bytes(system / "meminfo", system) == 10_240_000_000
    assert room.free_memory_bytes(system / "nowhere", system) is None


def test_too_much_is_refused_with_both_sizes_and_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_memory_bytes", lambda: 3_000_000_000)
    require_memory(3_000_000_000, "weights", "less")
    with pytest.raises(SetupError, match=r"weights: 40\.0 GB .* 3\.0 GB are free .* Instead: less"):
        require_memory(40_000_000_000, "weights", "less")
    monkeypatch.setattr(room, "free_memory_bytes", lambda: None)
    require_memory(1 << 60, "weights", "less")
