"""How fast `cpu:native` generates tokens, beside llama.cpp, OpenVINO and this machine's memory.

    python bench/llm.py [--quick] [--json FILE] [--threads 1,2] [--llama PYTHON] [--openvino PYTHON]
                        [--only MODEL] [--cases decode,prefill,batch] [--minutes M]

Everything is measured in rounds, one engine after the other, so that what else the machine does
hits all alike; a ratio is the median of the rounds' ratios, its spread their quartiles. Each peer
runs in a process of its own, on a Python that has it. A peer that cannot run is null, and says why.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from llm_engines import PIECE, Native, Peer, reader
from llm_models import random_1b

from anychip.core import config
from anychip.frontends.pull import pull

PEERS = {"llama_cpp": "llm_peer_llama.py", "openvino": "llm_peer_openvino.py"}
CONTEXTS, BATCHES, FILLED = (64, 1024, 4096), (4, 16), 64


@dataclass(frozen=True)
class Case:
    """A question all engines are asked; `tokens` is how many one round yields."""

    name: str
    words: tuple[Any, ...]
    tokens: int


@dataclass
class Model:
    name: str
    path: Path
    steps: int
    """Decode steps of a round."""


def cases(model: Model, kinds: list[str], is_quick: bool) -> list[Case]:
    """Decode at each context, then with each batch, then the prompt."""
    found: list[Case] = []
    for context in CONTEXTS[: 2 if is_quick else None] if "decode" in kinds else ():
        steps = model.steps
        found.append(Case(f"decode at {context}", ("decode", context, 1, steps), steps))
    for batch in BATCHES if "batch" in kinds else ():
        steps = max(4, model.steps // batch * 2)
        words = ("decode", FILLED, batch, steps)
        found.append(Case(f"decode batch {batch}", words, steps * batch))
    if "prefill" in kinds:
        found.append(Case(f"prefill {PIECE}", ("prefill", PIECE, 1), PIECE))
    return found


@dataclass
class Samples:
    """Seconds a token of each engine, round by round, and the reads beside them."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.seconds.setdefault(name, []).append(value)

    def rate(self, name: str) -> float | None:
        found = self.seconds.get(name)
        return 1 / statistics.median(found) if found else None

    def ratio(self, above: str) -> dict[str, float] | None:
        """How many times as fast as `above` the native engine is."""
        if above not in self.seconds:
            return None
        pairs = zip(self.seconds[above], self.seconds["native"], strict=True)
        ratios = sorted(a / b for a, b in pairs)
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return {"value": median, "low": low, "high": high, "rounds": len(ratios)}


class Watch:
    """What other processes than these use of the CPUs."""

    def __init__(self, ours: list[int]):
        self._ours = ours

    def _ticks(self) -> tuple[int, int]:
        """(of all, of ours) since the system or process started."""
        with open("/proc/stat") as file:
            cpu = [int(n) for n in file.readline().split()[1:9]]
        own = 0
        for process in self._ours:
            with open(f"/proc/{process}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            own += int(fields[11]) + int(fields[12])
        return sum(cpu) - cpu[3] - cpu[4], own

    def start(self) -> None:
        self._before, self._at = self._ticks(), time.perf_counter()

    def share(self) -> float:
        """Since `start`, of one CPU: 1 is one CPU kept busy by others."""
        ticks = [b - a for a, b in zip(self._before, self._ticks(), strict=True)]
        seconds = time.perf_counter() - self._at
        return max(0.0, ticks[0] - ticks[1]) / os.sysconf("SC_CLK_TCK") / seconds


def measure(
    model: Model,
    threads: int,
    rounds: int,
    kinds: list[str],
    pythons: dict[str, str],
    quick: bool,
    calm: float,
    until: float,
    note: Callable[[list[dict[str, Any]]], None],
) -> dict[str, Any]:
    """`calm`: a round in which others used more CPUs than this is taken again, a few times.
    `until`: by `time.monotonic()`, from when two rounds of each case are enough."""
    native = Native(model.path, threads, max(CONTEXTS) + PIECE)
    engines: dict[str, Any] = {"native": native}
    why: dict[str, str] = {}
    for name, script in PEERS.items():
        try:
            engines[name] = Peer(pythons[name], script, model.path, threads)
        except OSError as error:
            why[name] = f"not measured: {pythons[name]} cannot run it: {error}"
    read = reader(native)
    rows: list[dict[str, Any]] = []
    watch = Watch([os.getpid(), *(one.process for one in engines.values() if one.process)])
    for case in cases(model, kinds, quick):
        samples = Samples()
        what, *numbers = case.words
        if what == "decode":
            for one in engines.values():
                one.ask("fill", *numbers[:2])
        tries, left = 0, rounds + 1
        while left > 0:
            watch.start()
            got = {name: one.ask(what, *numbers) / case.tokens for name, one in engines.items()}
            got["read"] = statistics.fmean(read() for _ in range(4))
            others = watch.share()
            tries += 1
            is_late = time.monotonic() > until
            if tries == 1 or (others > calm and tries <= 4 * rounds and not is_late):
                left -= tries == 1  # the first round warms up
                continue
            left -= 1
            for name, value in (got | {"others": others}).items():
                samples.add(name, value)
            if is_late:
                left = min(left, 2 - len(samples.seconds["native"]))
        rows.append(_row(case, samples, native.weight_bytes) | {"tries": tries})
        _show(model.name, threads, rows[-1])
        note(rows)
    if "llama_cpp" in engines:
        engines["llama_cpp"].version += "; " + engines["llama_cpp"].say("settings").strip()
    for one in engines.values():
        one.close()
    return {
        "engine": "cpu:native",
        "model": model.name,
        "threads": threads,
        "versions": {name: one.version for name, one in engines.items()},
        "not_measured": why,
        "weight_bytes": native.weight_bytes,
        "cache": "f16",
        "compile_s": native.compile_s,
        "compile_steps": native.decode.artifacts["seconds"],
        "rows": rows,
    }


def _row(case: Case, samples: Samples, weight_bytes: int) -> dict[str, Any]:
    """Weights are read once a step; a step of a batch yields a token for each."""
    row: dict[str, Any] = {"case": case.name}
    for name in ("native", *PEERS):
        row[f"{name}_tok_s"] = samples.rate(name)
    row |= {f"ratio_vs_{name}": samples.ratio(name) for name in PEERS}
    row["others_cpus"] = statistics.median(samples.seconds.pop("others"))
    bare = statistics.median(samples.seconds["read"])
    row["bandwidth_gb_s"] = weight_bytes / bare / 1e9
    if case.words[0] == "decode":
        steps = [s * case.tokens / case.words[3] for s in samples.seconds["native"]]
        row["gb_s"] = weight_bytes / statistics.median(steps) / 1e9
        pairs = zip(samples.seconds["read"], steps, strict=True)
        row["ratio_of_bandwidth"] = statistics.median(a / b for a, b in pairs)
    return row | {"samples_s": samples.seconds}


def _show(model: str, threads: int, row: dict[str, Any]) -> None:
    parts = [f"{model} {threads} threads {row['case']:<16} {row['native_tok_s']:8.1f} tok/s"]
    for name in PEERS:
        ratio = row[f"ratio_vs_{name}"]
        if ratio:
            spread = f"{ratio['value']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
            parts.append(f"{name} {row[f'{name}_tok_s']:.1f}, ratio {spread}")
    parts.append(f"others {row['others_cpus']:.2f} CPUs")
    if "ratio_of_bandwidth" in row:
        share = f"{row['ratio_of_bandwidth']:.2f} of {row['bandwidth_gb_s']:.1f} GB/s"
        parts.append(share)
    print("; ".join(parts), flush=True)


def _machine() -> dict[str, Any]:
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    cpus = len(os.sched_getaffinity(0))
    return {"cpu": names[0] if names else "unknown", "cpus": cpus, "load": os.getloadavg()[0]}


def _headline(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Decode at the shortest context with most threads, by model."""
    found: dict[str, Any] = {}
    for result in sorted(results, key=lambda r: r["threads"]):
        for row in result["rows"]:
            if row["case"] == f"decode at {CONTEXTS[0]}":
                ratio = row["ratio_vs_llama_cpp"]
                found[result["model"]] = ratio["value"] if ratio else None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three rounds, fewer tokens")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--threads", default="", help="such as 1,2; default: all")
    parser.add_argument("--llama", "--peer", default=sys.executable, help="Python with llama_cpp")
    parser.add_argument("--openvino", default=sys.executable, help="Python with openvino_genai")
    parser.add_argument("--only", help="one model's name")
    parser.add_argument("--cases", default="decode,batch,prefill")
    parser.add_argument("--rounds", type=int, help="default 7, or 3 when quick")
    parser.add_argument("--calm", type=float, default=0.2, help="CPUs others may use in a round")
    parser.add_argument("--minutes", type=float, default=60, help="then two rounds a case")
    parser.add_argument("--steps", type=int, help="decode steps of a round, default 64 or 24")
    options = parser.parse_args()
    home = config.read("home")
    most = len(os.sched_getaffinity(0))
    threads = [int(n) for n in options.threads.split(",")] if options.threads else [most]
    rounds = options.rounds or (3 if options.quick else 7)
    steps = options.steps or (24 if options.quick else 64)
    models = [
        Model("smollm2-135m", pull("smollm2-135m", home).path, steps),
        Model("llama-1b", random_1b(home / "bench" / "llama-1b.q4_0.gguf"), steps // 4),
    ]
    models = [m for m in models if options.only in (None, m.name)]
    pythons = {"llama_cpp": options.llama, "openvino": options.openvino}
    kinds = options.cases.split(",")
    results: list[dict[str, Any]] = []
    started = time.monotonic()
    turns = [(model, count) for model in models for count in threads]

    def report() -> None:
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            ratios = {"ratio_vs_llama_cpp": _headline(results)}
            text = json.dumps(ratios | {"machine": _machine(), "results": results}, indent=1)
            options.json.write_text(text)

    for turn, (model, count) in enumerate(turns):
        results.append({"model": model.name, "threads": count, "rows": []})

        def note(rows: list[dict[str, Any]]) -> None:
            results[-1]["rows"] = rows
            report()

        until = started + 60 * options.minutes * (turn + 1) / len(turns)
        more = (kinds, pythons, options.quick, options.calm, until, note)
        results[-1] = measure(model, count, rounds, *more)
        report()


if __name__ == "__main__":
    main()
