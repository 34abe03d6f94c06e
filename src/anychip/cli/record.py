"""What real compilers have said of a model before: written by `compile`, shown by `compare`.

A record is of one model (its file as it was, or its catalogue name) and holds only what was run
here; an entry whose compiler has another version by now is not shown. Twins are no compilers, and
are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from anychip.cli.verdicts import Verdict
from anychip.compilers.cache import locked_file
from anychip.core import AnychipError, Registry, write_atomically


def remember(home: Path, model: str, module: str, verdicts: Iterable[Verdict]) -> None:
    """Add these verdicts to the model's record, in place of older ones of the same targets."""
    said = {
        v.target: {
            "module": module,
            "compiled": v.compiled,
            "matched": v.matched,
            "error": v.error,
            "toolchain": v.toolchain,
            "date": datetime.now().isoformat(timespec="seconds"),
        }
        for v in verdicts
        if v.state in ("ok", "refused") and not v.target.endswith(":twin")
    }
    if not said:
        return
    path = _path(home, model)
    with locked_file(path.with_suffix(".lock"), 60.0, "writing the record of this model"):
        write_atomically(path, json.dumps({**_read(path), **said}, indent=1))


def recalled(home: Path, model: str, registry: Registry) -> dict[str, list[dict[str, Any]]]:
    """Chip → what its compilers said, as far as they are still of the same version."""
    found: dict[str, list[dict[str, Any]]] = {}
    for target, said in sorted(_read(_path(home, model)).items()):
        chip, _, how = target.partition(":")
        try:
            version = registry.target(target).toolchain
        except AnychipError:  # the chip or the compiler is not installed any more
            continue
        if version == said["toolchain"]:
            found.setdefault(chip, []).append({"how": how, **said})
    return found


def _path(home: Path, model: str) -> Path:
    """A model on disk is told by its place, size and time; any other by its name."""
    file = Path(model)
    identity = model
    if file.exists():
        stat = file.stat()
        identity = f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    return home / "verdicts" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
