"""The zoo: lists, children with limits, going on after a stop, and the report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anychip.core import AnychipError
from anychip.zoo import read_lists, shard

BUILDER = """
import os, time

def stages(entry, targets, row):
    row.frontend = "planted"
    does = entry.values["does"]
    yield "import"
    if does == "dies":
        os.abort()
    if does == "hangs":
        time.sleep(60)
    if does == "eats":
        held = bytearray(os.urandom(1)) * (700 << 20)
        time.sleep(60)
    if does == "refuses":
        raise ValueError("no such op | at /home/me/site-packages/net/a.py:3\\nmore")
    row.imported = row.lowered = True
    if does == "skips":
        return
    for target in targets:
        yield f"compile for {target}"
        row.compiled(target)
        yield f"run on {target}"
        row.judge(target, {"is wrong": 0.5, "is broken": float("inf")}.get(does, 1e-6))
"""
KINDS = ("works", "refuses", "is wrong", "is broken", "skips", "dies", "hangs", "eats")


def planted(folder: Path, models: str, name: str = "planted") -> Path:
    (folder / "builder.py").write_text(BUILDER)
    path = folder / f"{name}.toml"
    path.write_text(f'builder = "builder.py"\nabout = "made up"\nmodels = [{models}]\n')
    return path


def anychip(folder: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", "from anychip.cli import main; main()", "zoo", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "ANYCHIP_RUNS": str(folder / "runs")},
    )
    return done.returncode, done.stdout, done.stderr


def test_every_way_to_fail_is_a_row_and_a_second_run_goes_on(tmp_path):
    rows = [f'{{ name = "m{i}", does = "{kind}" }}' for i, kind in enumerate(KINDS)]
    rows.append('{ name = "known", does = "refuses", limit = "its op has no meaning" }')
    rows.append('{ name = "stale", does = "works", limit = "it never worked" }')
    planted(tmp_path, ", ".join(rows))
    common = ("planted", "--lists", ".", "--folder", "out", "-f", "json")
    limits = ("--timeout", "8", "--memory", "0.5", "--jobs", "2")
    code, out, log = anychip(tmp_path, *common, *limits, "--shard", "1/1")
    assert code == 1, log
    document = json.loads(out)
    found = {r["model"].split("/")[1]: r for r in document["results"]}
    errors = {kind: found[f"m{i}"]["error"] for i, kind in enumerate(KINDS)}
    assert errors["works"] is None
    assert found["m0"]["targets"]["cpu:xla"] == {
        "compiled": True,
        "matched": True,
        "max_rel_err": 1e-6,
    }
    assert errors["refuses"] == "ValueError: no such op | at net/a.py:3\nmore"
    assert found["m1"]["stage"] == "import"
    assert "0.5" in errors["is wrong"]
    assert found["m3"]["targets"]["cpu:xla"]["max_rel_err"] is None
    assert "cpu:xla was not compared" in errors["skips"]
    assert errors["dies"] == "the process died: SIGABRT"
    assert errors["hangs"] == "took longer than 8 s"
    assert "of memory, 512 are allowed" in errors["eats"]
    assert found["known"]["limit"] == "its op has no meaning"
    assert "passes, although its list says: it never worked" in found["stale"]["error"]
    assert document["summary"][0] == {
        "list": "planted",
        "about": "made up",
        "listed": 10,
        "models": 10,
        "passed": 1,
        "explained": 1,
        "max_rel_err": 1e-6,
    }
    report = (tmp_path / "out/zoo.md").read_text()
    assert "| planted | made up | 10 | 10 | 1 | 10.0% | 1.0e-06 |" in report
    assert "| planted/m1 | import | ValueError: no such op / at net/a.py:3<br>more | – |" in report
    assert "| planted/m0 | planted | yes | yes | cpu:xla | yes | yes | 1.0e-06 |" in report
    assert "Every model" not in (tmp_path / "out/summary.md").read_text()
    assert "ValueError" in (tmp_path / "out/logs/planted-m1.txt").read_text()
    assert not (tmp_path / "out/logs/planted-m0.txt").exists()

    before = (tmp_path / "out/results.jsonl").read_text()
    assert anychip(tmp_path, *common)[0] == 1
    assert (tmp_path / "out/results.jsonl").read_text() == before  # nothing ran again
    (tmp_path / "planted.toml").write_text(
        (tmp_path / "planted.toml").read_text().replace("is wrong", "works")
    )
    code, out, _ = anychip(tmp_path, *common, "--retry", "--only", "m2", "--only", "m0")
    assert code == 0
    assert [r["error"] for r in json.loads(out)["results"]] == [None, None]
    assert (tmp_path / "out/results.jsonl").read_text().count("\n") == before.count("\n") + 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_whoever_ends_the_zoo_ends_its_children_and_keeps_what_is_done(tmp_path, number):
    planted(tmp_path, '{ name = "quick", does = "works" }, { name = "slow", does = "hangs" }')
    builder = (tmp_path / "builder.py").read_text()
    note = 'open("pid.tmp", "w").write(str(os.getpid())); os.rename("pid.tmp", "pid")'
    (tmp_path / "builder.py").write_text(
        builder.replace("        time.sleep(60)\n", f"        {note}\n        time.sleep(60)\n", 1)
    )
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from anychip.cli import main; main()"  # a shell's background jobs ignore interrupts
    )
    command = [sys.executable, "-c", program, "zoo", "./planted.toml", "--folder", "out"]
    piped = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **piped) as zoo:
        until(lambda: (tmp_path / "pid").exists())
        child = int((tmp_path / "pid").read_text())
        zoo.send_signal(number)
        _, told = zoo.communicate(timeout=60)
        assert zoo.returncode != 0
    assert "stopped with 1 of 2 models to go; --folder out goes on" in told
    until(lambda: not Path(f"/proc/{child}").exists())
    (line,) = (tmp_path / "out/results.jsonl").read_text().splitlines()
    assert json.loads(line)["model"] == "planted/quick"


def until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("waited for a minute in vain")


def test_known_limits_alone_are_a_yes(tmp_path):
    planted(tmp_path, '{ name = "known", does = "refuses", limit = "its op has no meaning" }')
    code, out, _ = anychip(tmp_path, "./planted.toml")
    assert code == 0
    assert "its op has no meaning" in out


def test_what_only_compiles_cannot_be_in_the_zoo(tmp_path):
    planted(tmp_path, '{ name = "a", does = "works" }')
    code, _, log = anychip(tmp_path, "./planted.toml", "-t", "tpu-v5e:xla")
    assert code == 2
    assert "the zoo compares numbers" in log


def test_shards_are_all_of_it_once(tmp_path):
    path = planted(tmp_path, ", ".join(f'{{ name = "m{i}" }}' for i in range(10)))
    entries = read_lists([str(path)])
    parts = [shard(entries, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(e.key for part in parts for e in part) == sorted(e.key for e in entries)
    for wrong in ("0/3", "4/3", "1", "a/b", "1/0"):
        with pytest.raises(AnychipError, match="should be I/N"):
            shard(entries, wrong)


def test_an_entry_takes_the_values_of_another_list_but_not_its_limit(tmp_path):
    planted(tmp_path, '{ name = "a", size = 3, limit = "no" }', "base")
    planted(tmp_path, '{ of = "base", name = "a", more = 1 }', "other")
    (entry,) = read_lists(["other"], folder=tmp_path)
    assert dict(entry.values) == {"of": "base", "name": "a", "size": 3, "more": 1}
    assert entry.key == "other/a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = [", "not a readable list"),
        ("models = []", "no such builder file"),
        ('builder = "builder.py"\nmodels = 3', "needs models"),
        ('builder = "builder.py"\nmodels = [{ size = 3 }]', "needs models"),
        ('builder = "builder.py"\nmodel = []', "Did you mean 'models'"),
        ('builder = "builder.py"\nmodels = [{ name = "a" }, { name = "a" }]', "twice"),
        ('builder = "builder.py"\nmodels = [{ name = "a", of = "good" }]', "a is not in good.toml"),
    ],
)
def test_a_wrong_list_says_what_is_wrong(tmp_path, text, message):
    planted(tmp_path, '{ name = "b" }', "good")
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(AnychipError, match=message):
        read_lists(["wrong"], folder=tmp_path)


def test_unknown_names_are_refused(tmp_path):
    planted(tmp_path, '{ name = "b" }', "good")
    with pytest.raises(AnychipError, match="Did you mean 'good'"):
        read_lists(["goood"], folder=tmp_path)
    with pytest.raises(AnychipError, match="like 'c\\*'"):
        read_lists(["good"], folder=tmp_path, only=["c*"])
    with pytest.raises(AnychipError, match="no lists in"):
        read_lists([], folder=tmp_path / "none")


def test_a_model_is_chosen_by_the_name_the_report_gives_it(tmp_path):
    planted(tmp_path, '{ name = "a" }, { name = "b" }', "good")
    for pattern in ("b", "good/b", "*/b"):
        assert [e.key for e in read_lists(["good"], folder=tmp_path, only=[pattern])] == ["good/b"]


def test_the_projects_own_lists_are_whole():
    entries = read_lists([], folder=Path(__file__).parents[2] / "zoo")
    counts = {name: sum(e.list == name for e in entries) for name in {e.list for e in entries}}
    assert counts["timm"] >= 100
    assert counts["transformers"] >= 120
    assert counts["decode"] >= 40
    assert counts["compile"] >= 20
