"""The thread count: the fewest that are near the best, kept for one host, and memory's nodes."""

import errno
import json
import os

import pytest

from anychip.compilers.native import numa, pack
from anychip.compilers.native.isa import choose
from anychip.compilers.native.plan import Constant
from anychip.compilers.native.pool import Pool
from anychip.compilers.native.threads import Choice, choose_threads, counts
from anychip.core import InputError, SetupError, Weights

ISA = choose("generic")


class Meter:
    """Stands in for the measurement, and counts how often it was asked."""

    def __init__(self, rates: dict[int, float], busy: float = 0.0):
        self.rates, self.busy, self.asked = rates, busy, 0

    def __call__(self, isa, wanted):
        self.asked += 1
        return {n: self.rates[n] for n in wanted}, self.busy


def choice(folder, meter: Meter, cpus: int = 8) -> Choice:
    return choose_threads(folder, ISA, cpus, meter)


def test_powers_of_two_and_all_are_tried():
    assert counts(2) == [1, 2]
    assert counts(12) == [1, 2, 4, 8, 12]
    assert counts(128)[-1] == 128


def test_the_fewest_threads_near_the_best_are_taken_and_the_reason_told(tmp_path):
    found = choice(tmp_path, Meter({1: 10e9, 2: 19e9, 4: 29.5e9, 8: 30e9}))
    assert found.threads == 4
    assert "fewest" in found.why
    assert "1: 10.0, 2: 19.0, 4: 29.5, 8: 30.0" in found.why


def test_on_a_full_disk_the_measurement_is_used_and_said_not_to_be_kept(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("anychip.compilers.cache.write_atomically", full)
    found = choice(tmp_path, Meter({1: 10e9, 2: 19e9, 4: 29.5e9, 8: 30e9}))
    assert found.threads == 4
    assert f"could not be kept in {tmp_path}" in found.why


def test_a_measurement_is_kept_for_this_host_only(tmp_path):
    meter = Meter({1: 10e9, 2: 20e9, 4: 20e9, 8: 20e9})
    assert choice(tmp_path, meter) == choice(tmp_path, meter)
    assert meter.asked == 1
    path = tmp_path / "threads.json"
    record = json.loads(path.read_text())
    record["key"][3] = "another CPU's instructions"
    path.write_text(json.dumps(record))
    assert choice(tmp_path, meter).threads == 2
    assert meter.asked == 2
    path.write_text('{"key": 3')
    assert choice(tmp_path, meter).threads == 2
    assert meter.asked == 3


def test_a_disturbed_measurement_is_not_trusted_and_taken_again_later(tmp_path):
    meter = Meter({1: 10e9, 2: 9e9, 4: 5e9, 8: 4e9}, busy=0.5)
    found = choice(tmp_path, meter)
    assert found.threads == 8
    assert "other programs took 50%" in found.why
    choice(tmp_path, meter)
    assert meter.asked == 1
    path = tmp_path / "threads.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"at_s": record["at_s"] - 3600}))
    meter.busy = 0.0
    assert choice(tmp_path, meter).threads == 1
    assert meter.asked == 2


def test_nothing_is_measured_without_a_choice_or_a_folder(tmp_path):
    meter = Meter({})
    assert choose_threads(tmp_path, ISA, 1, meter).threads == 1
    assert choose_threads(None, ISA, 8, meter).threads == 8
    assert not meter.asked


def test_nodes_are_read_as_linux_lists_them(tmp_path):
    mine = sorted(os.sched_getaffinity(0))
    for name, text in (("node0", f"{mine[0]}"), ("node1", "900-903,907"), ("node10", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpulist").write_text(text + "\n")
    assert numa.nodes(tmp_path) == (frozenset({mine[0]}),)
    assert numa.nodes(tmp_path / "nothing") == (frozenset(mine),)
    assert numa._cpus("0-2,8\n") == {0, 1, 2, 8}


TWO = (frozenset({0}), frozenset({1}))


def test_threads_and_shares_of_weights_belong_to_the_same_node():
    assert [numa.of_thread(i, 4, TWO) for i in range(4)] == [TWO[0], TWO[0], TWO[1], TWO[1]]
    assert numa.spans([(0, 10), (64, 7)], TWO) == [[(0, 5), (64, 67)], [(5, 10), (67, 71)]]


needs_two = pytest.mark.skipif(
    not {0, 1} <= os.sched_getaffinity(0), reason="CPUs 0 and 1 play two nodes"
)


@needs_two
def test_weights_read_node_by_node_are_the_same(tmp_path):
    entries = [Constant(bytes(range(200)), "a"), Constant(bytes(range(77)), "b")]
    places, size = pack.offsets(entries)
    path = tmp_path / "image"
    pack._write(path, places, size, Weights())
    whole = pack._loaded(path, size, places, (frozenset({0, 1}),))
    shared = pack._loaded(path, size, places, TWO)
    assert bytes(whole[:size]) == bytes(shared[:size])
    path.write_bytes(path.read_bytes()[: size // 2])
    with pytest.raises(InputError, match="end early"):
        pack._loaded(path, size, places, TWO)


@needs_two
def test_workers_stay_on_their_node():
    before = os.sched_getaffinity(0)
    pool = Pool(4, ISA, TWO)
    where = [os.sched_getaffinity(w.native_id) for w in pool._workers]
    pool.close()
    assert where == [TWO[0], TWO[1], TWO[1]]
    assert os.sched_getaffinity(0) == before


def test_instructions_this_cpu_lacks_are_named():
    foreign = "neon" if os.uname().machine == "x86_64" else "avx2"
    with pytest.raises(SetupError, match=f"isa={foreign} needs .*which this CPU"):
        choose(foreign)
