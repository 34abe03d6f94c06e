"""Print the op table's coverage: op × {unit, cases, own expectations, reference}.

Runs every case against its own expectation and the reference interpreter; exits 1 on a mismatch.
`--declared` only prints what the table declares, without running anything. `-f json` for programs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from typing import Any

from anychip.ops.table import OPS, Op
from anychip.testing.judge import Judgement, has_meaning, judge, unjudged


def rows(judgements: dict[str, list[Judgement]] | None) -> list[dict[str, Any]]:
    """One row for each op; counts of what agreed when there are judgements."""
    return [_row(entry, judgements) for entry in OPS.values()]


def _row(entry: Op, judgements: dict[str, list[Judgement]] | None) -> dict[str, Any]:
    stated = sum(c.expect is not None or c.law is not None for c in entry.cases)
    asked = sum(not unjudged(entry, c) for c in entry.cases)
    row: dict[str, Any] = {
        "op": entry.name,
        "unit": entry.unit,
        "cases": len(entry.cases),
        "own": stated,
        "reference": asked,
        "reference_none": "",
        "meaning": "yes",
        "mismatches": None,
    }
    if entry.inexpressible:
        row["meaning"] = f"not reachable: {entry.inexpressible}"
    elif not has_meaning(entry):
        row["meaning"] = "refused"
    reasons = Counter(unjudged(entry, c) for c in entry.cases if unjudged(entry, c))
    if not asked:
        row["reference_none"] = entry.reference or next(iter(reasons), "")
    if judgements is not None:
        mine = judgements.get(entry.name, [])
        row["own"] = sum(j.own == "agrees" for j in mine)
        row["reference"] = sum(j.reference == "agrees" for j in mine)
        row["mismatches"] = sum("differs" in (j.own, j.reference) for j in mine)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-f", "--format", choices=("table", "json"), default="table")
    parser.add_argument("--declared", action="store_true", help="do not run the cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs")
    arguments = parser.parse_args()
    found: list[Judgement] = []
    if not arguments.declared:
        found = judge(list(OPS.values()), arguments.seed)
    by_op: dict[str, list[Judgement]] = {}
    for judgement in found:
        by_op.setdefault(judgement.op, []).append(judgement)
    table = rows(None if arguments.declared else by_op)
    wrong = [j for j in found if "differs" in (j.own, j.reference)]
    summary = {
        "ops": len(table),
        "with_meaning": sum(r["meaning"] == "yes" for r in table),
        "cases": sum(r["cases"] for r in table),
        "own": sum(r["own"] for r in table),
        "reference": sum(r["reference"] for r in table),
        "ops_judged_by_reference": sum(r["reference"] > 0 for r in table),
        "mismatches": None if arguments.declared else len(wrong),
    }
    if arguments.format == "json":
        print(json.dumps({"summary": summary, "ops": table, "wrong": [str(j) for j in wrong]}))
    else:
        _print(table, summary, wrong)
    return 1 if wrong else 0


def _print(table: list[dict[str, Any]], summary: dict[str, Any], wrong: list[Judgement]) -> None:
    print(f"{'op':<36}{'unit':<12}{'cases':>6}{'own':>5}{'reference':>11}")
    for row in table:
        reference = str(row["reference"]) if row["reference"] else "none"
        note = f"  {row['reference_none']}" if row["reference_none"] else ""
        if row["meaning"] != "yes":
            note += f"  [{row['meaning']}]"
        print(
            f"{row['op']:<36}{row['unit']:<12}{row['cases']:>6}{row['own']:>5}{reference:>11}{note}"
        )
    print(
        f"\n{summary['ops']} ops, {summary['with_meaning']} with a meaning on one chip; "
        f"{summary['cases']} cases, {summary['own']} with their own expectation, "
        f"{summary['reference']} judged by the reference interpreter "
        f"(of {summary['ops_judged_by_reference']} ops)"
    )
    if summary["mismatches"] is None:
        print("nothing was run")
    else:
        print(f"{summary['mismatches']} mismatches")
    for judgement in wrong:
        print(f"  {judgement}")


if __name__ == "__main__":
    sys.exit(main())
