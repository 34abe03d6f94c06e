"""Memory of the host runtimes: in huge pages where the system has them, and only when asked."""

import json
import mmap
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anychip.compilers import hugepages
from anychip.compilers.onnx_hosts.pages import HugePages, without
from anychip.core import CompileOptions, Module, UsageError, discover

MANY = 24 << 20
WIDE = """func.func @main(%x: tensor<1x2048xf32>) -> tensor<1x2048xf32> {
  %0 = stablehlo.iota dim = 0 : tensor<2048x2048xf32>
  %1 = stablehlo.sine %0 : tensor<2048x2048xf32>
  %2 = stablehlo.dot_general %x, %1, contracting_dims = [1] x [0]
    : (tensor<1x2048xf32>, tensor<2048x2048xf32>) -> tensor<1x2048xf32>
  return %2 : tensor<1x2048xf32>
}"""


def share(memory: mmap.mmap) -> float:
    """How much of this memory is in huge pages. Of the process the system moves more by itself."""
    found = hugepages.share(np.frombuffer(memory, np.uint8).ctypes.data, len(memory))
    assert found is not None
    return found


def reserved() -> mmap.mmap:
    """Resident memory as runtimes reserve it: private, anonymous, without advice."""
    memory = mmap.mmap(-1, MANY, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    np.frombuffer(memory, np.uint8)[:] = 7
    return memory


@pytest.fixture
def _system():
    if why := hugepages.why_not():
        pytest.skip(why)


@pytest.mark.usefixtures("_system")
def test_what_was_mapped_meanwhile_moves_and_the_rest_stays():
    before = reserved()
    pages = HugePages()
    with pages.watch():
        memory = reserved()
    assert share(memory) == 0
    pages.move()
    assert share(memory) > 0.5
    assert share(before) == 0
    note = pages.note
    assert re.fullmatch(
        r"\d+ of \d+ MB in huge pages after \S+ s, for -?\d+ MB of memory more", note
    )
    assert (np.frombuffer(memory, np.uint8) == 7).all()
    pages.move()
    assert pages.note == note  # once


@pytest.mark.usefixtures("_system")
def test_where_little_came_nothing_is_searched(monkeypatch):
    pages = HugePages()
    with pages.watch():
        kept = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    monkeypatch.setattr(hugepages, "areas", lambda: pytest.fail("all mappings were read"))
    pages.move()
    assert pages.note == "none: no 2 MB at one place were mapped"
    assert len(kept) == 1 << 20


@pytest.mark.usefixtures("_system")
def test_memory_that_is_hardly_used_stays_as_it_is():
    pages = HugePages()
    with pages.watch():
        memory = mmap.mmap(-1, MANY, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for start in range(0, MANY, 4 << 20):
            memory[start] = 1
    pages.move()
    assert share(memory) == 0


def test_a_system_without_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(hugepages, "SYSTEM", tmp_path)
    for setting, why in ((None, "has no transparent huge"), ("always [never]", "switched off in")):
        if setting:
            (tmp_path / "hpage_pmd_size").write_text("2097152")
            (tmp_path / "enabled").write_text(setting)
            if not Path("/proc/self/smaps_rollup").exists():
                pytest.skip("no /proc/self/smaps_rollup")
        pages = HugePages()
        with pages.watch():
            pass
        pages.move()
        assert why in pages.note


def test_differences_of_ranges():
    assert without([(0, 10), (20, 30)], [(2, 4), (8, 22)]) == [(0, 2), (4, 8), (22, 30)]
    assert without([(0, 10)], [(0, 10)]) == []
    assert without([(5, 7)], [(0, 5), (7, 9)]) == [(5, 7)]


RUNS = """
import json, sys
import numpy as np
from anychip.core import CompileOptions, Module, discover
target, text = discover().target(f"cpu:{sys.argv[1]}"), sys.stdin.read()
kept = []
for setting in ("no", "yes"):
    executable = target.compile(
        Module.from_mlir(text), CompileOptions(extra={"huge_pages": setting})
    )
    notes = [executable.artifacts["huge_pages"]]
    results = executable.run(np.ones((1, 2048), np.float32))
    kept.append((executable, results))
    with open("/proc/self/smaps_rollup") as file:
        huge = next(line.split()[1] for line in file if line.startswith("AnonHugePages:"))
    print(json.dumps([*notes, executable.artifacts["huge_pages"], int(huge)]))
assert (kept[0][1][0] == kept[1][1][0]).all()
"""
"""In a process of its own: what another test freed may lie in huge pages already."""


@pytest.mark.usefixtures("_system")
@pytest.mark.parametrize("how", ["onnxruntime", "openvino"])
def test_a_runtime_moves_after_its_first_run_unless_told_not_to(how):
    pytest.importorskip(how)
    pytest.importorskip("onnx")
    done = subprocess.run(
        [sys.executable, "-c", RUNS, how],
        input=WIDE,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    without_kb, with_kb = (json.loads(line) for line in done.stdout.splitlines())
    assert without_kb[:2] == ["not asked for", "not asked for"]
    assert with_kb[0] == "moved after the first run"
    assert " MB in huge pages after " in with_kb[1]
    assert with_kb[2] > without_kb[2], with_kb[1]


def test_a_setting_that_is_none_is_refused():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    options = CompileOptions(extra={"huge_pages": "maybe"})
    with pytest.raises(UsageError, match="huge_pages='maybe' must be one of yes, no"):
        discover().target("cpu:onnxruntime").compile(Module.from_mlir(WIDE), options)


def test_the_setting_of_the_environment_is_the_default(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("ANYCHIP_HUGE_PAGES", "no")
    executable = (
        discover().target("cpu:onnxruntime").compile(Module.from_mlir(WIDE), CompileOptions())
    )
    assert executable.artifacts["huge_pages"] == "not asked for"
    assert "huge_pages=no" in executable.artifacts["settings"]
