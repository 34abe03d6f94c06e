"""Every error anychip raises on purpose, and the one place where unknown names are explained.

AnychipError
├── UsageError        the call, option or name is wrong                      exit 2
│   └── InputError    a file is broken, truncated or not what it claims      exit 2
├── SetupError        an extra, toolchain or device is missing here          exit 2
├── PluginError       an installed chip package is broken or doubled         exit 2
├── UnsupportedError  the model needs something the target does not have     exit 1
└── CompileError      a real compiler refused or died; carries its log       exit 1
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anychip.core.target import OpCoverage


class AnychipError(Exception):
    """Base of the tree. The message says what failed, why, where, and what would work."""

    exit_code = 2


class UsageError(AnychipError):
    """The caller's arguments, options or names are wrong."""


class InputError(UsageError):
    """A file is corrupt, truncated, or not what it claims to be.

    `path` and `field` name the file and the place in it.
    """

    def __init__(self, message: str, *, path: str = "", field: str = ""):
        self.path, self.field = path, field
        where = ", ".join(part for part in (path, field) if part)
        super().__init__(f"{where}: {message}" if where else message)


class SetupError(AnychipError):
    """This machine lacks an extra, a toolchain or a device the call needs."""


class PluginError(AnychipError):
    """An installed chip or frontend package is broken, or two claim the same name."""


class UnsupportedError(AnychipError):
    """The target or frontend cannot express what the model asks.

    `report` has one row per kind of op and place when the whole model was looked through: all that
    stands in the way, not the first only.
    """

    exit_code = 1

    def __init__(self, message: str, *, report: Iterable[OpCoverage] = ()):
        self.report = tuple(report)
        super().__init__(message)


class CompileError(AnychipError):
    """A real compiler said no, crashed or ran out of time; `log` is what it printed."""

    exit_code = 1

    def __init__(self, message: str, *, log: str = ""):
        self.log = log
        super().__init__(message)


def unknown(what: str, name: str, choices: Iterable[str]) -> UsageError:
    """The error for a name that is not among `choices`, with the nearest ones first."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return UsageError(f"no {what} named {name!r}.{hint} Known: {', '.join(known) or 'none'}.")


def missing_extra(package: str, extra: str, purpose: str) -> SetupError:
    """The error for an optional dependency that is not installed."""
    return SetupError(
        f"{purpose} needs the package {package!r}, which is not installed. "
        f"Install it with: pip install 'anychip[{extra}]'"
    )
