"""Specs are read strictly: whatever is doubtful in a TOML file is an error that says where."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from anychip.core import (
    ChipSpec,
    InputError,
    LinkSpec,
    MemorySpec,
    PluginError,
    UsageError,
    discover,
    read_chip,
    read_system,
)
from anychip.twin import machine

CHIP = """
name = "acme-n1"
title = "Acme N1"
vendor = "Acme"
family = "systolic"
vector_flops_per_s = { value = 1e12, source = "datasheet" }
matmul_efficiency = { value = 0.6, low = 0.5, high = 0.7, source = "datasheet" }
memory_efficiency = { value = 0.8, source = "datasheet" }
per_kernel_s = { value = 1e-6, source = "datasheet" }
per_step_s = { value = 1e-4, source = "assumed: host", confidence = "low" }

[matmul_flops_per_s]
bf16 = { value = 4e14, source = "datasheet" }

[[memory]]
name = "hbm"
capacity_bytes = { value = 64e9, source = "datasheet" }
read_bytes_per_s = { value = 1.2e12, source = "datasheet" }

[about]
die_mm2 = { value = 600, source = "datasheet" }
"""

SYSTEM = """
name = "acme-box"
title = "Acme box"
chip = "acme-n1"
counts = [1, 2, 4]
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "spec.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_chip_keeps_every_number_with_its_source(tmp_path: Path) -> None:
    spec = read_chip(_write(tmp_path, CHIP))
    facts = dict(spec.facts())
    assert facts["matmul_flops_per_s.bf16"].value == 4e14
    assert facts["memory.hbm.read_bytes_per_s"].source == "datasheet"
    assert facts["about.die_mm2"].value == 600
    assert facts["matmul_efficiency"].range == (0.5, 0.7)
    assert facts["memory_efficiency"].range == (0.8, 0.8)
    assert spec.main_memory.name == "hbm"
    assert len(facts) == 9


BROKEN = {
    "unknown key": (
        'vendor = "Acme"',
        'vendr = "Acme"',
        ("vendr", "Did you mean 'vendor'"),
    ),
    "unknown key of a fact": (
        'value = 1e12, source = "datasheet"',
        'value = 1e12, source = "datasheet", sorce = "x"',
        ("vector_flops_per_s.sorce", "Did you mean 'source'"),
    ),
    "unknown key of a memory level": (
        'name = "hbm"',
        'name = "hbm"\nsize_bytes = { value = 1, source = "x" }',
        ("memory[0].size_bytes", "Known: capacity_bytes"),
    ),
    "missing key": ('vendor = "Acme"\n', "", ("vendor", "missing")),
    "missing key of a memory level": (
        'capacity_bytes = { value = 64e9, source = "datasheet" }\n',
        "",
        ("memory[0].capacity_bytes", "missing"),
    ),
    "bare number": (
        'per_kernel_s = { value = 1e-6, source = "datasheet" }',
        "per_kernel_s = 1e-6",
        ("per_kernel_s", "needs a source", "1e-06"),
    ),
    "number without source": (
        'per_kernel_s = { value = 1e-6, source = "datasheet" }',
        "per_kernel_s = { value = 1e-6 }",
        ("per_kernel_s", "needs a source"),
    ),
    "empty source": (
        'per_kernel_s = { value = 1e-6, source = "datasheet" }',
        'per_kernel_s = { value = 1e-6, source = " " }',
        ("per_kernel_s", "source is empty"),
    ),
    "value outside its range": (
        "value = 0.6, low = 0.5",
        "value = 0.4, low = 0.5",
        ("matmul_efficiency", "outside its range", "0.4", "low 0.5"),
    ),
    "negative number": ("value = 600", "value = -600", ("about.die_mm2", "at least 0", "-600")),
    "infinite number": ("value = 600", "value = inf", ("about.die_mm2", "finite")),
    "not a number": ("value = 600", "value = nan", ("about.die_mm2", "finite")),
    "efficiency above one": ("value = 0.8", "value = 1.2", ("memory_efficiency", "at most 1")),
    "rate of zero": ("value = 4e14", "value = 0", ("matmul_flops_per_s.bf16", "above 0")),
    "text for a number": (
        "value = 600",
        'value = "600"',
        ("about.die_mm2.value", "expected float"),
    ),
    "truth for a number": (
        "value = 600",
        "value = true",
        ("about.die_mm2.value", "expected float"),
    ),
    "number for a text": ('title = "Acme N1"', "title = 1", ("title", "expected str, got 1")),
    "doubled key": (
        'vendor = "Acme"',
        'vendor = "Acme"\nvendor = "Apex"',
        ("not valid TOML", "line 5"),
    ),
    "unknown number format": (
        "bf16 = {",
        "bf17 = {",
        ("matmul_flops_per_s.bf17", "Did you mean", "'bf16'"),
    ),
    "unknown family": (
        'family = "systolic"',
        'family = "systollic"',
        ("family", "Did you mean 'systolic'"),
    ),
    "unknown confidence": (
        'confidence = "low"',
        'confidence = "lowish"',
        ("per_step_s.confidence", "Did you mean 'low'"),
    ),
    "unknown thing to hold": (
        'name = "hbm"',
        'name = "hbm"\nholds = ["weight"]',
        ("memory[0].holds", "Did you mean 'weights'"),
    ),
    "no memory for weights": ('name = "hbm"', 'name = "hbm"\nholds = []', ("memory", "weights")),
    "one table for a list of tables": ("[[memory]]", "[memory]", ("memory", "array of tables")),
    "two levels of one name": (
        "[about]",
        '[[memory]]\nname = "hbm"\ncapacity_bytes = { value = 1, source = "x" }\n'
        'read_bytes_per_s = { value = 1, source = "x" }\n[about]',
        ("memory", "share a name"),
    ),
    "not TOML at all": (CHIP, "{}", ("not valid TOML",)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_chip_is_an_error_that_names_file_and_field(what: str, tmp_path: Path) -> None:
    good, bad, parts = BROKEN[what]
    assert CHIP.count(good) == 1
    path = _write(tmp_path, CHIP.replace(good, bad))
    with pytest.raises(InputError) as caught:
        read_chip(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_chip(tmp_path / "spec.toml")


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not valid TOML"):
        read_chip(path)


@pytest.mark.parametrize(
    ("good", "bad", "part"),
    [
        ("[1, 2, 4]", "[]", "positive and rising"),
        ("[1, 2, 4]", "[4, 2]", "positive and rising"),
        ("[1, 2, 4]", "[2, 2]", "positive and rising"),
        ("[1, 2, 4]", "[0, 1]", "positive and rising"),
        ("[1, 2, 4]", "[1.5]", "expected a list of int"),
        ("[1, 2, 4]", '["1"]', "expected a list of int"),
        ("[1, 2, 4]", "[1]\nscale_up_count = 0", "expected at least 1"),
        ("[1, 2, 4]", '[1]\n[link]\nname = "x"', "link.bytes_per_s: this key is missing"),
        ('chip = "acme-n1"', "", "chip: this key is missing"),
        ('chip = "acme-n1"', 'chp = "acme-n1"', "Did you mean 'chip'"),
    ],
)
def test_a_broken_system_is_an_error_that_names_file_and_field(
    good: str, bad: str, part: str, tmp_path: Path
) -> None:
    path = _write(tmp_path, SYSTEM.replace(good, bad))
    with pytest.raises(InputError) as caught:
        read_system(path)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)


def _point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, "anychip.chips")


def test_two_packages_that_claim_one_name_are_both_named() -> None:
    points = [_point("acme-n1", "acme:chip"), _point("acme-n1", "apex:chip")]
    with pytest.raises(PluginError, match="'acme-n1' is claimed by both acme:chip and apex:chip"):
        discover(points)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_package_at_all:chip", "ModuleNotFoundError"),
        ("json:no_such_object", "AttributeError"),
        ("json:dumps", "is a function, not an anychip.core.Chip"),
        ("anychip.chips.h100:chip", "calls itself 'h100'"),
    ],
)
def test_a_broken_package_is_listed_and_raises_when_asked_for(value: str, why: str) -> None:
    registry = discover([_point("acme-n1", value), _point("h100", "anychip.chips.h100:chip")])
    assert set(registry.broken()) == {"acme-n1"}
    assert why in registry.broken()["acme-n1"]
    with pytest.raises(PluginError, match="acme-n1"):
        _ = registry.chip("acme-n1").spec
    assert registry.chip("h100").spec.name == "h100"


def test_no_chips_at_all_says_what_to_install() -> None:
    with pytest.raises(PluginError, match="pip install"):
        discover([])


def test_an_unknown_chip_and_an_unknown_way_suggest_the_nearest() -> None:
    registry = discover([_point("h100", "anychip.chips.h100:chip")])
    with pytest.raises(UsageError, match="Did you mean 'h100'"):
        registry.chip("h1000")
    with pytest.raises(UsageError, match="Did you mean 'twin'"):
        registry.target("h100:twinn")
    with pytest.raises(UsageError, match=r"say how: .*h100:twin"):
        registry.target("h100")


def test_a_toolchain_that_cannot_be_had_says_why() -> None:
    registry = discover([_point("groq-lpu", "anychip.chips.groq_lpu:chip")])
    with pytest.raises(
        UsageError, match="groq-lpu:groqflow cannot be had: Groq gives its compiler"
    ):
        registry.target("groq-lpu:groqflow")


def test_the_guide_names_only_keys_that_exist() -> None:
    guide = Path(__file__).parents[2] / "docs" / "add-a-chip.md"
    rows = [line.split("|")[1] for line in guide.read_text("utf-8").splitlines() if "|" in line]
    named = {key.strip("[]") for row in rows for key in re.findall(r"`([^`]+)`", row)}
    known = {field.name for kind in (ChipSpec, MemorySpec, LinkSpec) for field in fields(kind)}
    assert len(named) > 15
    assert named <= known


def test_a_format_timed_apart_has_its_own_efficiency(tmp_path: Path) -> None:
    own = '\n[format_efficiency]\nbf16 = { value = 0.3, source = "products timed apart" }\n'
    spec = read_chip(_write(tmp_path, CHIP + own))
    one = machine(spec)
    assert one.matmul_flops_per_s["bf16"] == pytest.approx(0.3 * one.peak_flops_per_s["bf16"])
    assert dict(spec.facts())["format_efficiency.bf16"].value == 0.3
    turned = machine(spec, turned={"format_efficiency.bf16": 0.4})
    assert turned.matmul_flops_per_s["bf16"] == pytest.approx(0.4 * one.peak_flops_per_s["bf16"])
    with pytest.raises(InputError, match="an efficiency of nvfp4"):
        read_chip(_write(tmp_path, CHIP + own.replace("bf16", "nvfp4")))
