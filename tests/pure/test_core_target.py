"""core/target.py: target names, coverage ledgers, and the shape a Target must have."""

import pytest

from anychip.core import (
    CompileOptions,
    Coverage,
    OpCoverage,
    PluginError,
    Target,
    TargetName,
    UsageError,
)
from anychip.core.target import check_target


@pytest.mark.parametrize(
    ("text", "chip", "how"),
    [("cpu:xla", "cpu", "xla"), ("tpu-v5e", "tpu-v5e", ""), ("groq-lpu:twin", "groq-lpu", "twin")],
)
def test_target_name_reads_and_prints_alike(text, chip, how):
    assert TargetName.parse(text) == TargetName(chip, how)
    assert str(TargetName.parse(text)) == text


@pytest.mark.parametrize("text", ["", ":", ":xla", "cpu:", "cpu:xla:fast"])
def test_anything_else_is_no_target(text):
    with pytest.raises(UsageError, match="is not a target; write chip:how"):
        TargetName.parse(text)


LEDGER = Coverage(
    (
        OpCoverage(op="add", fate="native", count=5),
        OpCoverage(op="dot", fate="native", count=4),
        OpCoverage(op="sort", fate="fallback", count=2, falls_back_to="cpu"),
        OpCoverage(op="exp", fate="emulated", count=3),
        OpCoverage(op="fft", fate="unsupported", why="no complex numbers"),
    )
)


def test_ledger_counts_each_op_once():
    assert LEDGER.to_json() == {
        "total": 15,
        "native": 9,
        "emulated": 3,
        "fallback": 2,
        "unsupported": 1,
    }


def test_ledger_reads_as_one_line():
    expected = "15 ops: 9 native, 3 emulated, 2 fall back to cpu, 1 unsupported"
    assert LEDGER.summary() == expected
    assert Coverage(LEDGER.rows[:2]).summary() == "9 ops: 9 native"
    assert Coverage().summary() == "0 ops: 0 native"


class Toy:
    name, runs, toolchain = "toy:none", False, "toy 1"

    def compile(self, module, options):
        raise NotImplementedError


def test_anything_of_the_right_shape_is_a_target():
    toy = Toy()
    assert isinstance(toy, Target)
    assert check_target(toy, "toy") is toy


def test_missing_parts_are_named():
    with pytest.raises(PluginError, match=r"toy 1\.0: object is no Target; it lacks name, runs"):
        check_target(object(), "toy 1.0")


def test_options_start_empty():
    options = CompileOptions()
    assert (options.threads, dict(options.extra)) == (None, {})
