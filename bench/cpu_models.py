"""How fast is cpu:auto beside the runtimes given the same model directly? Ratios, in turns.

    python bench/cpu_models.py --prepare              # downloads nothing, compiles and caches: slow
    python bench/cpu_models.py --json F --svg F       # only times; for a quiet machine
        [--only NAME …] [--batch 1 8] [--precision f32 bf16] [--seconds 5] [--budget 840]

A peer gets the model as its own users would give it: ONNX files to onnxruntime and OpenVINO, torch
modules to `openvino.convert_model`, `torch.compile` and, through `torch.onnx.export`, to
onnxruntime; XLA is what `cpu:xla` runs. Default threads everywhere. f32 is held against f32; bf16
is `cpu:auto` with a tolerance of 5 % against OpenVINO in bf16. Each model runs in a process of its
own. Preparing lets cpu:auto decide among all and times every peer once: peers more than 4 times
slower than the best there keep that figure and are not timed again. When timing, cpu:auto decides
again between the candidates that were within 2.5 of its best, all on the quiet machine. Rows that
were not prepared are timed without what takes minutes to compile, and say so.
ratio = best peer ÷ cpu:auto, the median over rounds of turns: above 1, auto wins. Each row says
what share of the CPUs other processes had meanwhile; --merge keeps the calmer of two.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cpu_models_zoo as zoo
import numpy as np
from cpu_models_chart import chart, table

from anychip import load
from anychip.core import CompileOptions, Module, discover, dtype, machine_name
from anychip.core.config import read

Run = Callable[[], Any]
TOLERANCE = {"f32": 1e-3, "bf16": 5e-2}
NEAR, FAR = 2.5, 4.0
SLOW_CANDIDATES, SLOW_PEERS = {"iree", "native"}, {"torch.compile"}
"""Left out, and said to be, where a row was not prepared: they compile for minutes."""
OPENVINO = {"PERFORMANCE_HINT": "LATENCY"}


def folder() -> Path:
    made = read("home") / "bench" / "cpu_models"
    made.mkdir(parents=True, exist_ok=True)
    return made


# One model, in a process of its own


def one(name: str, batch: int, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """Prepare or time one row."""
    path = folder() / f"{name}-{batch}-{precision}.json"
    model, inputs = zoo.MODELS[name](batch)
    arrays = [np.asarray(x) for x in inputs]
    if isinstance(model, Path):
        module = load(model, dims=zoo.sizes(model, arrays))
    else:
        module = load(model, tuple(inputs))
    slots = [a for a in module.signature.arguments if a.role != "weight"]
    feeds = [x.astype(dtype(a.dtype).numpy) for x, a in zip(arrays, slots, strict=True)]
    prepared = None
    if path.exists() and not options.prepare:
        prepared = json.loads(path.read_text(encoding="utf-8"))
    executable, left_out = compiled(module, precision, prepared, full=options.prepare)
    calm(options.wait)
    others = Others()
    executable.run(*feeds)
    evidence = json.loads(executable.artifacts["evidence"])
    evidence["not_compiled"] |= left_out
    if prepared is not None:
        evidence["when_prepared"] = prepared["evidence"]
    # XLA returns before it is done
    runs: dict[str, Run] = {"cpu:auto": lambda: [np.asarray(r) for r in executable.run(*feeds)]}
    makers = peers(name, batch, precision, model, inputs, arrays, module, feeds)
    skipped: dict[str, float] = {}
    failed: dict[str, str] = {}
    if prepared is None and not options.prepare:
        failed = dict.fromkeys(SLOW_PEERS & {*makers}, "left out: not prepared")
    if prepared is not None:
        known = {k: v for k, v in prepared["median_s"].items() if k != "cpu:auto"}
        best = min([*known.values(), prepared["median_s"]["cpu:auto"]])
        skipped = {k: v for k, v in known.items() if v > FAR * best}
        failed = prepared["failed"]
    for peer, make in makers.items():
        if peer in failed or peer in skipped:
            continue
        try:
            runs[peer] = make()
            runs[peer]()
        except Exception as error:  # a peer may fail in any way; its row says how
            failed[peer] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            runs.pop(peer, None)
    rounds = timed(runs, 1.0 if options.prepare else options.seconds)
    medians = {k: statistics.median(v) for k, v in rounds.items()}
    row = {
        "model": name,
        "batch": batch,
        "precision": precision,
        "chosen": evidence["chosen"],
        "median_s": medians,
        "rounds_s": rounds,
        "others_cpu": others.share(),
        "far_behind_when_prepared_s": skipped,
        "failed": failed,
        "evidence": evidence,
    }
    row |= ratio(rounds)
    narrow = evidence["entrants"].get("openvino-bf16") or {}
    if precision == "bf16" and not evidence["chosen"].endswith("-bf16"):
        row["unlike"] = narrow.get("failure") or evidence["not_compiled"].get("openvino-bf16")
    if options.prepare:
        path.write_text(json.dumps(row), encoding="utf-8")
    return row


class Others:
    """The share of all CPUs' time that went to other processes since this was made (Linux)."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """(seconds, busy and stolen CPU seconds of all, CPU seconds of this process)."""
        stat = Path("/proc/stat")
        ticks = (
            [int(t) for t in stat.read_text().split("\n")[0].split()[1:9]] if stat.exists() else []
        )
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK") if ticks else 0.0
        return time.perf_counter(), busy, time.process_time()

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


def compiled(
    module: Module, precision: str, prepared: Any, *, full: bool
) -> tuple[Any, dict[str, str]]:
    """cpu:auto's program, undecided yet, and who does not take part: it decides among all, or among
    those that were near when prepared."""
    from anychip.compilers.auto import AutoTarget

    target = discover().target("cpu:auto")
    assert isinstance(target, AutoTarget)
    left_out: dict[str, str] = {}
    makers = dict(target.makers)
    if prepared is None and not full:
        left_out = dict.fromkeys(SLOW_CANDIDATES, "left out: not prepared")
        makers = {k: m for k, m in makers.items() if k not in left_out}
    if prepared is not None:
        rows = prepared["evidence"]["entrants"]
        times = {k: r["median_s"] for k, r in rows.items() if r["median_s"] and not r["failure"]}
        best = times[prepared["chosen"]]
        makers = {k: m for k, m in makers.items() if times.get(k, math.inf) <= NEAR * best}
    # without a folder the choice is made now
    target = AutoTarget(makers, None, target.finest)
    extra = {"tolerance": str(TOLERANCE[precision]), "seconds": "3" if prepared is None else "4"}
    return target.compile(module, CompileOptions(extra=extra)), left_out


def peers(
    name: str,
    batch: int,
    precision: str,
    model: Any,
    inputs: Any,
    arrays: list[np.ndarray],
    module: Module,
    feeds: list[np.ndarray],
) -> Mapping[str, Callable[[], Run]]:
    """How to open each peer; opened only when it is to be timed."""
    from anychip.compilers.onnx_hosts.openvino import openvino

    ov = openvino()
    hint = {"INFERENCE_PRECISION_HINT": precision, **OPENVINO}

    def open_openvino() -> Run:
        saved = folder() / f"{name}-{batch}.xml"
        if isinstance(model, Path):
            network = ov.Core().read_model(str(model))
            network.reshape(list(arrays[0].shape))
        elif saved.exists():
            network = ov.Core().read_model(str(saved))
        else:
            network = ov.convert_model(model, example_input=tuple(inputs))
            network.reshape({i: list(a.shape) for i, a in enumerate(arrays)})
            ov.save_model(network, str(saved), compress_to_fp16=False)
        request = ov.Core().compile_model(network, "CPU", hint).create_infer_request()
        return lambda: request.infer(arrays, share_inputs=True)

    if precision == "bf16":
        return {"openvino": open_openvino}

    def open_onnxruntime() -> Run:
        import onnxruntime as ort

        path = model if isinstance(model, Path) else folder() / f"{name}-{batch}.onnx"
        if not path.exists():
            _to_onnx(model, inputs, path)
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        feed = dict(zip([i.name for i in session.get_inputs()], arrays, strict=True))
        return lambda: session.run(None, feed)

    def open_xla() -> Run:
        made = discover().target("cpu:xla").compile(module, CompileOptions())
        return lambda: [np.asarray(r) for r in made.run(*feeds)]

    found = {"openvino": open_openvino, "onnxruntime": open_onnxruntime, "xla": open_xla}
    if not isinstance(model, Path):
        found |= {
            "torch": lambda: _torch(model, inputs),
            "torch.compile": lambda: _compiled(model, inputs),
        }
    return found


def _to_onnx(model: Any, inputs: Any, path: Path) -> None:
    """As a user would write it. transformers' models are called by name: by position the exporter
    passes `use_cache` twice."""
    import torch

    class ByName(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask).to_tuple()

    part = path.with_suffix(".part")
    asked = ByName().eval() if len(inputs) == 2 else model
    torch.onnx.export(asked, tuple(inputs), str(part), dynamo=False, opset_version=20)
    part.replace(path)


def _torch(model: Any, inputs: Any) -> Run:
    import torch

    def run() -> Any:
        with torch.inference_mode():
            return model(*inputs)

    return run


def _compiled(model: Any, inputs: Any) -> Run:
    import torch

    return _torch(torch.compile(model), inputs)


def timed(runs: dict[str, Run], seconds: float) -> dict[str, list[float]]:
    """Rounds in turns; a sample is the median of a burst whose first 10 ms do not count.

    The pause lets the threads of the one before stop spinning; small models get longer bursts.
    After two rounds those more than `FAR` behind are not timed on.
    """
    samples: dict[str, list[float]] = {name: [] for name in runs}
    racing, turn, start = [*runs], 0, time.perf_counter()
    while turn < 3 or (time.perf_counter() - start < seconds and turn < 60):
        for name in racing[turn % len(racing) :] + racing[: turn % len(racing)]:
            samples[name].append(_burst(runs[name]))
        turn += 1
        if turn == 2:
            best = min(min(samples[n]) for n in racing)
            racing = [n for n in racing if min(samples[n]) < FAR * best or n == "cpu:auto"]
    return samples


def _burst(run: Run) -> float:
    time.sleep(0.02)
    start = time.perf_counter()
    run()
    while time.perf_counter() - start < 0.01:
        run()
    took: list[float] = []
    while len(took) < 2 or (sum(took) < 0.05 and len(took) < 20):
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


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
    parser.add_argument("--wait", type=float, default=0.0, help="seconds to wait for a calm CPU")
    parser.add_argument("--time-limit", type=float, default=0.0, help="seconds a row may take")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds for all rows")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--merge", type=Path, help="an earlier JSON whose other rows are kept")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        library = zoo.torchvision()
        row = one(options.only[0], options.batch[0], options.precision[0], options)
        print(json.dumps(row))
        del library
        return 0
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    began = time.perf_counter()
    for precision in options.precision:
        for batch in options.batch if precision == "f32" else options.batch[:1]:
            for name in options.only:
                late = time.perf_counter() - began > options.budget
                row, why = (
                    (None, f"not reached within {options.budget:g} s")
                    if late
                    else _child(name, batch, precision, options)
                )
                if row is None:
                    failed.append(
                        {"model": name, "batch": batch, "precision": precision, "error": why}
                    )
                    print(f"{name} ×{batch} {precision}: {why}", flush=True)
                    continue
                rows.append(row)
                print(table([row]), flush=True)
                if not options.prepare:
                    report(rows, failed, options, say=False)  # what is measured is not lost
    print(f"{len(rows)} rows in {time.perf_counter() - began:.0f} s")
    if rows and not options.prepare:
        report(rows, failed, options, say=True)
    return 1 if failed else 0


def _child(
    name: str, batch: int, precision: str, options: argparse.Namespace
) -> tuple[dict[str, Any] | None, str]:
    command = [sys.executable, __file__, "--one", "--only", name, "--batch", str(batch)]
    command += ["--precision", precision, "--seconds", str(options.seconds)]
    command += ["--wait", str(options.wait), *(["--prepare"] * options.prepare)]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder() / "inductor")}
    limit = options.time_limit or (1200.0 if options.prepare else 90.0)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"took more than {limit:g} s"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["no message"])[-1]
    return json.loads(done.stdout.strip().splitlines()[-1]), ""


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
    return 1.0 if share is None else share


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
