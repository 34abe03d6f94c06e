"""Asking many targets: one verdict each, in order, whatever they do."""

from __future__ import annotations

import errno
import signal
import threading
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from anychip.cli import app
from anychip.cli.asking import Limit, ask, interruptible
from anychip.cli.model import Loaded
from anychip.cli.verdicts import Inquiry
from anychip.core import (
    Chip,
    CompileError,
    CompileOptions,
    Coverage,
    Module,
    OpCoverage,
    Registry,
    RunFolder,
    SetupError,
    UnsupportedError,
    UsageError,
)
from anychip.core.child import run_module

TEXT = """
module @one { func.func public @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.tanh %x : tensor<4xf32> return %0 : tensor<4xf32> } }
"""


FOREVER = {"timeout_s": 50.0, "what": "a compile without end"}


class Made:
    def __init__(self, module: Module):
        self.signature = module.signature
        self.artifacts = {"stablehlo": module.text(), "code": b"\x7fELF"}
        self.coverage = Coverage((OpCoverage(op="stablehlo.tanh", fate="native"),))

    def run(self, *inputs):
        raise UnsupportedError("not here")

    trace = run


class Fake:
    """A compiler that does what its name says."""

    runs, toolchain = False, "fake 1"

    def __init__(self, name: str):
        self.name = name

    def compile(self, module: Module, options: CompileOptions) -> Made:
        how = self.name.split(":")[1]
        errors = {
            "no": CompileError("the compiler says no", log="line 1\nline 2"),
            "missing": SetupError("needs a package"),
            "usage": UsageError("takes fixed shapes"),
            "bug": KeyError("nothing"),
            "full": OSError(errno.ENOSPC, "No space left on device"),
        }
        if how == "child":
            run_module("timeit", ["-n1", "-r1", "import time; time.sleep(50)"], **FOREVER)
        if how in errors:
            raise errors[how]
        return Made(module)


def _registry(*hows: str, absent: dict[str, str] | None = None) -> Registry:
    def spec():
        raise AssertionError("a verdict needs no figures")

    targets = {how: (lambda chip, how=how: Fake(f"c:{how}")) for how in hows}
    chip = Chip(spec, targets, absent or {}, name="c")
    return Registry({"c": lambda: chip}, {"c": "test 1"})


def _inquiry(tmp_path: Path, registry: Registry, *, asks_all: bool = True) -> Inquiry:
    return Inquiry(
        loaded=Loaded(Module.from_mlir(TEXT), {}),
        registry=registry,
        folder=RunFolder.new(tmp_path, "compile", "one", datetime(2026, 1, 1)),
        options=CompileOptions(),
        compile=lambda target, module, options: target.compile(module, options),
        asks_all=asks_all,
    )


def _asked(inquiry: Inquiry, *names: str):
    return ask(inquiry, names, lambda name, verdict: None).verdicts


def test_every_target_gets_one_verdict_in_order_and_failures_stay_apart(tmp_path):
    hows = ("a", "missing", "no", "usage", "z")
    registry = _registry(*hows, absent={"sdk": "behind a login; the twin stands in"})
    names = [*(f"c:{how}" for how in hows), "c:sdk"]
    told: list[tuple[str, bool]] = []
    asked = ask(
        _inquiry(tmp_path, registry),
        names,
        lambda n, verdict: told.append((n, verdict is not None)),
    )
    assert not asked.cut_short
    verdicts = asked.verdicts
    assert [v.target for v in verdicts] == names
    assert [v.state for v in verdicts] == ["ok", "missing", "refused", "refused", "ok", "absent"]
    assert [v.is_no for v in verdicts] == [False, False, True, True, False, False]
    assert sorted(name for name, is_done in told if is_done) == sorted(names)
    assert "behind a login" in (verdicts[5].error or "")


def test_a_refusal_keeps_its_log_and_equal_stages_are_written_once(tmp_path):
    verdicts = _asked(_inquiry(tmp_path, _registry("a", "no", "z")), "c:a", "c:no", "c:z")
    (log,) = verdicts[1].artifacts
    assert Path(log).read_text() == "line 1\nline 2"
    assert verdicts[0].artifacts == verdicts[2].artifacts
    assert all(Path(path).is_file() for path in verdicts[0].artifacts)


def test_two_compilers_at_once_leave_an_equal_stage_once(tmp_path, monkeypatch):
    write = RunFolder.write

    def slow(self, name, content):
        if name.endswith("code"):
            time.sleep(0.2)
        return write(self, name, content)

    monkeypatch.setattr(RunFolder, "write", slow)
    one, other = _asked(_inquiry(tmp_path, _registry("a", "z")), "c:a", "c:z")
    assert one.artifacts == other.artifacts


def test_asked_by_name_a_wrong_use_is_an_error(tmp_path):
    inquiry = _inquiry(tmp_path, _registry("usage"), asks_all=False)
    with pytest.raises(UsageError, match="fixed shapes"):
        _asked(inquiry, "c:usage")


def test_a_bug_in_one_target_is_its_verdict_and_not_the_end_of_the_others(tmp_path):
    registry = _registry("a", "bug", "z")
    found = _asked(_inquiry(tmp_path, registry), "c:a", "c:bug", "c:z")
    assert [one.state for one in found] == ["ok", "refused", "ok"]
    assert "a bug in anychip: KeyError" in found[1].error
    assert "Traceback" in Path(found[1].artifacts[0]).read_text()
    with pytest.raises(KeyError):  # asked by name it is raised, with its traceback
        _asked(_inquiry(tmp_path, registry, asks_all=False), "c:bug")


def test_a_full_disk_is_no_bug_and_says_what_to_do(tmp_path, monkeypatch, capsys):
    verdicts = _asked(_inquiry(tmp_path, _registry("a", "full")), "c:a", "c:full")
    assert [one.state for one in verdicts] == ["ok", "refused"]
    assert "No space left on device. Free some space" in (verdicts[1].error or "")

    def application(words):
        def verb():
            _asked(_inquiry(tmp_path, _registry("full"), asks_all=False), "c:full")

        return verb

    monkeypatch.setattr(app, "application", application)
    monkeypatch.setattr("sys.argv", ["anychip", "compile"])
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # as main sets them
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    with pytest.raises(SystemExit) as left:
        app.main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "ANYCHIP_HOME to another disk" in said
    assert "bug" not in said


def test_what_a_run_changes_of_the_artifacts_is_kept_too(tmp_path):
    class Learns(Made):
        def run(self, *inputs):
            self.artifacts = {**self.artifacts, "evidence": "chosen"}
            return [np.tanh(inputs[0])]

    class Target(Fake):
        runs = True

        def compile(self, module: Module, options: CompileOptions) -> Made:
            made = Learns(module)
            made.artifacts = {**made.artifacts, "evidence": "undecided"}
            return made

    chip = Chip(lambda: None, {"a": lambda chip: Target("c:a")}, {}, name="c")  # type: ignore
    registry = Registry({"c": lambda: chip}, {"c": "test 1"})
    (verdict,) = _asked(_inquiry(tmp_path, registry), "c:a")
    assert verdict.matched
    kept = {Path(path).name: Path(path) for path in verdict.artifacts}
    assert kept["evidence"].read_text() == "undecided"
    assert kept["evidence-after-run"].read_text() == "chosen"
    assert sorted(kept) == ["code", "evidence", "evidence-after-run", "stablehlo"]


def test_after_a_time_limit_what_was_reached_counts_and_children_end(tmp_path):
    inquiry = _inquiry(tmp_path, _registry("a", "child", "z"))
    limit = Limit(seconds=1.0, start_s=time.perf_counter())
    asked = ask(inquiry, ["c:a", "c:child", "c:z"], lambda name, verdict: None, limit=limit)
    assert [v.state for v in asked.verdicts] == ["ok", "unasked", "ok"]
    assert "not finished: time limit of 1 s" in (asked.verdicts[1].error or "")
    assert asked.cut_short == "time limit of 1 s"
    assert not asked.is_working  # the thread has seen its child's end


def test_interrupted_the_rest_is_marked_as_not_asked(tmp_path):
    def tell(name, verdict):
        if name == "c:child":  # its work begins
            signal.raise_signal(signal.SIGTERM)

    inquiry = _inquiry(tmp_path, _registry("a", "child", "z"))
    with interruptible():
        asked = ask(inquiry, ["c:a", "c:child", "c:z"], tell, workers=1)
    assert [v.state for v in asked.verdicts] == ["ok", "unasked", "unasked"]
    assert asked.verdicts[2].error == "not asked: interrupted by SIGTERM"
    assert not any(v.is_no for v in asked.verdicts)


def test_work_in_this_process_does_not_hold_up_the_answer(tmp_path):
    held = threading.Event()

    class Endless(Fake):
        runs = True

        def compile(self, module: Module, options: CompileOptions) -> Made:
            held.wait(30)
            return Made(module)

    chip = Chip(lambda: None, {"a": lambda chip: Endless("c:a")}, {}, name="c")  # type: ignore
    registry = Registry({"c": lambda: chip}, {"c": "test 1"})
    limit = Limit(seconds=0.2, start_s=time.perf_counter())
    asked = ask(_inquiry(tmp_path, registry), ["c:a"], lambda name, verdict: None, limit=limit)
    held.set()
    assert asked.is_working
    assert asked.verdicts[0].state == "unasked"


def test_a_program_the_reference_cannot_read_has_a_verdict_all_the_same(tmp_path, monkeypatch):
    class Runs(Made):
        def run(self, *inputs):
            return [np.tanh(inputs[0])]

    class Target(Fake):
        runs = True

        def compile(self, module: Module, options: CompileOptions) -> Made:
            return Runs(module)

    def no_meaning(module, inputs):
        raise UnsupportedError("custom call @x has no portable meaning")

    monkeypatch.setattr("anychip.cli.verdicts.reference", no_meaning)
    chip = Chip(lambda: None, {"a": lambda chip: Target("c:a")}, {}, name="c")  # type: ignore
    registry = Registry({"c": lambda: chip}, {"c": "test 1"})
    (verdict,) = _asked(_inquiry(tmp_path, registry), "c:a")
    assert (verdict.compiled, verdict.ran, verdict.matched) == (True, True, None)
    assert "not compared: custom call @x" in (verdict.error or "")
