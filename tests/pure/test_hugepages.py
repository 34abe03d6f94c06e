"""Large buffers of cpu:native lie in huge pages where the system has them."""

import mmap

import numpy as np
import pytest

from anychip.cli import doctor
from anychip.compilers import hugepages
from anychip.compilers.native.executable import Room


@pytest.fixture(autouse=True)
def system_has_them():
    if hugepages.setting() in ("", "never"):
        pytest.skip("this system gives no huge pages on request")


def test_a_buffer_lies_in_huge_pages():
    array = np.frombuffer(hugepages.buffer(8 << 20), np.uint8)
    array[:] = 1
    share = hugepages.share(array.ctypes.data, array.size)
    assert share is not None
    assert share > 0


def test_the_setting_keeps_a_buffer_out_of_them(monkeypatch):
    monkeypatch.setenv("ANYCHIP_HUGE_PAGES", "no")
    array = np.frombuffer(hugepages.buffer(8 << 20), np.uint8)
    array[:] = 1
    assert hugepages.share(array.ctypes.data, array.size) == 0


def test_shared_memory_has_none_and_that_is_seen():
    array = np.frombuffer(mmap.mmap(-1, 8 << 20), np.uint8)
    array[:] = 1
    assert hugepages.share(array.ctypes.data, array.size) == 0


def test_caches_smaller_than_a_huge_page_lie_in_them_side_by_side():
    sizes = [1 << 20, 100, (1 << 20) + 4] * 3
    room = Room(sizes)
    parts = [room.take(size) for size in sizes]
    for number, part in enumerate(parts):
        part[:] = number
    assert all((part == number).all() for number, part in enumerate(parts))
    assert all(part.size == size for part, size in zip(parts, sizes, strict=True))
    assert all(part.ctypes.data % 64 == 0 for part in parts)
    share = hugepages.share(parts[0].ctypes.data, sum(sizes))
    assert share is not None
    assert share > 0


def test_the_doctor_says_what_not_having_them_costs(monkeypatch):
    assert [finding.state for finding in doctor._huge_pages()] == ["ok"]
    monkeypatch.setattr(hugepages, "setting", lambda: "never")
    monkeypatch.setattr(hugepages, "granted", lambda: False)
    (finding,) = doctor._huge_pages()
    assert finding.state == "missing"
    assert "never" in finding.detail
    assert hugepages.SETTING in finding.remedy
