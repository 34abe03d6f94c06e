"""The host's spec: measured once, kept, taken again when host, file or quiet change."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from anychip.chips.cpu.host import host_spec
from anychip.chips.cpu.power import power_meter
from anychip.chips.cpu.system import Host, others_share, this_host

HOST = Host(
    machine="Toy 3000, 4 cores, Linux",
    cores=4,
    cache_bytes=1 << 20,
    memory_bytes=8 << 30,
    vendor="Toy",
    compiler="jaxlib 0",
)

SAMPLES = {
    "read_bytes_per_s": [10e9, 12e9, 11e9],
    "read_1_thread_bytes_per_s": [8e9, 8e9, 9e9],
    "convolution_flops_per_s": [3e10, 4e10],
    "tanh_per_s": [1e9, 2e9],
    "row_attention_flops_per_s": [4e9, 6e9],
    "turn_bytes_per_s": [6e9, 9e9],
    "fresh_write_bytes_per_s": [2e9, 3e9],
    "cache_read_bytes_per_s": [40e9, 50e9, 45e9],
    "matvec_f32_bytes_per_s": [6e9, 9e9, 8e9],
    "matvec_bf16_bytes_per_s": [3e9, 2e9, 3e9],
    **{f"matmul_{e}_flops_per_s": [1e11, 2e11, 1.5e11] for e in ("f32", "bf16", "i8")},
    "rows_64_f32_flops_per_s": [1e11, 1.2e11, 1e11],
    "rows_64_bf16_flops_per_s": [5e10, 6e10, 6e10],
    "rows_64_i8_flops_per_s": [3e11, 3e11, 3e11],
    "vector_flops_per_s": [5e10, 6e10, 6e10],
    "kernel_small_s": [1e-6, 2e-6, 2e-6],
    "kernel_s": [4e-6, 5e-6, 9e-6],
    "step_s": [3e-5, 4e-5, 4e-5],
    "call_s": [5e-6, 6e-6, 9e-6],
}


class Bench:
    """Stands in for the benchmarks; counts how often they ran."""

    def __init__(self, others: float = 0.0, **changes: list[float]):
        self.runs, self.others, self.changes = 0, others, changes

    def __call__(self, host: Host):
        self.runs += 1
        return {**SAMPLES, **self.changes}, self.others


def _spec(home: Path, bench: Bench, *, host: Host = HOST, busy: float = 0.0, again: bool = False):
    return host_spec(home, host=host, measure=bench, busy=lambda: busy, again=again)


def test_first_use_measures_and_the_next_reads_the_file(tmp_path):
    bench = Bench()
    assert _spec(tmp_path, bench) == _spec(tmp_path, bench)
    assert bench.runs == 1


def test_again_measures_again(tmp_path):
    bench = Bench()
    _spec(tmp_path, bench)
    _spec(tmp_path, bench, again=True)
    assert bench.runs == 2


@pytest.mark.parametrize(
    "change", [{"machine": "Other"}, {"cores": 2}, {"cache_bytes": 1}, {"compiler": "jaxlib 1"}]
)
def test_another_host_measures_again(tmp_path, change):
    bench = Bench()
    _spec(tmp_path, bench)
    _spec(tmp_path, bench, host=replace(HOST, **change))
    assert bench.runs == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace("read_bytes_per_s", "reed_bytes_per_s"),
        lambda text: json.dumps({**json.loads(text), "samples": {k: [] for k in SAMPLES}}),
        lambda text: json.dumps({**json.loads(text), "busy": "very"}),
    ],
)
def test_unreadable_file_is_replaced_and_the_note_says_so(tmp_path, damage):
    bench = Bench()
    path = tmp_path / "host.json"
    assert _spec(tmp_path, bench).note == ""
    path.write_text(damage(path.read_text()))
    spec = _spec(tmp_path, bench)
    assert bench.runs == 2
    assert str(path) in spec.note
    assert "measured anew" in spec.note
    assert _spec(tmp_path, bench) == spec
    assert bench.runs == 2


def test_busy_host_says_so_and_is_measured_again_once_quiet(tmp_path):
    bench = Bench(others=0.5)
    spec = _spec(tmp_path, bench, busy=0.5)
    assert "other programs took 50%" in spec.note
    assert spec.vector_flops_per_s.confidence == "low"
    _spec(tmp_path, bench, busy=0.4)
    assert bench.runs == 1
    quiet = Bench()
    spec = _spec(tmp_path, quiet, busy=0.0)
    assert quiet.runs == 1
    assert spec.note == ""
    assert spec.vector_flops_per_s.confidence == "high"


def test_two_processes_measure_one_after_the_other_and_only_once(tmp_path):
    bench, started = Bench(), threading.Event()

    def slow(host: Host):
        started.set()
        return bench(host)

    threads = [
        threading.Thread(
            target=host_spec,
            args=(tmp_path,),
            kwargs={"host": HOST, "measure": slow, "busy": lambda: 0.0},
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert bench.runs == 1


def test_every_figure_names_machine_date_and_method_or_who_reported_it(tmp_path):
    facts = dict(_spec(tmp_path, Bench()).facts())
    for key, fact in facts.items():
        assert HOST.machine in fact.source, key
        assert fact.source.startswith(("measured on", "reported by")), key
        low, high = fact.range
        assert low <= fact.value <= high, key


def test_rate_is_the_best_seen_and_its_low_what_others_made_of_it(tmp_path):
    spec = _spec(tmp_path, Bench())
    read = spec.main_memory.read_bytes_per_s
    assert (read.value, read.low, read.high) == (12e9, 6e9, 12e9)
    f32 = spec.matmul_flops_per_s["f32"]
    assert (f32.value, f32.low) == (2e11, 1e11)


def test_efficiencies_are_fractions_of_those_rates(tmp_path):
    spec = _spec(tmp_path, Bench())
    assert spec.matmul_efficiency.value == pytest.approx(0.6)
    assert spec.matmul_efficiency.range == pytest.approx((0.3, 1.0))
    assert spec.memory_efficiency.value == pytest.approx(8 / 12)
    assert spec.memory_efficiency.range == pytest.approx((6 / 12, 9 / 12))


def test_overheads_range_from_the_least_to_the_typical(tmp_path):
    spec = _spec(tmp_path, Bench())
    assert spec.per_kernel_s.range == (1e-6, 5e-6)
    assert spec.per_step_s.value == 3e-5


def test_power_is_unknown_without_counters_and_measured_with(tmp_path):
    spec = _spec(tmp_path / "without", Bench())
    assert (spec.tdp_w, spec.idle_w, spec.mac_j) == (None, None, None)
    power = {"tdp_w": [65.0], "idle_w": [9.0], "mac_j": [2e-11], "read_j_per_byte": [1e-10]}
    spec = _spec(tmp_path / "with", Bench(**power))
    assert spec.tdp_w is not None
    assert spec.tdp_w.value == 65.0
    assert spec.main_memory.read_j_per_byte is not None
    assert "RAPL" in spec.main_memory.read_j_per_byte.source


def test_no_declared_power_limit_leaves_the_tdp_unknown(tmp_path):
    assert _spec(tmp_path, Bench(tdp_w=[], idle_w=[9.0])).tdp_w is None


def test_own_work_does_not_count_as_others():
    before, after = (100.0, 50.0, 10.0), (110.0, 58.0, 16.0)
    assert others_share(before, after) == pytest.approx(0.2)
    assert others_share(before, before) == 0.0


def test_this_host_describes_itself():
    host = this_host()
    assert host.cores >= 1
    assert host.cache_bytes >= 1 << 16
    assert host.memory_bytes >= 1 << 28
    assert host == this_host()


# ---- energy counters ---------------------------------------------------------------------------


def _package(folder: Path, microjoules: int, wrap: int = 1_000_000) -> Path:
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{wrap}\n")
    return folder


def test_watts_add_up_over_packages_and_survive_a_wrapped_counter(tmp_path):
    first = _package(tmp_path / "intel-rapl:0", 100)
    second = _package(tmp_path / "intel-rapl:1", 999_000)
    _package(tmp_path / "intel-rapl:0:0", 0)  # a part of package 0, already counted there
    meter = power_meter(tmp_path)
    assert meter is not None

    def work() -> None:
        (first / "energy_uj").write_text("500100")
        (second / "energy_uj").write_text("499000")

    watts, seconds = meter.watts_of(work)
    assert watts * seconds == pytest.approx(1.0)


def test_power_limits_add_up_and_may_be_missing(tmp_path):
    folders = [_package(tmp_path / f"intel-rapl:{i}", 0) for i in range(2)]
    meter = power_meter(tmp_path)
    assert meter is not None
    assert meter.limits_w() == []
    for folder in folders:
        (folder / "constraint_0_power_limit_uw").write_text("125000000\n")
    assert meter.limits_w() == [250.0]


def test_no_counters_is_no_meter(tmp_path):
    assert power_meter(tmp_path) is None
    assert power_meter(tmp_path / "missing") is None
    (tmp_path / "intel-rapl:0").mkdir()
    assert power_meter(tmp_path) is None
