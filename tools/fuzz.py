"""Damaged model files: each loads or ends in an error of ours, within 10 s of work and 2 GiB.

    python tools/fuzz.py [--count 10000] [--formats onnx gguf …] [--case gguf:17] [--json FILE]

Files are read in children, 200 at a time; a child that dies, hangs or grows is a finding, and the
next one goes on behind it. Work is processor time, so that a busy machine makes no finding; one
that waits for a minute hangs too. Cases are seeded by their number: a finding can be had again.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from fuzz_formats import FORMATS, HANG_S, SHARES

BATCH = 200
WAIT_S = 6 * HANG_S
START_S = 180.0  # for a child to import its frameworks on a busy machine
MOST_BYTES = 2 << 30


def main() -> int:
    options = _options()
    report: dict[str, Any] = {"date": date.today().isoformat(), "formats": {}, "findings": []}
    with tempfile.TemporaryDirectory(prefix="anychip-fuzz-") as folder:
        for name in options.formats:
            first, count = options.start, max(options.count * SHARES[name] // options.share, 1)
            if options.case:
                first, count = int(options.case.split(":")[1]), 1
            began, outcomes = time.monotonic(), Counter[str]()
            for number, outcome in cases(name, Path(folder) / name, first, first + count):
                outcomes["finding" if _is_finding(outcome) else outcome] += 1
                if _is_finding(outcome):
                    report["findings"].append({"case": f"{name}:{number}", "outcome": outcome})
                    print(f"{name}:{number}: {outcome}", flush=True)
            seconds = round(time.monotonic() - began, 1)
            report["formats"][name] = {"cases": count, **outcomes, "seconds": seconds}
            print(f"{name}: {count} cases, {dict(outcomes)}, {seconds} s", flush=True)
    report["cases"] = sum(one["cases"] for one in report["formats"].values())
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if report["findings"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10000, help="cases over all formats")
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--formats", nargs="+", choices=sorted(FORMATS), default=list(FORMATS))
    parser.add_argument("--case", default="", help="one case, such as gguf:17")
    parser.add_argument("--json", type=Path, help="write the outcome here")
    options = parser.parse_args()
    if options.case:
        options.formats = [options.case.split(":")[0]]
    options.share = sum(SHARES[name] for name in options.formats)
    return options


def _is_finding(outcome: str) -> bool:
    return " " in outcome  # "escaped …", "died …", "took …"


def cases(name: str, folder: Path, start: int, stop: int) -> Iterator[tuple[int, str]]:
    """(number, outcome) of each case; good models are made first, in a child too."""
    folder.mkdir(parents=True)
    make = (
        "import json, sys; from pathlib import Path; from fuzz_formats import FORMATS\n"
        "folder = Path(sys.argv[2]); good = FORMATS[sys.argv[1]].make(folder)\n"
        "(folder / 'good.json').write_text(json.dumps([str(p) for p in good]))\n"
    )
    subprocess.run([sys.executable, "-c", make, name, str(folder)], env=_environment(), check=True)
    while start < stop:
        end = min(start + BATCH, stop)
        for number, outcome in _batch(name, folder, start, end):
            yield number, outcome
            start = number + 1
    shutil.rmtree(folder)


def _environment() -> dict[str, str]:
    quiet = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, **quiet, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}


def _batch(name: str, folder: Path, start: int, stop: int) -> Iterator[tuple[int, str]]:
    """The cases one child reads, up to the one that ends it."""
    script = Path(__file__).with_name("fuzz_formats.py")
    child = subprocess.Popen(
        [sys.executable, str(script), name, str(folder), str(start), str(stop)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        start_new_session=True,
    )
    assert child.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_pump, args=(child.stdout, lines), daemon=True).start()
    current, since, limit_s, worked_s = start, time.monotonic(), START_S, 0.0
    try:
        while True:
            try:
                line = lines.get(timeout=0.05)
            except queue.Empty:
                if time.monotonic() - since > limit_s:
                    yield current, f"took more than {limit_s:g} s"
                    return
                if limit_s == WAIT_S and _worked_s(child.pid) - worked_s > HANG_S:
                    yield current, f"worked for more than {HANG_S:g} s"
                    return
                if (used := _resident_bytes(child.pid)) > MOST_BYTES:
                    yield current, f"took {used >> 20} MiB"
                    return
                continue
            if line is None:
                if child.wait() != 0:
                    said = child.stderr.read()[-300:] if child.stderr else ""
                    yield current, f"died with {child.returncode} {said}"
                return
            told = json.loads(line)
            since, limit_s, worked_s = time.monotonic(), WAIT_S, _worked_s(child.pid)
            if "start" in told:
                current = told["start"]
            else:
                yield told["end"], told["outcome"]
                current = told["end"] + 1
    finally:
        if child.poll() is None:
            os.killpg(child.pid, 9)
        child.wait()


def _pump(source: Any, lines: queue.Queue[str | None]) -> None:
    for line in source:
        lines.put(line)
    lines.put(None)


def _resident_bytes(pid: int) -> int:
    """Of a process and all it started; 0 for one that has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = [int(line.split()[1]) << 10 for line in status.splitlines() if line[:6] == "VmRSS:"]
    return sum(own) + sum(_resident_bytes(child) for child in _children(pid))


def _worked_s(pid: int) -> float:
    """Processor time of a process and of all it started, ended ones too (proc(5), fields 14-17)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(_worked_s(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    try:
        threads = [p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(p) for text in threads for p in text.split()]


if __name__ == "__main__":
    sys.exit(main())
