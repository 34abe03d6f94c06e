"""Our own chips and systems: all there, sourced, in SI units, and not contradicting themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import anychip
from anychip.core import ChipSpec, SystemSpec, discover, read_chip, read_system
from anychip.twin.arithmetic import arithmetic
from anychip.twin.rounding import float_format, known_formats

ROOT = Path(anychip.__file__).parent
FOLDERS = sorted(path.parent for path in ROOT.glob("chips/*/spec.toml"))
SPECS = {spec.name: spec for spec in (read_chip(folder / "spec.toml") for folder in FOLDERS)}
SERVERS = {name: spec for name, spec in SPECS.items() if "twin" in discover().chip(name).targets}
"""Those that are compared with each other; the rest are embedded blocks of kilobytes."""
SYSTEMS = [read_system(path) for path in sorted(ROOT.glob("systems/*.toml"))]

ABOUT_UNITS = (
    "_bytes_per_s",
    "_flops_per_s",
    "_per_s_per_mm2",
    "_images_per_s",
    "_bytes",
    "_count",
    "_mm2",
    "_nm",
    "_hz",
    "_s",
    "_w",
    "_j",
    "_per_j",
    "_j_per_flop",
)

WIDER = (
    ("mxfp4", "bf16"),
    ("f4E2M1FN", "f8E4M3FN"),
    ("f8E4M3FN", "bf16"),
    ("i8", "f16"),
    ("mxint4", "mxint8"),
    ("mxint8", "mxint16"),
    ("bf16", "f32"),
    ("tf32", "f32"),
)

HOLDS_405B_BF16 = (
    *("a100", "h100", "h200", "b200", "gb200", "l40s", "mi300x", "mi325x", "mi355x"),
    *("tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e", "tpu-v7x", "trainium1", "trainium2", "trainium3"),
    *("maia-100", "maia-200", "gaudi2", "gaudi3", "rebel-quad", "sn40l", "qaic100-ultra"),
    *("groq-lpu", "cerebras-wse2", "cerebras-wse3", "dmatrix-corsair", "rebellions-atom"),
    *("wormhole-n300", "blackhole-p150", "epyc-9755-2s", "xeon-6980p-2s"),
)


def test_every_folder_is_found_by_its_entry_point_and_nothing_else_is() -> None:
    owned = {n for n, owner in discover().owners.items() if owner.startswith("anychip ")}
    folders = {p.parent.name for p in ROOT.glob("chips/*/__init__.py")}
    assert {name.replace("-", "_") for name in owned} == folders
    assert len(owned) >= 40


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_chip_is_named_like_its_folder(folder: Path) -> None:
    assert read_chip(folder / "spec.toml").name.replace("-", "_") == folder.name


@pytest.mark.parametrize("name", SPECS)
def test_a_chip_loads_and_has_a_twin_or_a_compiler_or_says_why_not(name: str) -> None:
    chip = discover().chip(name)
    assert chip.spec == SPECS[name]
    assert {"twin", "vela", "qnn", "rknn"} & set(chip.targets) or chip.absent
    assert all(reason.strip() for reason in chip.absent.values())


def test_importing_every_chip_pulls_in_no_framework() -> None:
    code = """
import sys
from anychip.core import discover
registry = discover()
ours = [name for name, owner in registry.owners.items() if owner.startswith("anychip ")]
loaded = [registry.chip(name) for name in ours]
print(*[m for m in ("jax", "torch", "tensorflow", "onnx", "transformers") if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_an_assumed_number_says_so_with_low_confidence_and_a_range(spec: ChipSpec) -> None:
    for key, fact in spec.facts():
        if fact.source.startswith("assumed:"):
            assert fact.confidence == "low", key
            assert fact.low is not None, key
            assert fact.high is not None, key
            assert fact.low < fact.high, key


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_rule_of_arithmetic_is_one_and_assumptions_say_so(spec: ChipSpec) -> None:
    own = arithmetic(spec)
    for element in ("f32", "bf16", "f16"):
        assert own.format_of(element) in (*known_formats(), element)
        sums = own.accumulator_of(own.format_of(element))
        assert sums == "f32" or float_format(sums) is not None
    for key, rule in spec.rules():
        assert rule.source
        if rule.source.startswith("assumed:"):
            assert rule.confidence == "low", key


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_further_fact_has_its_unit_in_its_key(spec: ChipSpec) -> None:
    for key in spec.about:
        assert key.endswith(ABOUT_UNITS), key


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_narrower_format_is_never_slower(spec: ChipSpec) -> None:
    rates = spec.matmul_flops_per_s
    for narrow, wide in WIDER:
        if narrow in rates and wide in rates:
            assert rates[narrow].value >= rates[wide].value, (narrow, wide)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_nearer_memory_is_smaller_and_faster(spec: ChipSpec) -> None:
    sizes = [level.capacity_bytes.value for level in spec.memory]
    rates = [level.read_bytes_per_s.value for level in spec.memory]
    assert sizes == sorted(sizes, reverse=True)
    assert rates == sorted(rates)


@pytest.mark.parametrize("spec", SERVERS.values(), ids=SERVERS)
def test_numbers_are_in_si_units_and_of_the_right_size(spec: ChipSpec) -> None:
    for name, fact in spec.matmul_flops_per_s.items():
        assert 1e12 <= fact.value <= 2e16, name
    assert 1e10 <= spec.main_memory.read_bytes_per_s.value <= 1e17
    assert 1e8 <= spec.main_memory.capacity_bytes.value <= 1e13
    assert spec.per_kernel_s.value < 1e-4
    assert spec.per_step_s.value < 1e-2
    assert spec.tdp_w is not None
    assert spec.idle_w is not None
    assert 0 < spec.idle_w.value < spec.tdp_w.value < 5e4
    if spec.mac_j is not None:
        assert 1e-14 < spec.mac_j.value < 1e-10


@pytest.mark.parametrize("spec", SERVERS.values(), ids=SERVERS)
def test_a_chip_has_a_system_of_its_own(spec: ChipSpec) -> None:
    systems = discover().systems(spec.name)
    assert [s.name for s in systems] == [s.name for s in SYSTEMS if s.chip == spec.name]
    assert systems


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_a_system_is_of_a_known_chip_and_its_chips_are_joined(system: SystemSpec) -> None:
    spec = SPECS[system.chip]
    most = system.counts[-1]
    assert system.source
    if most > 1:
        assert system.link or spec.link
    if system.scale_out is not None:
        assert system.scale_up_count is not None
        assert system.scale_up_count < most
    if system.scale_up_count is not None and system.scale_up_count < most:
        assert system.scale_out is not None
    assert system.system_w is not None
    assert spec.idle_w is not None
    assert system.system_w.value > spec.idle_w.value


def test_system_files_are_named_like_their_systems() -> None:
    assert [s.name for s in SYSTEMS] == sorted(p.stem for p in ROOT.glob("systems/*.toml"))


@pytest.mark.parametrize("name", HOLDS_405B_BF16)
def test_a_deployment_holds_llama_405b_in_16_bits(name: str) -> None:
    most = max(system.counts[-1] for system in SYSTEMS if system.chip == name)
    assert most * SPECS[name].main_memory.capacity_bytes.value > 1.1 * 2 * 405e9
