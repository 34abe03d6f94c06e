"""Run StableHLO programs in the reference interpreter of `jaxlib.mlir`, which may abort.

Many programs share one child process; when it dies, a new one goes on after the culprit.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core.child import run_module
from anychip.core.dtypes import dtype
from anychip.core.errors import CompileError, InputError
from anychip.ops.attributes import dense_text, parse_dense
from anychip.ops.case import Case

_MAX_DEATHS = 200

# The interpreter knows no CHLO and no deprecated op; upstream's own passes lower them.
_PREPARE = (
    (re.compile(r"chlo\."), "builtin.module(func.func(chlo-legalize-to-stablehlo))"),
    (
        re.compile(r"chlo\.scan|stablehlo\.(dot|unary_einsum|broadcast|create_token)\b"),
        "builtin.module(func.func(stablehlo-legalize-deprecated-ops))",
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What the reference said of one program: its results, or why there are none."""

    results: tuple[np.ndarray, ...] | None
    why: str = ""


def reference_results(programs: Sequence[str], *, timeout_s: float = 120) -> list[Verdict]:
    """Results of each program: text of a module whose `main` takes no arguments.

    A program that kills its process or is not finished within `timeout_s` has no results and says
    why; the rest still run.
    """
    verdicts: list[Verdict | None] = [None] * len(programs)
    deaths = 0
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "asked.json"), Path(folder, "answered.jsonl")
        while (todo := [i for i, v in enumerate(verdicts) if v is None]) and deaths < _MAX_DEATHS:
            asked.write_text(json.dumps([[i, programs[i]] for i in todo]))
            answered.write_text("")
            died = ""
            try:
                run_module(
                    "anychip.testing.reference",
                    [str(asked), str(answered)],
                    timeout_s=timeout_s,
                    what="the reference interpreter",
                    environment={"JAX_PLATFORMS": "cpu"},
                )
            except CompileError as error:
                died, deaths = f"{error}: {_last_line(error.log)}", deaths + 1
            started = _read(answered, verdicts)
            if died and started is None:
                raise InputError(f"the reference interpreter does not start: {died}")
            if started is not None and verdicts[started] is None:
                verdicts[started] = Verdict(None, died or "no answer")
    return [v or Verdict(None, f"not run after {deaths} deaths") for v in verdicts]


def case_program(case: Case, seed: int = 0) -> str:
    """The case as a program without arguments."""
    arrays = case.arrays(seed)
    if not case.replicas:
        return closed(case.text, arrays)
    processes = case.replicas * case.partitions
    flat = [a.reshape(processes, *a.shape[2:]) for a in arrays]
    inputs = [a[p] for p in range(processes) for a in flat]
    return closed(case.text, inputs, grid=(case.replicas, case.partitions))


def closed(text: str, inputs: Sequence[np.ndarray], grid: tuple[int, int] | None = None) -> str:
    """A module's text with its `main` called on constant `inputs` by a new `main`.

    Complex results are returned as real and imaginary part, which the bindings can hand over.
    With a `grid`, `main` runs on so many replicas and partitions; `inputs` and results are those
    of process 0, then 1, ….
    """
    renamed, count = re.subn(r"func\.func (?:public )?@main\(", "func.func private @case(", text)
    signature = re.search(r"@case\((.*?)\)\s*->\s*(\([^{]*\)|[^{(]*?)\s*\{", renamed, re.DOTALL)
    if count != 1 or signature is None:
        raise InputError("the program needs exactly one @main with results")
    outs = re.findall(r"tensor<[^<>]*(?:<[^<>]*>)?[^<>]*>", signature[2])
    outs *= grid[0] * grid[1] if grid else 1
    lines = [f"%i{i} = stablehlo.constant {dense_text(a)}" for i, a in enumerate(inputs)]
    types = ", ".join(dense_text(a).rpartition(" : ")[2] for a in inputs)
    names = ", ".join(f"%i{i}" for i in range(len(inputs)))
    left = f"%r:{len(outs)}" if len(outs) > 1 else "%r"
    run = f"call @case({names})"
    if grid:
        row = f"[{', '.join(['@case'] * grid[1])}]"
        programs = f"programs = [{', '.join([row] * grid[0])}]"
        run = f'"interpreter.run_parallel"({names}) {{{programs}}}'
    lines.append(f"{left} = {run} : ({types}) -> ({', '.join(outs)})")
    returned: list[tuple[str, str]] = []
    for index, out in enumerate(outs):
        value = f"%r#{index}" if len(outs) > 1 else "%r"
        if "complex" not in out:
            returned.append((value, out))
            continue
        part = out.replace("complex<f32>", "f32").replace("complex<f64>", "f64")
        for name in ("real", "imag"):
            lines.append(f"%{name}{index} = stablehlo.{name} {value} : ({out}) -> {part}")
            returned.append((f"%{name}{index}", part))
    kinds = ", ".join(t for _, t in returned)
    lines.append(f"return {', '.join(v for v, _ in returned)} : {kinds}")
    body = "\n  ".join(lines)
    main = f"func.func @main() -> ({kinds}) {{\n  {body}\n}}\n"
    if re.match(r"\s*module\b", renamed):
        start = renamed.index("{", renamed.index("module")) + 1
        if "attributes" in renamed[:start]:
            start = renamed.index("{", start) + 1
        return renamed[:start] + "\n" + main + renamed[start:]
    return renamed + main


def split_complex(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Results as `closed` returns them: complex ones as two."""
    parts: list[np.ndarray] = []
    for array in arrays:
        parts += (
            [np.real(array), np.imag(array)] if dtype(array.dtype).kind == "complex" else [array]
        )
    return parts


def _read(answered: Path, verdicts: list[Verdict | None]) -> int | None:
    """Fill in the verdicts; returns the last program that was started."""
    started = None
    for line in answered.read_text().splitlines():
        row: dict[str, Any] = json.loads(line)
        started = row["program"]
        if "results" in row:
            verdicts[started] = Verdict(tuple(parse_dense(t) for t in row["results"]))
        elif "why" in row:
            verdicts[started] = Verdict(None, row["why"])
    return started


def _last_line(log: str) -> str:
    lines = [line for line in log.strip().splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower() or "LLVM" in line]
    return (told or lines or ["no message"])[0][:300]


def _child(asked: str, answered: str) -> None:
    from jaxlib.mlir import ir as mlir
    from jaxlib.mlir.dialects import stablehlo

    from anychip.core import ir

    with open(answered, "w", encoding="utf-8") as out:
        for index, text in json.loads(Path(asked).read_text(encoding="utf-8")):
            print(json.dumps({"program": index}), file=out, flush=True)
            row: dict[str, Any] = {"program": index}
            try:
                source: str | bytes = text
                for mark, pipeline in _PREPARE:
                    if mark.search(text):
                        source = ir.run_passes(ir.to_bytecode(ir.parse(source)), pipeline)
                context = ir.context()
                stablehlo.register_interpreter_dialect(context)  # for run_parallel
                with context:
                    results = stablehlo.eval_module(mlir.Module.parse(source), [])
                    row["results"] = [str(r) for r in results]
            except (InputError, mlir.MLIRError, ValueError, RuntimeError) as error:
                row["why"] = f"{type(error).__name__}: {error}"[:2000]
            print(json.dumps(row), file=out, flush=True)


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2])
