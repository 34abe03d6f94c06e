"""The zoo's table: JSON for machines, Markdown for people, both from the stored rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from anychip.core import InputError, machine_name
from anychip.zoo.lists import Entry

Result = Mapping[str, Any]

_CELL_CHARACTERS = 600
_PACKAGES = ("torch", "transformers", "timm", "tensorflow-cpu", "keras", "onnx", "onnxruntime")


def stored(path: Path) -> dict[str, dict[str, Any]]:
    """The last result of each model in a file of JSON lines; none when there is no file."""
    if not path.exists():
        return {}
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            result = json.loads(line)
            found[result["model"]] = result
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"not a result ({error})", path=str(path), field=f"line {number}"
            ) from None
    return found


def document(results: Sequence[Result], day: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """What `zoo.json` holds; `results` is the part others may rely on. `entries`: the models of
    the lists, whether they have run yet or not."""
    listed = Counter(entry.list for entry in entries)
    about = {entry.list: entry.about for entry in entries}
    lists: dict[str, list[Result]] = {}
    for result in results:
        lists.setdefault(result["model"].split("/")[0], []).append(result)
    return {
        "date": day,
        "machine": machine_name(),
        "versions": {p: v for p in ("anychip", "jax", *_PACKAGES) if (v := _version(p))},
        "summary": [
            {
                "list": name,
                "about": about[name],
                "listed": listed[name],
                "models": len(rows),
                "passed": sum(r["error"] is None for r in rows),
                "explained": sum(bool(r["error"] and r["limit"]) for r in rows),
                "max_rel_err": max(
                    (e for r in rows if r["error"] is None for e in _errors(r)), default=None
                ),
            }
            for name, rows in lists.items()
        ],
        "results": list(results),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _errors(result: Result) -> list[float]:
    cells = result["targets"].values()
    return [c["max_rel_err"] for c in cells if c.get("max_rel_err") is not None]


def markdown(made: Mapping[str, Any], command: str, *, with_models: bool = True) -> str:
    """The report: a summary, what fails and why, and (unless told otherwise) every model."""
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    targets = sorted({t for r in made["results"] for t in r["targets"]})
    lines = [
        "# Zoo",
        "",
        f"{made['date']}, {made['machine']}. Targets: {', '.join(targets) or 'none'}. {versions}.",
        "A model passes when it comes in, lowers, compiles, runs, and gives the numbers of its own "
        "framework (largest max |Δ| / max |reference| below 1e-3 in f32, or the list's own bound).",
        f"Reproduce with `{command}`.",
        "",
        "| list | what | listed | run | pass | rate | largest error of those that pass |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in made["summary"]:
        rate = f"{row['passed'] / row['models']:.1%}"
        worst = "–" if row["max_rel_err"] is None else f"{row['max_rel_err']:.1e}"
        counts = f"{row['listed']} | {row['models']} | {row['passed']}"
        lines.append(f"| {row['list']} | {_cell(row['about'])} | {counts} | {rate} | {worst} |")
    failed = [r for r in made["results"] if r["error"] is not None]
    lines += ["", "## What does not pass", ""]
    if failed:
        lines += ["| model | stops at | error | known limit |", "|---|---|---|---|"]
        lines += [
            f"| {r['model']} | {r['stage']} | {_cell(r['error'])} | {_cell(r['limit'] or '–')} |"
            for r in failed
        ]
    else:
        lines.append("Nothing.")
    if with_models:
        lines += ["", "## Every model", "", *_models(made["results"])]
    return "\n".join(lines) + "\n"


def _models(results: Sequence[Result]) -> list[str]:
    lines = [
        "| model | frontend | imported | lowered | target | compiled | matched | error | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for target, cell in (result["targets"] or {"–": {}}).items():
            worst = cell.get("max_rel_err")
            cells = (
                result["model"],
                result["frontend"],
                *("yes" if result[key] else "no" for key in ("imported", "lowered")),
                target,
                *("yes" if cell.get(key) else "no" for key in ("compiled", "matched")),
                "–" if worst is None else f"{worst:.1e}",
                f"{result['seconds']:.1f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(text: str) -> str:
    """All lines of a message in one cell; of a very long one its beginning and its end, for the
    place and the remedy stand last."""
    lines = [line.strip().replace("|", "/") for line in text.splitlines() if line.strip()]
    whole = "<br>".join(lines)
    if len(whole) <= _CELL_CHARACTERS:
        return whole
    half = _CELL_CHARACTERS // 2
    return f"{whole[:half]} […] {whole[-half:]}"
