"""docs/tour.py is true: it runs, and says what it claims to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOUR = Path(__file__).parents[2] / "docs" / "tour.py"


def test_the_tour_runs_and_finds_paris(smollm2):
    done = subprocess.run(
        [sys.executable, str(TOUR)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "The capital of France is Paris" in done.stdout
    assert "simulated, not measured" in done.stdout
    assert "per million tokens" in done.stdout
