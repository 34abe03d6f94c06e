"""The well-known models of `models/*.toml`: published shapes without weights, as LanguageModels.

Files are read strictly: unknown, missing and mistyped keys are errors that name file and field.
"""

from __future__ import annotations

import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from anychip.core.errors import InputError, UsageError, unknown
from anychip.core.language_model import LanguageModel
from anychip.frontends.llm.config import TransformerConfig
from anychip.frontends.llm.model import language_model
from anychip.frontends.llm.precision import PRECISIONS

FOLDER = Path(__file__).parent.parent.parent / "models"


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was published of a model. `source` starts with "recalled:" when it was written from
    memory of the named publication."""

    title: str
    licence: str
    precision: str  # the name of the PRECISIONS entry it was released in
    parameters: float  # as its publisher counts them
    parameters_source: str
    source: str  # of the shape
    shape: TransformerConfig
    active_parameters: float = 0.0  # 0: all of them


def names() -> tuple[str, ...]:
    """The catalogue's names, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml") if path.stem != "pull"))


def model(name: str, context: int = 0) -> LanguageModel:
    """A catalogue model, shape only; `context` lengthens that of the publication, as some serve it.

    Raises UsageError for an unknown name.
    """
    published = read(name)
    return language_model(
        replace(published.shape, context=max(published.shape.context, context)),
        name=name,
        source=published.source,
        native=PRECISIONS[published.precision],
        licence=published.licence,
    )


@cache
def read(name: str) -> Published:
    """One entry. Raises UsageError for an unknown name."""
    if name not in names():
        raise unknown("catalogue model", name, names())
    return read_file(FOLDER / f"{name}.toml")


def read_file(path: Path) -> Published:
    """One entry from its file. Raises InputError naming the file and the field."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid TOML: {error}", path=str(path)) from None
    published: Published = _build(Published, raw, str(path), "")
    if published.precision not in PRECISIONS:
        raise InputError(
            str(unknown("precision", published.precision, PRECISIONS)),
            path=str(path),
            field="precision",
        )
    return published


def _build(kind: Any, raw: Any, path: str, where: str) -> Any:
    """A frozen dataclass from a table."""
    if not isinstance(raw, dict):
        raise InputError(f"expected a table, got {raw!r}", path=path, field=where)
    hints = get_type_hints(kind)
    for key in raw:
        if key not in hints:
            problem = str(unknown("key", key, hints))
            raise InputError(problem, path=path, field=f"{where}.{key}".lstrip("."))
    values: dict[str, Any] = {}
    for field in fields(kind):
        at = f"{where}.{field.name}".lstrip(".")
        if field.name in raw:
            values[field.name] = _convert(hints[field.name], raw[field.name], path, at)
        elif field.default is MISSING:
            raise InputError("this key is missing", path=path, field=at)
    try:
        return kind(**values)
    except (InputError, UsageError) as error:
        raise InputError(str(error), path=path, field=where) from None


def _convert(kind: Any, raw: Any, path: str, at: str) -> Any:
    if get_origin(kind) in (Union, types.UnionType):  # only `X | None` occurs
        kind = next(one for one in get_args(kind) if one is not type(None))
    if is_dataclass(kind):
        return _build(kind, raw, path, at)
    if get_origin(kind) is Literal:
        if raw not in get_args(kind):
            problem = str(unknown(at.rpartition(".")[2], str(raw), get_args(kind)))
            raise InputError(problem, path=path, field=at)
        return raw
    if get_origin(kind) is tuple and isinstance(raw, list):
        return tuple(_convert(get_args(kind)[0], one, path, at) for one in raw)
    accepted: Mapping[Any, tuple[type, ...]] = {float: (float, int)}
    if type(raw) not in accepted.get(kind, (kind,)):
        expected = getattr(kind, "__name__", str(kind))
        raise InputError(f"expected {expected}, got {raw!r}", path=path, field=at)
    return float(raw) if kind is float else raw
