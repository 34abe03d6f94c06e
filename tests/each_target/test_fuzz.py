"""A seeded slice of `make fuzz`: damaged files load or end in an error of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "fuzz.py"


@pytest.mark.parametrize(("format", "count"), [("onnx", 60), ("gguf", 60), ("stablehlo", 12)])
def test_damaged_files_load_or_end_in_our_error(format: str, count: int, tmp_path: Path):
    report = tmp_path / "report.json"
    command = [sys.executable, str(TOOL), "--formats", format, "--count", str(count)]
    done = subprocess.run(
        [*command, "--json", str(report)], capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())["formats"][format]
    assert found["cases"] == count
    assert found.get("InputError", 0) > count / 6
    assert found.get("finding", 0) == 0
