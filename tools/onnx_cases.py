"""Runs the official ONNX node tests through the frontend and cpu:xla, in child processes.

Each case is loaded, compiled, run and compared with the expected outputs: element type and shape
exactly, numbers within the case's own tolerance. A case that ends in UnsupportedError is
"explained"; training cases are counted apart. Results go to a JSON file as they come, so an
interrupted run resumes.

    python tools/onnx_cases.py --json build/onnx_cases.json
    python tools/onnx_cases.py --only lstm --fresh
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CASE_SECONDS = 60.0


@dataclass(frozen=True)
class Case:
    """One official test: a serialised model, input and expected values, tolerances."""

    name: str
    model: bytes
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    rtol: float
    atol: float


def official_cases() -> list[Case]:
    """All generated node tests of the installed onnx package, in its order."""
    from onnx import TensorProto, numpy_helper
    from onnx.backend.test.case.node import collect_testcases

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(v) for v in value]
        if isinstance(value, TensorProto):
            return numpy_helper.to_array(value)
        return value if value is None else np.asarray(value)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = collect_testcases(None)
    return [
        Case(
            c.name,
            c.model.SerializeToString(),
            *(tuple(plain(v) for v in values) for values in c.data_sets[0]),
            c.rtol,
            c.atol,
        )
        for c in raw
    ]


def is_training(case: Case) -> bool:
    """Whether the case is about training; inference need not pass it."""
    return "training" in case.name or any(
        case.name.startswith(f"test_{name}") for name in ("adagrad", "adam", "momentum", "nesterov")
    )


@dataclass(frozen=True)
class Outcome:
    """`state` is pass, explained, wrong (numbers, types or shapes) or error (anything else)."""

    name: str
    state: str
    note: str = ""
    bound: tuple[str, ...] = ()
    seconds: float = 0.0


def judge(case: Case) -> Outcome:
    """Load, compile, run and compare one case in this process."""
    from anychip.core.errors import AnychipError, UnsupportedError

    start = time.monotonic()
    bound: tuple[str, ...] = ()
    try:
        bound, differences = _run(case)
        state, note = ("wrong", differences[0]) if differences else ("pass", "")
    except UnsupportedError as error:
        state, note = "explained", str(error)
    except AnychipError as error:
        state, note = "error", f"{type(error).__name__}: {error}"
    except Exception:
        state, note = "error", traceback.format_exc(limit=-4)
    return Outcome(case.name, state, note, bound, time.monotonic() - start)


def _run(case: Case) -> tuple[tuple[str, ...], list[str]]:
    from anychip.compilers.xla import XlaTarget
    from anychip.core import CompileOptions
    from anychip.frontends.onnx import constant_inputs, load, read_model

    model = read_model(case.model, case.name)
    values = dict(zip((p.name for p in model.graph.inputs), case.inputs, strict=True))
    shapes = {n: _shape_of(v) for n, v in values.items() if v is None or not _fixed(model, n)}
    wanted = constant_inputs(case.model)
    constants = {n: values[n] for n in wanted if values[n] is not None}
    module = load(case.model, shapes=shapes, constants=constants, name=case.name)
    flat = _flat(values)
    inputs = [flat[a.name] for a in module.signature.named("input")]
    results = XlaTarget().compile(module, CompileOptions()).run(*inputs)
    got = {r.name: np.asarray(v) for r, v in zip(module.signature.results, results, strict=True)}
    expected = _flat(
        dict(zip((p.name for p in model.graph.outputs), case.outputs, strict=True)),
    )
    return tuple(wanted), _differences(got, expected, case)


def _fixed(model: Any, name: str) -> bool:
    port = next(p for p in model.graph.inputs if p.name == name)
    return (
        port.kind == "tensor"
        and port.shape is not None
        and all(isinstance(d, int) for d in port.shape)
    )


def _shape_of(value: Any) -> Any:
    if value is None:
        return None
    return [v.shape for v in value] if isinstance(value, list) else value.shape


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list):
            flat.update(_flat({f"{name}.{i}": v for i, v in enumerate(value)}))
        elif value is not None:
            flat[name] = value
    return flat


def _differences(got: dict[str, Any], expected: dict[str, Any], case: Case) -> list[str]:
    if set(got) != set(expected):
        return [f"results are {sorted(got)}, expected {sorted(expected)}"]
    found = []
    for name, want in expected.items():
        have = got[name]
        if have.dtype != want.dtype or have.shape != want.shape:
            found.append(f"{name}: {have.dtype}{have.shape}, expected {want.dtype}{want.shape}")
            continue
        a, b = (v.astype(_wide(v.dtype)) for v in (have, want))
        if not np.allclose(a, b, *_tolerance(case, want.dtype, b), equal_nan=True):
            with np.errstate(all="ignore"):
                error = np.nanmax(np.abs(a.astype(complex) - b)) if a.size else 0
            found.append(
                f"{name}: max difference {error:.3g} ({a.reshape(-1)[:4]}, {b.reshape(-1)[:4]})"
            )
    return found


def _tolerance(case: Case, kind: np.dtype, expected: Any) -> tuple[float, float]:
    """The case's own, bf16 widened as onnx's runner does, and one unit in the last place of the
    largest expected number, below which the order of summation decides."""
    rtol = max(case.rtol, 2**-6) if kind.name == "bfloat16" else case.rtol
    if kind.kind in "iub" or "int" in kind.name or not expected.size:
        return rtol, case.atol
    import ml_dtypes

    finite = np.abs(expected[np.isfinite(expected)])
    largest = float(finite.max()) if finite.size else 0.0
    real = np.dtype(f"f{kind.itemsize // 2}") if kind.kind == "c" else kind
    return rtol, max(case.atol, float(ml_dtypes.finfo(real).eps) * largest)


def _wide(kind: np.dtype) -> Any:
    if kind.kind in "iub" or "int" in kind.name:
        return np.float64 if kind.itemsize < 8 else kind
    return kind if kind.kind == "c" else np.float64


def _child(connection: Any) -> None:
    """Judge cases until None comes."""
    warnings.simplefilter("ignore")
    while (case := connection.recv()) is not None:
        connection.send(judge(case))


class Workers:
    """Child processes that judge cases; one that dies or hangs costs only its case."""

    def __init__(self, count: int):
        self.context = multiprocessing.get_context("spawn")
        self.count = count

    def run(self, cases: Sequence[Case]) -> Any:
        """Outcomes as they come."""
        waiting = list(reversed(cases))
        busy: dict[Any, tuple[Any, Case, float]] = {}
        idle = [self._start() for _ in range(min(self.count, len(cases)))]
        while waiting or busy:
            while waiting and idle:
                process, connection = idle.pop()
                case = waiting.pop()
                connection.send(case)
                busy[connection] = (process, case, time.monotonic() + CASE_SECONDS)
            ready = multiprocessing.connection.wait(list(busy), timeout=0.5)
            for connection in ready:
                process, case, _ = busy.pop(connection)
                try:
                    yield connection.recv()
                    idle.append((process, connection))
                except EOFError:
                    process.join()
                    yield Outcome(case.name, "error", f"the process died ({process.exitcode})")
                    idle.append(self._start())
            for connection, (process, case, deadline) in list(busy.items()):
                if time.monotonic() > deadline:
                    del busy[connection]
                    process.kill()
                    yield Outcome(case.name, "error", f"took over {CASE_SECONDS:.0f} s")
                    idle.append(self._start())
        for process, connection in idle:
            connection.send(None)
            process.join(10)

    def _start(self) -> tuple[Any, Any]:
        here, there = self.context.Pipe()
        process = self.context.Process(target=_child, args=(there,), daemon=True)
        process.start()
        there.close()
        return process, here


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--jobs", type=int, default=2, help="child processes")
    parser.add_argument("--json", type=Path, default=Path("build/onnx_cases.json"))
    parser.add_argument("--fresh", action="store_true", help="do not resume from the JSON file")
    parser.add_argument("--failed", action="store_true", help="run again what did not pass")
    options = parser.parse_args(argv)
    done = {} if options.fresh or not options.json.exists() else _read(options.json)
    if options.failed:
        done = {n: o for n, o in done.items() if o["state"] == "pass"}
    every = official_cases()
    chosen = [c for c in every if options.only in c.name]
    todo = [c for c in chosen if c.name not in done]
    training = {c.name for c in every if is_training(c)}
    for index, outcome in enumerate(Workers(options.jobs).run(todo), start=1):
        done[outcome.name] = {**vars(outcome), "training": outcome.name in training}
        if outcome.state not in ("pass", "explained"):
            print(f"{outcome.state:9} {outcome.name}: {outcome.note.strip()[-300:]}", flush=True)
        if index % 50 == 0 or index == len(todo):
            _write(options.json, done)
            print(f"  {index} of {len(todo)}", flush=True)
    _write(options.json, done)
    return _summary([done[c.name] for c in chosen])


def _read(path: Path) -> dict[str, Any]:
    return {row["name"]: row for row in json.loads(path.read_text(encoding="utf-8"))["cases"]}


def _write(path: Path, done: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = sorted(done.values(), key=lambda row: row["name"])
    path.write_text(json.dumps({"cases": rows}, indent=1), encoding="utf-8")


def _summary(rows: list[dict[str, Any]]) -> int:
    counted = [r for r in rows if not r["training"]]
    states = Counter(r["state"] for r in counted)
    bound = sum(1 for r in counted if r["state"] == "pass" and r["bound"])
    print(
        f"{len(counted)} cases without training: {states['pass']} pass "
        f"({100 * states['pass'] / max(len(counted), 1):.2f} %, {bound} of them with inputs fixed "
        f"while loading), {states['explained']} explained, {states['wrong']} wrong, "
        f"{states['error']} errors; {len(rows) - len(counted)} training cases apart"
    )
    for row in counted:
        if row["state"] == "explained":
            print(f"  explained {row['name']}: {row['note'].splitlines()[-1].strip()[:160]}")
    return 1 if states["wrong"] or states["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
