"""Verdicts are remembered per model and compiler version, and never without a run."""

from __future__ import annotations

from pathlib import Path

from anychip.cli.record import recalled, remember
from anychip.cli.verdicts import Verdict
from anychip.core import Chip, Registry


class Compiler:
    runs = False

    def __init__(self, version: str):
        self.name, self.toolchain = "c:xla", version

    def compile(self, module, options):
        raise AssertionError("nothing is compiled here")


def _registry(version: str, hows: tuple[str, ...] = ("xla", "iree", "twin")) -> Registry:
    chip = Chip(lambda: None, {h: lambda chip: Compiler(version) for h in hows}, name="c")  # type: ignore[arg-type, misc]
    return Registry({"c": lambda: chip}, {"c": "test 1"})


def _verdicts(version: str) -> list[Verdict]:
    return [
        Verdict(target="c:xla", compiled=True, toolchain=version),
        Verdict(target="c:iree", toolchain=version, state="refused", error="cannot legalize"),
        Verdict(target="c:twin", compiled=True, toolchain=version),
        Verdict(target="c:sdk", state="absent", error="behind a login"),
        Verdict(target="c:other", state="missing", error="not installed"),
    ]


def test_nothing_is_claimed_without_a_run(tmp_path):
    assert recalled(tmp_path, "some-model", _registry("1")) == {}


def test_what_compilers_said_comes_back(tmp_path):
    remember(tmp_path, "some-model", "decode", _verdicts("1"))
    rows = recalled(tmp_path, "some-model", _registry("1"))["c"]
    assert [(r["how"], r["compiled"]) for r in rows] == [("iree", False), ("xla", True)]
    assert rows[0]["error"] == "cannot legalize"
    assert recalled(tmp_path, "other-model", _registry("1")) == {}


def test_another_version_or_no_compiler_at_all_is_not_shown(tmp_path):
    remember(tmp_path, "some-model", "decode", _verdicts("1"))
    assert recalled(tmp_path, "some-model", _registry("2")) == {}
    assert [r["how"] for r in recalled(tmp_path, "some-model", _registry("1", ("xla",)))["c"]] == [
        "xla"
    ]


def test_later_verdicts_take_the_place_of_earlier_ones(tmp_path):
    remember(tmp_path, "some-model", "decode", _verdicts("1"))
    again = Verdict(target="c:iree", compiled=True, toolchain="1")
    remember(tmp_path, "some-model", "decode", [again])
    rows = recalled(tmp_path, "some-model", _registry("1"))["c"]
    assert [(r["how"], r["compiled"]) for r in rows] == [("iree", True), ("xla", True)]


def test_a_changed_file_is_another_model(tmp_path: Path):
    file = tmp_path / "model.mlir"
    file.write_text("one")
    remember(tmp_path, str(file), "decode", _verdicts("1"))
    assert recalled(tmp_path, str(file), _registry("1"))
    file.write_text("another")
    assert recalled(tmp_path, str(file), _registry("1")) == {}
