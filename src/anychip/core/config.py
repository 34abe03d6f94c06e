"""Every setting, declared once. Library code takes arguments; only the CLI reads these."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anychip.core.errors import UsageError, unknown


@dataclass(frozen=True)
class Knob:
    """One environment variable: name without the `ANYCHIP_` prefix, parser, default, help."""

    name: str
    parse: Callable[[str], Any]
    default: Any
    help: str

    @property
    def variable(self) -> str:
        return f"ANYCHIP_{self.name.upper()}"


def _directory(text: str) -> Path:
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError("it is a file, not a directory")
    return path


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("it must be at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise ValueError("it must be more than 0")
    return value


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError("it must be yes or no")
    return text == "yes"


def size_in_bytes(text: str) -> int:
    """A size such as 500M or 4G (powers of 1024), or plain bytes."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    number = text.strip().upper().removesuffix("B")
    factor = units.get(number[-1:], 1)
    value = float(number[:-1] if factor > 1 else number) * factor
    if not 0 <= value < float("inf"):
        raise ValueError("it must be a size of at least 0, such as 500M or 4G")
    return int(value)


KNOBS: tuple[Knob, ...] = (
    Knob("home", _directory, Path("~/.cache/anychip").expanduser(), "pulled models and caches"),
    Knob("runs", _directory, Path("runs"), "where run folders are written"),
    Knob("threads", _positive_int, None, "CPU threads to use; default: all the process may use"),
    Knob("child_timeout", _seconds, 300.0, "seconds a toolchain in a child process may take"),
    Knob(
        "cache_bytes",
        size_in_bytes,
        4 << 30,
        "most bytes each compiler's cache may take, such as 4G",
    ),
    Knob("huge_pages", _yes_or_no, True, "ask the system for huge pages on this host (yes, no)"),
    Knob("stablehlo_testdata", _directory, None, "folder of upstream StableHLO conformance files"),
)


def read(name: str, environ: Mapping[str, str] = os.environ) -> Any:
    """The value of one knob.

    Raises UsageError, naming the variable, when its text does not parse.
    """
    by_name = {knob.name: knob for knob in KNOBS}
    if name not in by_name:
        raise unknown("setting", name, by_name)
    knob = by_name[name]
    text = environ.get(knob.variable)
    if text is None:
        return knob.default
    try:
        return knob.parse(text)
    except ValueError as error:
        raise UsageError(f"{knob.variable}={text!r} is not usable: {error} ({knob.help})") from None


def check_environment(environ: Mapping[str, str] = os.environ) -> None:
    """Raise UsageError for an `ANYCHIP_…` variable nobody declared, or one that does not parse."""
    declared = {knob.variable for knob in KNOBS}
    for variable in environ:
        if variable.startswith("ANYCHIP_") and variable not in declared:
            raise unknown("setting", variable, declared)
    for knob in KNOBS:
        read(knob.name, environ)
