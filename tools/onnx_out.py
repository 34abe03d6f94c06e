"""What of StableHLO can be written as ONNX: every op's cases through the export and ONNX Runtime.

    python tools/onnx_out.py > docs/onnx-out.md       # the page
    python tools/onnx_out.py -f json [--only NAME …]

A case agrees when ONNX Runtime gives the interpreter's numbers within the table's tolerance.
Exits 1 when any case differs; what is refused is named with its reason.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anychip.core import (
    CompileError,
    CompileOptions,
    InputError,
    Module,
    UnsupportedError,
    discover,
)
from anychip.ops import OPS
from anychip.ops.case import Case
from anychip.testing.cases import run_cases
from anychip.testing.tolerance import mismatch


@dataclass
class Row:
    """One op. `refused` counts the reasons of the export, `runtime` those of ONNX Runtime."""

    op: str
    agree: int = 0
    differ: list[str] = field(default_factory=list[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    runtime: Counter[str] = field(default_factory=Counter[str])
    apart: int = 0


def judge(name: str, cases: list[Case]) -> Row:
    row = Row(name)
    alone = [c for c in cases if not c.replicas]
    if len(alone) < len(cases):
        row.refused["talks to other devices"] = len(cases) - len(alone)
    row.apart = sum(c.is_concrete for c in alone)
    asked = [c for c in alone if not c.is_concrete]
    built: list[tuple[Case, Any]] = []
    target = discover().target("cpu:onnxruntime")
    for case in asked:
        try:
            built.append((case, target.compile(Module.from_mlir(case.text), CompileOptions())))
        except UnsupportedError as error:
            row.refused[_reason(error)] += 1
        except CompileError as error:
            row.runtime[_plain(str(error).splitlines()[0])] += 1
        except InputError:  # the interpreter reads quantised types that the parser does not
            row.refused["its text is not valid StableHLO for this parser"] += 1
    inputs = [case.arrays() for case, _ in built]
    wanted = run_cases([case for case, _ in built], inputs) if built else []
    for (case, executable), arrays, want in zip(built, inputs, wanted, strict=True):
        try:
            got = [np.asarray(r) for r in executable.run(*arrays)]
        except CompileError as error:
            row.runtime[_plain(str(error).splitlines()[0])] += 1
            continue
        if case.law is not None:
            agrees = bool(case.law(*arrays, *got))
        else:
            agrees = not mismatch(got, want, case.reduced)
        if agrees:
            row.agree += 1
        else:
            row.differ.append(", ".join(case.inputs))
    return row


def _reason(error: UnsupportedError) -> str:
    """The first refused op's reason, without what differs from case to case."""
    if error.report:
        return _plain(error.report[0].why)
    return _plain(str(error).splitlines()[0])


def _plain(text: str) -> str:
    text = re.sub(r"^cpu:onnxruntime ", "", text)
    text = re.sub(r" \((\w+) of module\); .*| \((\w+) of \w+\).*", "", text)
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : ", "", text)
    text = re.sub(r"(argument|result|weight) \w+: ", "", text)
    text = re.sub(r"[\w/]*/(\w+?)_\d+\b", r"\1", text)
    return text.replace("|", "/")[:110]


def page(rows: list[Row]) -> str:
    total = sum(r.agree for r in rows)
    refused: Counter[str] = Counter()
    runtime: Counter[str] = Counter()
    for row in rows:
        refused += row.refused
        runtime += row.runtime
    whole = [r.op for r in rows if r.agree and not (r.refused or r.runtime or r.differ)]
    lines = [
        "# StableHLO as ONNX, op by op",
        "Made by `python tools/onnx_out.py > docs/onnx-out.md`: the op table's cases through "
        "`compilers/onnx_export` (opset 23) and",
        "ONNX Runtime's CPU provider, judged by the interpreter.",
        "",
        f"{total} cases agree, {sum(len(r.differ) for r in rows)} differ; "
        f"{sum(refused.values())} are refused by the export, {sum(runtime.values())} by the "
        f"runtime. Of {len(rows)} ops, {len(whole)} are whole.",
        "",
        "## Why cases are refused",
        "| cases | by | reason |",
        "|---|---|---|",
        *(f"| {n} | export | {why} |" for why, n in refused.most_common()),
        *(f"| {n} | runtime | {why} |" for why, n in runtime.most_common()),
        "",
        "## Ops",
        "Whole: " + ", ".join(f"`{_short(op)}`" for op in whole) + ".",
        "",
        "| op | agree | refused | why |",
        "|---|---|---|---|",
    ]
    for row in rows:
        if row.op in whole or not (row.agree or row.refused or row.runtime or row.differ):
            continue
        gone = row.refused + row.runtime
        why = "; ".join(f"{w} ({n})" for w, n in gone.most_common())
        why += f"; **{len(row.differ)} differ**" if row.differ else ""
        lines.append(f"| `{_short(row.op)}` | {row.agree} | {sum(gone.values())} | {why} |")
    return "\n".join(lines)


def _short(op: str) -> str:
    return op.removeprefix("stablehlo.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-f", "--format", choices=("page", "json"), default="page")
    parser.add_argument("--only", nargs="*", help="ops by their name")
    options = parser.parse_args()
    rows: list[Row] = []
    for name, entry in OPS.items():
        if options.only and _short(name) not in options.only:
            continue
        print(name, file=sys.stderr)
        rows.append(judge(name, list(entry.cases)))
    if options.format == "json":
        print(json.dumps([vars(r) for r in rows], indent=1))
    else:
        print(page(rows))
    return 1 if any(r.differ for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
