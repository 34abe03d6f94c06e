"""How fast is cpu:auto beside the runtimes given the same model directly? Ratios, in turns.

    python bench/cpu_models.py --prepare              # downloads nothing, compiles and caches: slow
    python bench/cpu_models.py --json F --resume      # only times; for a quiet machine
        [--svg F] [--only NAME …] [--batch 1 8] [--precision f32 bf16] [--seconds 10] [--rounds 12]

A peer gets the model as its own users would give it: ONNX files to onnxruntime and OpenVINO, torch
modules to `openvino.convert_model`, `torch.compile` and, through `torch.onnx.export`, to
onnxruntime; XLA is what `cpu:xla` runs. Default threads everywhere. f32 is held against f32; bf16
is `cpu:auto` with a tolerance of 5 % against OpenVINO in bf16. cpu:auto has a process of its own,
its peers another (`cpu_models_sides.py`), and only one of them works at a time. Preparing lets
cpu:auto decide among all and opens every peer once, so that what compiles for minutes is cached;
its times are not used, but that candidates more than 4 times slower than the best there take no
part later. When timing, cpu:auto decides again among the rest, all on the quiet machine. Rows that
were not prepared are timed without what takes minutes to compile, and say so. Peers more than 4
times slower than the best in two rounds are not timed on.
ratio = best peer ÷ cpu:auto, the median over rounds of turns: above 1, auto wins. A row has at
least --rounds of them, and more until --seconds are over. Each row says what share of the CPUs
other processes had meanwhile; --merge keeps the calmer of two, --resume times what F lacks.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cpu_models_zoo as zoo
from cpu_models_chart import chart, table
from cpu_models_sides import FAR, TOLERANCE, folder, prepared_path

from anychip.core import machine_name


class Late(Exception):
    """A row took longer than it may."""


class Side:
    """One of a row's two processes. `ask` waits for its answer, at most until `deadline`."""

    def __init__(self, side: str, key: tuple[str, int, str], deadline: float, *, full: bool):
        script = Path(__file__).with_name("cpu_models_sides.py")
        command = [sys.executable, str(script), side, *map(str, key), *(["--full"] * full)]
        self._deadline, self._said = deadline, tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder() / "inductor")},
        )
        assert self._process.stdout is not None
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(self._process.stdout, selectors.EVENT_READ)
        self.cpu_s = 0.0

    def answer(self) -> dict[str, Any]:
        if not self._waiting.select(max(0.0, self._deadline - time.perf_counter())):
            raise Late
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            lines = self._said.read().strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"exit {self._process.returncode}")
        answer = json.loads(line)
        self.cpu_s = answer["cpu_s"]
        return answer

    def ask(self, what: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self.answer()["value"]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._waiting.close()
        self._said.close()


def one(key: tuple[str, int, str], options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Prepare or time one row."""
    name, batch, precision = key
    sides: list[Side] = []
    deadline = time.perf_counter() + limit
    try:
        sides += [Side(side, key, deadline, full=options.prepare) for side in ("ours", "theirs")]
        ours, theirs = sides
        mine, peers = ours.answer(), theirs.answer()
        calm(options.wait)
        others = Others(sides)
        chosen = ours.ask("choose")
        evidence = json.loads(chosen["evidence"])
        evidence["not_compiled"] |= mine["left_out"]
        if mine["when_prepared"]:
            evidence["when_prepared"] = mine["when_prepared"]
        who = {"cpu:auto": ours, **dict.fromkeys(peers["names"], theirs)}
        rounds = timed(who, 3 if options.prepare else options.rounds, options.seconds)
        share = others.share()
    finally:
        for side in sides:
            side.close()
    row = {
        "model": name,
        "batch": batch,
        "precision": precision,
        "chosen": evidence["chosen"],
        "median_s": {k: statistics.median(v) for k, v in rounds.items()},
        "rounds_s": rounds,
        "others_cpu": share,
        "huge_pages": chosen.get("huge_pages"),
        "failed": peers["failed"],
        "evidence": evidence,
    }
    row |= ratio(rounds)
    if precision == "bf16" and not evidence["chosen"].endswith("-bf16"):
        narrow = evidence["entrants"].get("openvino-bf16") or {}
        row["unlike"] = narrow.get("failure") or evidence["not_compiled"].get("openvino-bf16")
    if options.prepare:
        prepared_path(*key).write_text(json.dumps(row), encoding="utf-8")
    return row


class Others:
    """The share of all CPUs' time that went to other processes since this was made (Linux)."""

    def __init__(self, sides: Sequence[Side] = ()) -> None:
        self._sides = sides
        self._start = self._now()

    def _now(self) -> tuple[float, float, float]:
        """(seconds, busy and stolen CPU seconds of all, CPU seconds of ours)."""
        stat = Path("/proc/stat")
        ticks = (
            [int(t) for t in stat.read_text().split("\n")[0].split()[1:9]] if stat.exists() else []
        )
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK") if ticks else 0.0
        own = time.process_time() + sum(side.cpu_s for side in self._sides)
        return time.perf_counter(), busy, own

    def share(self) -> float | None:
        then, now = self._start, self._now()
        if not now[1]:
            return None
        took, busy, own = (b - a for a, b in zip(then, now, strict=True))
        return max(0.0, (busy - own) / (took * (os.cpu_count() or 1)))


def calm(most_s: float) -> None:
    """Wait until others take less than a tenth of the CPUs for a second, at most so long."""
    start = time.perf_counter()
    while time.perf_counter() - start < most_s:
        others = Others()
        time.sleep(1)
        if (others.share() or 0) < 0.1:
            return


def timed(who: Mapping[str, Side], least: int, seconds: float) -> dict[str, list[float]]:
    """Rounds in turns, each beginning with another. After two those more than `FAR` behind are
    not timed on."""
    samples: dict[str, list[float]] = {name: [] for name in who}
    racing, turn, start = [*who], 0, time.perf_counter()
    while turn < least or (time.perf_counter() - start < seconds and turn < 60):
        for name in racing[turn % len(racing) :] + racing[: turn % len(racing)]:
            samples[name].append(who[name].ask(name))
        turn += 1
        if turn == 2:
            best = min(min(samples[n]) for n in racing)
            racing = [n for n in racing if min(samples[n]) < FAR * best or n == "cpu:auto"]
    return samples


def ratio(rounds: Mapping[str, list[float]]) -> dict[str, Any]:
    """The best peer's time over cpu:auto's, round by round."""
    others = {k: statistics.median(v) for k, v in rounds.items() if k != "cpu:auto"}
    best = min(others, key=lambda k: others[k])
    each = [p / a for p, a in zip(rounds[best], rounds["cpu:auto"], strict=False)]
    low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
    return {"best_peer": best, "ratio": middle, "ratio_quartiles": [low, high]}


# All of them


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--only", nargs="*", default=[*zoo.MODELS], choices=[*zoo.MODELS])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--precision", nargs="*", default=["f32", "bf16"], choices=[*TOLERANCE])
    parser.add_argument("--seconds", type=float, default=5.0, help="timed rounds of one row")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of one row, at least")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds to wait for a calm CPU")
    parser.add_argument("--time-limit", type=float, default=0.0, help="seconds a row may take")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds for all rows")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--merge", type=Path, help="an earlier JSON whose other rows are kept")
    parser.add_argument("--resume", action="store_true", help="keep --json's rows, time the rest")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    if options.resume and options.json and options.json.exists():
        rows = json.loads(options.json.read_text(encoding="utf-8"))["rows"]
    done = {_key(row) for row in rows}
    began = time.perf_counter()
    for precision in options.precision:
        for batch in options.batch if precision == "f32" else options.batch[:1]:
            for name in options.only:
                key = (name, batch, precision)
                if key in done:
                    continue
                try:
                    if time.perf_counter() - began > options.budget:
                        raise RuntimeError(f"not reached within {options.budget:g} s")
                    limit = options.time_limit or (1200.0 if options.prepare else 120.0)
                    row = one(key, options, limit)
                except (RuntimeError, Late) as error:
                    why = str(error) or f"took more than {limit:g} s"
                    failed.append(
                        {"model": name, "batch": batch, "precision": precision, "error": why}
                    )
                    print(f"{name} ×{batch} {precision}: {why}", flush=True)
                    continue
                rows.append(row)
                print(table([row]), flush=True)
                if not options.prepare:
                    report(rows, failed, options, say=False)  # what is measured is not lost
    print(f"{len(rows) - len(done)} rows in {time.perf_counter() - began:.0f} s")
    if rows and not options.prepare:
        report(rows, failed, options, say=True)
    return 1 if failed else 0


def merged(new: list[dict[str, Any]], path: Path, part: str) -> list[dict[str, Any]]:
    """An earlier document's rows with the new ones in the place of those of the same name.

    Of two the calmer stays: that in which other processes had less of the CPUs.
    """
    old: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))[part]
    fresh = {_key(row): row for row in new}
    kept = [min(fresh.pop(_key(row), row), row, key=_disturbance) for row in old]
    return [*kept, *fresh.values()]


def _disturbance(row: dict[str, Any]) -> float:
    share = row.get("others_cpu")
    return 1.0 if share is None else max(0.03, share)  # below that both are calm: the newer stays


def _key(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["model"], row["batch"], row["precision"]


def report(
    rows: list[dict[str, Any]], failed: list[Any], options: argparse.Namespace, *, say: bool
) -> None:
    if options.merge:
        rows = merged(rows, options.merge, "rows")
        measured = {_key(row) for row in rows}
        failed = [f for f in merged(failed, options.merge, "failed") if _key(f) not in measured]
    alike = [r for r in rows if not r.get("unlike")]  # bf16 may be too far off to be chosen
    means = {
        p: math.exp(statistics.mean(math.log(r["ratio"]) for r in alike if r["precision"] == p))
        for p in {r["precision"] for r in alike}
    }
    packages = ("anychip", "onnxruntime", "openvino", "torch", "jaxlib", "timm", "transformers")
    document = {
        "machine": machine_name(),
        "versions": {p: version(p) for p in packages},
        "geometric_mean": means,
        "rows": rows,
        "failed": failed,
    }
    for precision, mean in means.items() if say else ():
        print(f"{precision}: geometric mean {mean:.3f}")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.svg:
        options.svg.write_text(chart(rows), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
