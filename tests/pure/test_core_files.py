"""core/files.py and core/runs.py: readers never see half a file; runs get folders of their own."""

import hashlib
import json
import os
from datetime import datetime

import pytest

from anychip.core import RunFolder, sha256, write_atomically

NOW = datetime(2026, 5, 2, 13, 4, 5)


@pytest.mark.parametrize("content", ["text with ü", b"\x00bytes", ""])
def test_content_arrives_whole_and_folders_are_made(tmp_path, content):
    path = tmp_path / "a" / "b" / "c.txt"
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["replace", "chmod", "fdopen"])
def test_failure_midway_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "c.txt"
    write_atomically(path, "old")

    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupt_midway_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.txt"
    write_atomically(path, "old")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_has_the_permissions_others_would_get(tmp_path):
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.write_text("x")
    write_atomically(ours, "x")
    assert ours.stat().st_mode == plain.stat().st_mode


def test_digest_is_that_of_the_whole_file(tmp_path):
    content = bytes(range(256)) * 8193  # more than two of its pieces
    path = tmp_path / "x"
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()


def test_run_folder_is_named_by_time_verb_and_subject_and_made_when_written(tmp_path):
    run = RunFolder.new(tmp_path, "compare", "my models/Llama 3.1: 70B!", NOW)
    assert run.path == tmp_path / "20260502-130405-compare-my-models-Llama-3.1-70B"
    assert not run.path.exists()
    run.write("note.txt", "hello")
    assert (run.path / "note.txt").read_text() == "hello"


def test_second_run_in_one_second_gets_its_own_folder(tmp_path):
    names = []
    for _ in range(3):
        run = RunFolder.new(tmp_path, "run", "m", NOW)
        run.write("x", "x")
        names.append(run.path.name)
    assert names == ["20260502-130405-run-m", "20260502-130405-run-m-2", "20260502-130405-run-m-3"]


def test_text_and_bytes_are_kept_and_the_rest_is_json(tmp_path):
    run = RunFolder.new(tmp_path, "run", "m", NOW)
    assert run.write("a.bin", b"\x00").read_bytes() == b"\x00"
    assert json.loads(run.write("a.json", {"rows": [1, None]}).read_text()) == {"rows": [1, None]}
