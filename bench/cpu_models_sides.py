"""The two processes behind a row of bench/cpu_models.py: cpu:auto's, and one for all its peers.

Apart, so that neither meets the other's threads, nor memory that the other moved into huge pages.
Each says what it has once it is ready, then answers lines: `choose` lets cpu:auto decide, the name
of a program runs one burst of it. Answers are lines of JSON; what libraries print goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cpu_models_zoo as zoo
import numpy as np

from anychip import load
from anychip.core import CompileOptions, Module, discover, dtype
from anychip.core.config import read

Run = Callable[[], Any]
TOLERANCE = {"f32": 1e-3, "bf16": 5e-2}
NEAR, FAR = 4.0, 4.0
"""Candidates that were further behind when prepared take no part; a wide margin, for preparing may
be done beside other work. Peers further behind after two rounds are not timed on."""
SLOW_CANDIDATES, SLOW_PEERS = {"iree", "native"}, {"torch.compile"}
"""Left out, and said to be, where a row was not prepared: they compile for minutes."""
OPENVINO = {"PERFORMANCE_HINT": "LATENCY"}


def folder() -> Path:
    made = read("home") / "bench" / "cpu_models"
    made.mkdir(parents=True, exist_ok=True)
    return made


def prepared_path(name: str, batch: int, precision: str) -> Path:
    return folder() / f"{name}-{batch}-{precision}.json"


class Row:
    """One model at one size: as given to peers, and as anychip's module with its inputs."""

    def __init__(self, name: str, batch: int, precision: str):
        self.name, self.batch, self.precision = name, batch, precision
        self.model, self.inputs = zoo.MODELS[name](batch)
        self.arrays = [np.asarray(x) for x in self.inputs]

    @property
    def is_file(self) -> bool:
        return isinstance(self.model, Path)

    def module(self) -> tuple[Module, list[np.ndarray]]:
        if self.is_file:
            module = load(self.model, dims=zoo.sizes(self.model, self.arrays))
        else:
            module = load(self.model, tuple(self.inputs))
        assert isinstance(module, Module)
        slots = [a for a in module.signature.arguments if a.role != "weight"]
        feeds = [x.astype(dtype(a.dtype).numpy) for x, a in zip(self.arrays, slots, strict=True)]
        return module, feeds


# Ours


def ours(row: Row, prepared: Any, *, full: bool) -> tuple[dict[str, Run], dict[str, str]]:
    """cpu:auto's program, undecided yet, and who takes no part: it decides among all, or among
    those that were near when prepared."""
    from anychip.compilers.auto import AutoTarget

    module, feeds = row.module()
    target = discover().target("cpu:auto")
    assert isinstance(target, AutoTarget)
    left_out: dict[str, str] = {}
    makers = dict(target.makers)
    if prepared is None and not full:
        left_out = dict.fromkeys(SLOW_CANDIDATES, "left out: not prepared")
        makers = {k: m for k, m in makers.items() if k not in left_out}
    if prepared is not None:
        evidence = prepared["evidence"]
        rows = evidence["entrants"]
        times = {k: r["median_s"] for k, r in rows.items() if r["median_s"] and not r["failure"]}
        best = times[prepared["chosen"]]
        known = {*rows, *evidence["not_compiled"]}  # others are younger than the preparation
        makers = {
            k: m
            for k, m in makers.items()
            if k not in known or times.get(k, math.inf) <= NEAR * best
        }
    # without a folder the choice is made now
    target = AutoTarget(makers, None, target.finest)
    extra = {"tolerance": str(TOLERANCE[row.precision]), "seconds": "6"}
    executable = target.compile(module, CompileOptions(extra=extra))

    def choose() -> Any:
        executable.run(*feeds)
        return {
            name: executable.artifacts[name]
            for name in ("evidence", "huge_pages")
            if name in executable.artifacts
        }

    # XLA returns before it is done
    runs = {"cpu:auto": lambda: [np.asarray(r) for r in executable.run(*feeds)], "choose": choose}
    return runs, left_out


# Theirs


def theirs(row: Row) -> Mapping[str, Callable[[], Run]]:
    """How to open each peer."""
    from anychip.compilers.onnx_hosts.openvino import openvino

    ov = openvino()
    hint = {"INFERENCE_PRECISION_HINT": row.precision, **OPENVINO}
    model, inputs, arrays = row.model, row.inputs, row.arrays

    def open_openvino() -> Run:
        saved = folder() / f"{row.name}-{row.batch}.xml"
        if row.is_file:
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

    if row.precision == "bf16":
        return {"openvino": open_openvino}

    def open_onnxruntime() -> Run:
        import onnxruntime as ort

        path = model if row.is_file else folder() / f"{row.name}-{row.batch}.onnx"
        if not path.exists():
            _to_onnx(model, inputs, path)
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        feed = dict(zip([i.name for i in session.get_inputs()], arrays, strict=True))
        return lambda: session.run(None, feed)

    def open_xla() -> Run:
        module, feeds = row.module()
        made = discover().target("cpu:xla").compile(module, CompileOptions())
        return lambda: [np.asarray(r) for r in made.run(*feeds)]

    found = {"openvino": open_openvino, "onnxruntime": open_onnxruntime, "xla": open_xla}
    if not row.is_file:
        found |= {
            "torch": lambda: _torch(model, inputs),
            "torch.compile": lambda: _compiled(model, inputs),
        }
    return found


def opened(row: Row, prepared: Any, *, full: bool) -> tuple[dict[str, Run], dict[str, str]]:
    """The peers that run, and why others do not."""
    makers, runs = theirs(row), dict[str, Run]()
    failed: dict[str, str] = {}
    if prepared is None and not full:
        failed = dict.fromkeys(SLOW_PEERS & {*makers}, "left out: not prepared")
    if prepared is not None:
        failed = prepared["failed"]
    for peer, make in makers.items():
        if peer in failed:
            continue
        try:
            runs[peer] = make()
            runs[peer]()
        except Exception as error:  # a peer may fail in any way; its row says how
            failed[peer] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            runs.pop(peer, None)
    return runs, failed


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


# Both


def burst(run: Run) -> float:
    """A median of runs, of which the first 10 ms (a run at least) do not count.

    The pause lets the threads of the one before stop spinning; small models get longer bursts.
    """
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["ours", "theirs"])
    parser.add_argument("name", choices=[*zoo.MODELS])
    parser.add_argument("batch", type=int)
    parser.add_argument("precision", choices=[*TOLERANCE])
    parser.add_argument("--full", action="store_true", help="with what takes minutes to compile")
    given = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**value: Any) -> None:
        answers.write(json.dumps({**value, "cpu_s": time.process_time()}) + "\n")
        answers.flush()

    library = zoo.torchvision()  # as long as this is kept, timm finds it
    path = prepared_path(given.name, given.batch, given.precision)
    prepared = None
    if path.exists() and not given.full:
        prepared = json.loads(path.read_text(encoding="utf-8"))
    row = Row(given.name, given.batch, given.precision)
    if given.side == "ours":
        runs, left_out = ours(row, prepared, full=given.full)
        answer(left_out=left_out, when_prepared=prepared and prepared["evidence"])
    else:
        runs, failed = opened(row, prepared, full=given.full)
        answer(names=[*runs], failed=failed)
    for line in sys.stdin:
        name = line.strip()
        answer(value=runs[name]() if name == "choose" else burst(runs[name]))
    del library
    return 0


if __name__ == "__main__":
    sys.exit(main())
