"""Zoo lists: TOML files of models, each list with the builder file that makes its models.

    builder = "builders/zoo_torch.py"    # beside the list; defines stages(entry, targets, row)
    preload = ["zoo_preload"]            # modules the children are forked with, optional
    about = "at 64 pixels"               # a line for the report, optional
    models = [{ name = "resnet18", size = 64 }, { name = "odd", limit = "why it cannot pass" }]

An entry may take its values from the entry of the same name in another list: `of = "timm"`.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anychip.core import InputError, UsageError, unknown

_KEYS = ("builder", "preload", "about", "models")


@dataclass(frozen=True)
class Entry:
    """One model of a list. `limit` says why it cannot pass; one that passes anyway is an error."""

    list: str
    name: str
    builder: Path
    preload: tuple[str, ...]
    values: Mapping[str, Any]
    about: str = ""

    @property
    def key(self) -> str:
        return f"{self.list}/{self.name}"

    @property
    def limit(self) -> str:
        return self.values.get("limit", "")


def read_lists(
    names: Sequence[str], *, folder: Path = Path("zoo"), only: Sequence[str] = ()
) -> list[Entry]:
    """The entries of these lists (names in `folder`, or paths of .toml files; none means all).

    `only` are patterns of model names, or of `list/name`. Raises UsageError for a name or pattern
    that fits nothing.
    """
    known = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    if not names and not known:
        raise UsageError(f"no lists in {folder}/; give the path of a list, or --lists FOLDER")
    paths: list[Path] = []
    for name in names or known:
        if name not in known and not name.endswith(".toml"):
            raise unknown("list of models", name, known)
        paths.append(known.get(name, Path(name)))
    entries = [entry for path in paths for entry in _entries(path)]
    for pattern in only:
        if not any(_is_like(e, pattern) for e in entries):
            raise UsageError(f"no model of {', '.join(p.stem for p in paths)} is like {pattern!r}")
    return [e for e in entries if not only or any(_is_like(e, p) for p in only)]


def _is_like(entry: Entry, pattern: str) -> bool:
    """By its name, or as the report writes it: `keras/VGG19`."""
    return fnmatch.fnmatch(entry.name, pattern) or fnmatch.fnmatch(entry.key, pattern)


def shard(entries: Sequence[Entry], text: str) -> list[Entry]:
    """Part `I/N` of the entries, dealt in turn: the N parts are disjoint and together all."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--shard {text!r} should be I/N with I from 1 to N, such as 2/8")
    return list(entries[int(part) - 1 :: int(parts)])


def _entries(path: Path) -> list[Entry]:
    content = _content(path)
    if unexpected := sorted(set(content) - set(_KEYS)):
        raise unknown("key of a zoo list", unexpected[0], _KEYS)
    builder = path.parent / str(content.get("builder", ""))
    if not builder.is_file():
        raise InputError(f"no such builder file: {builder}", path=str(path), field="builder")
    found: list[Entry] = []
    for row in _models(content, path):
        base = _base(row, path)
        values = {**base, **row}
        preload = tuple(content.get("preload", ()))
        about = str(content.get("about", ""))
        found.append(Entry(path.stem, row["name"], builder.resolve(), preload, values, about))
    names = [e.name for e in found]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise InputError(f"{', '.join(twice)} stand here twice", path=str(path), field="models")
    return found


def _content(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"not a readable list of models: {error}", path=str(path)) from None


def _models(content: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    models = content.get("models")
    if not isinstance(models, list) or not all(isinstance(m, dict) and "name" in m for m in models):
        raise InputError("needs models = [{ name = … }, …]", path=str(path), field="models")
    return models


def _base(row: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if "of" not in row:
        return {}
    other = path.parent / f"{row['of']}.toml"
    found = [m for m in _models(_content(other), other) if m["name"] == row["name"]]
    if not found:
        raise InputError(f"{row['name']} is not in {other.name}", path=str(path), field="of")
    return {key: value for key, value in found[0].items() if key != "limit"}
