"""In the child: load the builder's file, walk through its stages, send the row back."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anychip.zoo.lists import Entry
from anychip.zoo.row import Row

_ERROR_CHARACTERS, _FRAMES = 1500, 6
_INSTALLED = re.compile(r"[^\s\"']*/site-packages/")
"""Where a machine keeps its packages; a report says the file inside the package."""


def work(entry: Entry, targets: tuple[str, ...], pipe: Any, log: Path) -> None:
    """Fill a Row for the entry; what is printed meanwhile goes to `log`."""
    os.setsid()
    _print_to(log)
    started = time.monotonic()
    row = Row(entry.key, limit=entry.limit)
    try:
        for stage in _builder(entry.builder)(entry, targets, row):
            row.stage = stage
        _check(row, targets)
    except BaseException as error:  # a child reports whatever happened to it
        told = _INSTALLED.sub("", str(error))[:_ERROR_CHARACTERS]
        row.error = f"{type(error).__name__}: {told}"
        row.traceback = "".join(traceback.format_exception(error)[-_FRAMES:])
        print(row.traceback, file=sys.stderr, flush=True)
    row.seconds = round(time.monotonic() - started, 1)
    pipe.send(row)
    pipe.close()


def _check(row: Row, targets: tuple[str, ...]) -> None:
    """A builder that skips a target has not passed it."""
    for target in targets:
        assert row.targets.get(target, {}).get("matched"), f"{target} was not compared"


def _builder(path: Path) -> Any:
    """`stages(entry, targets, row)` of the file, which names each stage before it begins."""
    name = f"anychip_zoo_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    stages: Iterator[str] = module.stages
    return stages


def _print_to(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)
