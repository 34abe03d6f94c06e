"""From a typed command to the first token: `anychip run` with everything, some or nothing kept.

    python bench/cold_start.py [--llama PYTHON] [--rounds N] [--json FILE]

Every start is a process of its own, timed from its creation to its end after one token, in turns:
  warm      packed weights and compiled steps are kept from an earlier run
  packed    packed weights are kept; steps are traced, planned, written and compiled
  first     nothing is kept but the model's file
  llama.cpp llama-cpp-python, same file, same prompt, one token
The model's file is in the page cache throughout, and Python keeps bytecode, as it does unless told
otherwise. `codegen` is what one decode step takes inside such a process, by part, without any
cache. A round takes some 15 s; each start is said on stderr as it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL, PROMPT = "smollm2-135m", "The capital of France is"
PEER = """
import sys, llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=64, n_threads=int(sys.argv[3]), verbose=False)
print(model.create_completion(sys.argv[2], max_tokens=1, temperature=0.0)["choices"][0]["text"])
print(llama_cpp.__version__, file=sys.stderr)
"""
CODEGEN = """
import json, sys, anychip
from anychip.compilers.native import NativeTarget
from anychip.core import CompileOptions, PagedShape
from anychip.frontends.llm import PRECISIONS
shape = PagedShape(tokens=1, rows=1, sequences=1, pages=5, page_tokens=16, table=4)
module = anychip.load(sys.argv[1]).step(shape, PRECISIONS["stored"])
print(NativeTarget().compile(module, CompileOptions()).artifacts["seconds"])
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama", help="Python with llama_cpp")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from anychip.core import machine_name, write_atomically
    from anychip.core.config import read
    from anychip.frontends.pull import pull

    model = pull(MODEL, read("home")).path
    with tempfile.TemporaryDirectory() as folder:
        report = measure(model, Path(folder), options)
    report["machine"] = machine_name()
    for name, seconds in report["starts"].items():
        low, high = min(seconds), max(seconds)
        print(f"{name:10} {statistics.median(seconds):6.2f} s ({low:.2f}–{high:.2f})")
    print("codegen    " + ", ".join(f"{k} {v:.0f} ms" for k, v in report["codegen_ms"].items()))
    if options.json:
        write_atomically(options.json, (json.dumps(report, indent=1) + "\n").encode())
    return 0


def measure(model: Path, home: Path, options: Any) -> dict[str, Any]:
    """Rounds of all starts, each in its own order of rotation."""
    (home / "models").mkdir()
    for file in model.parent.iterdir():
        (home / "models" / file.name).symlink_to(file)
    own = [sys.executable, "-m", "anychip", "run", MODEL, "--target", "cpu:native"]
    own += ["--prompt", PROMPT, "--max-new", "1"]
    threads = str(len(os.sched_getaffinity(0)))
    commands = {name: (own, lost) for name, lost in LOST.items()}
    if options.llama:
        peer = [options.llama, "-c", PEER, str(model), PROMPT, threads]
        commands["llama.cpp"] = (peer, ())
    starts: dict[str, list[float]] = {name: [] for name in commands}
    _start(own, home)
    names = [*commands]
    for turn in range(options.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            command, lost = commands[name]
            for folder in lost:
                shutil.rmtree(home / folder, ignore_errors=True)
            starts[name].append(_start(command, home))
            _say(f"round {turn + 1} of {options.rounds}: {name} {starts[name][-1]:.2f} s")
    parts: dict[str, list[float]] = {}
    for turn in range(options.rounds):
        done = _run([sys.executable, "-c", CODEGEN, MODEL], home)
        _say(f"code generation, {turn + 1} of {options.rounds}")
        for line in filter(None, done.stdout.splitlines()):
            part, _, value = line.rpartition(": ")
            parts.setdefault(part, []).append(float(value.removesuffix(" ms")))
    return {
        "starts": starts,
        "codegen_ms": {part: statistics.median(ms) for part, ms in parts.items()},
        "threads": int(threads),
        "peer": _run(commands["llama.cpp"][0], home).stderr.split()[-1] if options.llama else None,
    }


LOST = {"warm": (), "packed": ("native", "xla"), "first": ("native", "xla", "packed")}
"""What is thrown away before each start, besides nothing."""


def _start(command: list[str], home: Path) -> float:
    began = time.perf_counter()
    _run(command, home)
    return time.perf_counter() - began


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _run(command: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"ANYCHIP_HOME": str(home), "JAX_PLATFORMS": "cpu"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} …: {done.stderr[-2000:]}")
    return done


if __name__ == "__main__":
    sys.exit(main())
