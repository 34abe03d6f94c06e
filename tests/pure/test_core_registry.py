"""core/registry.py: nothing is measured or imported before it is asked for."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from anychip.core import Chip, ChipSpec, PluginError, UsageError, discover, read_chip
from anychip.core.registry import GROUP

SPEC = """
name = "toy"
title = "Toy"
vendor = "Acme"
family = "cpu"
matmul_flops_per_s = { f32 = { value = 1e9, source = "s" } }
vector_flops_per_s = { value = 1e9, source = "s" }
matmul_efficiency = { value = 0.5, source = "s" }
memory_efficiency = { value = 0.5, source = "s" }
per_kernel_s = { value = 1e-6, source = "s" }
per_step_s = { value = 1e-6, source = "s" }
[[memory]]
name = "dram"
capacity_bytes = { value = 1e9, source = "s" }
read_bytes_per_s = { value = 1e9, source = "s" }
"""


class ToyTarget:
    name, runs, toolchain = "toy:none", False, "toy 1"

    def compile(self, module, options):
        raise NotImplementedError


@pytest.fixture
def spec(tmp_path: Path) -> ChipSpec:
    path = tmp_path / "spec.toml"
    path.write_text(SPEC)
    return read_chip(path)


@pytest.fixture
def install(monkeypatch):
    """`install(name, chip)` gives an entry point to a module that holds the chip."""

    def install(name: str, chip: object) -> EntryPoint:
        module = ModuleType(f"toy_{name}")
        module.chip = chip  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return EntryPoint(name, f"{module.__name__}:chip", GROUP)

    return install


def test_target_is_made_without_reading_the_spec(install):
    def read_spec() -> ChipSpec:
        raise AssertionError("asked for the figures")

    registry = discover([install("toy", Chip(read_spec, {"none": lambda chip: ToyTarget()}))])
    assert registry.target("toy:none").name == "toy:none"


def test_spec_is_read_once(install, spec):
    reads: list[int] = []
    registry = discover([install("toy", Chip(lambda: reads.append(1) or spec, {}))])
    assert registry.chip("toy").spec is spec
    assert registry.chip("toy").spec is spec
    assert reads == [1]


def test_factory_gets_its_chip(install, spec):
    seen: list[Chip] = []

    def factory(chip: Chip) -> ToyTarget:
        seen.append(chip)
        return ToyTarget()

    registry = discover([install("toy", Chip(lambda: spec, {"none": factory}))])
    registry.target("toy:none")
    assert seen[0].spec is spec
    assert seen[0].name == "toy"


def test_chip_that_calls_itself_otherwise_raises_when_asked_for(install, spec):
    registry = discover([install("other", Chip(lambda: spec, {}))])
    with pytest.raises(PluginError, match=r"'other' of .* calls itself 'toy'"):
        _ = registry.chip("other").spec
    assert set(registry.broken()) == {"other"}


def test_whatever_a_spec_reader_raises_becomes_a_named_error(install):
    def read_spec() -> ChipSpec:
        raise ZeroDivisionError("oops")

    registry = discover([install("toy", Chip(read_spec, {}))])
    assert "ZeroDivisionError: oops" in registry.broken()["toy"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("toy", "say how: toy:none"),
        ("toy:nine", "no way to target toy named 'nine'. Did you mean 'none'"),
        ("toy:cuda", "toy:cuda cannot be had: needs a GPU"),
        ("tow:none", "no chip named 'tow'. Did you mean 'toy'"),
    ],
)
def test_target_that_is_not_there_is_explained(install, spec, target, message):
    chip = Chip(lambda: spec, {"none": lambda chip: ToyTarget()}, absent={"cuda": "needs a GPU"})
    registry = discover([install("toy", chip)])
    with pytest.raises(UsageError, match=message):
        registry.target(target)


def test_factory_that_makes_no_target_is_a_plugin_error(install, spec):
    registry = discover([install("toy", Chip(lambda: spec, {"none": lambda chip: 3}))])
    with pytest.raises(PluginError, match="toy:none: int is no Target"):
        registry.target("toy:none")


def test_lone_chip_is_its_own_system(install, spec):
    registry = discover([install("toy", Chip(lambda: spec, {}))])
    (system,) = registry.systems("toy")
    assert (system.name, system.counts, system.chip) == ("toy", (1,), "toy")
