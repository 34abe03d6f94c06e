"""Run folders: one folder a command, holding what it was asked, what it found and what it made."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from anychip.core.files import write_atomically


@dataclass(frozen=True)
class RunFolder:
    """A folder `runs/<time>-<verb>-<subject>/`; made when the first file is written."""

    path: Path

    @staticmethod
    def new(root: Path, verb: str, subject: str, now: datetime) -> RunFolder:
        """A folder name that does not exist yet."""
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", subject).strip("-")[:60]
        stem = f"{now:%Y%m%d-%H%M%S}-{verb}-{slug}"
        serial, path = 1, root / stem
        while path.exists():
            serial += 1
            path = root / f"{stem}-{serial}"
        return RunFolder(path)

    def write(self, name: str, content: str | bytes | object) -> Path:
        """Write text or bytes as they are and anything else as JSON; returns the file's path."""
        if not isinstance(content, str | bytes):
            content = json.dumps(content, indent=1, default=str)
        path = self.path / name
        write_atomically(path, content)
        return path
