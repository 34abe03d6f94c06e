"""The zoo: a table of models × stages, each model in a child process with a time limit.

    python tools/zoo.py [timm transformers …] [--only PATTERN] [--retry] [--timeout 240]

Models are listed in zoo/*.toml. Results are appended to a JSON-lines file as they come, so a run
that was stopped goes on where it was; a report in JSON and Markdown is written at the end.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import sys
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-3  # max |Δ| / max |reference|, in f32


def main() -> int:
    options = _options()
    entries = [e for e in _entries(options.lists) if fnmatch.fnmatch(e["name"], options.only)]
    done = {r["model"]: r for r in _stored(options.results)}
    waiting = [
        e
        for e in entries
        if key(e) not in done or (options.retry and done[key(e)]["error"] is not None)
    ]
    for entry, result in _run_all(waiting, options):
        done[key(entry)] = result
        with open(options.results, "a") as file:
            file.write(json.dumps(result) + "\n")
    rows = [done[key(e)] for e in entries if key(e) in done]
    _report(rows, options.report)
    return 0 if all(r["error"] is None for r in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = sorted(p.stem for p in (ROOT / "zoo").glob("*.toml"))
    parser.add_argument("lists", nargs="*", default=names, help=f"of {', '.join(names)}")
    parser.add_argument("--only", default="*", help="a pattern of model names")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds a model may take")
    parser.add_argument("--target", default="cpu:xla")
    parser.add_argument("--retry", action="store_true", help="run those again that failed")
    parser.add_argument("--results", type=Path, default=Path("runs/zoo.jsonl"))
    parser.add_argument("--report", type=Path, default=Path("runs/zoo"))
    options = parser.parse_args()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    return options


def _entries(lists: list[str]) -> Iterator[dict[str, Any]]:
    for name in lists:
        for row in _rows(name):
            yield {**_base(row), "source": name, **row}


def _rows(name: str) -> list[dict[str, Any]]:
    return tomllib.loads((ROOT / "zoo" / f"{name}.toml").read_text())["models"]


def _base(row: dict[str, Any]) -> dict[str, Any]:
    """What the entry of this name in the list `of` says, for rows that only point there."""
    if "of" not in row:
        return {}
    return next(r for r in _rows(row["of"]) if r["name"] == row["name"])


def key(entry: dict[str, Any]) -> str:
    return f"{entry['source']}/{entry['name']}"


def _stored(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _run_all(entries: list[dict[str, Any]], options: argparse.Namespace) -> Iterator[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    context = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tools"), str(ROOT / "src")])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    context.set_forkserver_preload(["zoo_preload"])
    waiting, running, passed = list(entries), {}, 0
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    ]
    with Progress(*columns, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("zoo", total=len(entries))
        while waiting or running:
            while waiting and len(running) < options.jobs:
                entry = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                child = context.Process(target=_child, args=(entry, options.target, theirs))
                child.start()
                theirs.close()
                running[key(entry)] = (entry, child, ours, time.monotonic())
            for name, (entry, child, pipe, since) in list(running.items()):
                result = _finished(entry, child, pipe, since, options.timeout)
                if result is None:
                    continue
                del running[name]
                passed += result["error"] is None
                print(_line(result), flush=True)
                progress.update(task, advance=1, description=f"{passed} passed, {name}")
                yield entry, result
            time.sleep(0.05)


def _finished(entry: Any, child: Any, pipe: Any, since: float, timeout: float) -> Any:
    """The child's result; one made here when it died or ran out of time; None while it runs."""
    if pipe.poll():
        try:
            result = pipe.recv()
            child.join()
            return result
        except EOFError:
            child.join()
            return _failed(entry, f"the process died with exit code {child.exitcode}", since)
    if time.monotonic() - since > timeout:
        child.kill()
        child.join()
        return _failed(entry, f"took longer than {timeout:.0f} s", since)
    return None


def _failed(entry: dict[str, Any], error: str, since: float) -> dict[str, Any]:
    return {**_blank(entry), "error": error, "seconds": round(time.monotonic() - since, 1)}


def _blank(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": key(entry),
        "frontend": "torch",
        "imported": False,
        "lowered": False,
        "targets": {},
        "error": None,
        "stage": "build",
    }


def _child(entry: dict[str, Any], target: str, pipe: Any) -> None:
    started = time.monotonic()
    row = _blank(entry)
    if entry["source"] == "keras":
        from zoo_keras import stages
    else:
        stages = _stages
    try:
        for stage in stages(entry, target, row):
            row["stage"] = stage
    except BaseException as error:  # a child reports whatever happened to it
        row["error"] = f"{type(error).__name__}: {str(error)[:1500]}"
        row["traceback"] = "".join(traceback.format_exception(error)[-6:])[-3000:]
    row["seconds"] = round(time.monotonic() - started, 1)
    pipe.send(row)
    pipe.close()


def _stages(entry: dict[str, Any], target: str, row: dict[str, Any]) -> Iterator[str]:
    import torch
    import zoo_build
    import zoo_check

    torch.set_num_threads(2)
    built = zoo_build.build(entry)
    yield "reference"
    expected = zoo_check.reference(built)
    if entry["source"] == "compile":
        yield "torch.compile"
        error = zoo_check.compare_dynamo(built, target)
        row["imported"] = row["lowered"] = True
        _judge(row["targets"].setdefault(target, {"compiled": True}), error)
        yield "done"
        return
    yield "export"
    program = zoo_check.export_program(built)
    row["imported"] = True
    yield "lower"
    lowered = zoo_check.lower(program, built)
    row["lowered"], row["ops"] = True, lowered.module.text(elide_over=16).count("stablehlo.")
    verdict = row["targets"].setdefault(target, {"compiled": False, "matched": False})
    yield "compile"
    executable = zoo_check.compile_for(target, lowered)
    verdict["compiled"] = True
    yield "run"
    _judge(verdict, zoo_check.compare(built, executable, lowered, expected))
    yield "done"


def _judge(verdict: dict[str, Any], error: float) -> None:
    verdict["max_rel_err"], verdict["matched"] = error, error < TOLERANCE
    if not verdict["matched"]:
        raise AssertionError(f"max |Δ| / max |reference| is {error:.3g}")


def _line(result: dict[str, Any]) -> str:
    worst = [f"{v.get('max_rel_err', float('nan')):.1e}" for v in result["targets"].values()]
    told = f"ok {' '.join(worst)}" if result["error"] is None else f"{result['stage']}: "
    error = (result["error"] or "").replace("\n", " ")[:220]
    return f"{result['model']:45} {result['seconds']:6.1f} s  {told}{error}"


def _report(rows: list[dict[str, Any]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zoo.json").write_text(json.dumps({"results": rows}, indent=1))
    passed = sum(r["error"] is None for r in rows)
    stages = Counter(r["stage"] for r in rows if r["error"] is not None)
    lines = [
        "# Zoo",
        "",
        f"{passed} of {len(rows)} models pass every stage"
        + (f"; the others stop at: {dict(stages)}." if stages else "."),
        "",
        "| model | imported | lowered | compiled | matched | rel. error | seconds | stopped by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for verdict in row["targets"].values() or [{}]:
            error = (row["error"] or "").splitlines()
            cells = [
                row["model"],
                *("yes" if v else "no" for v in (row["imported"], row["lowered"])),
                *("yes" if verdict.get(k) else "no" for k in ("compiled", "matched")),
                f"{verdict['max_rel_err']:.1e}" if "max_rel_err" in verdict else "",
                str(row["seconds"]),
                error[0].replace("|", "/") if error else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    (folder / "zoo.md").write_text("\n".join(lines) + "\n")
    print(f"{passed} of {len(rows)} pass; report in {folder}/zoo.md")


if __name__ == "__main__":
    sys.exit(main())
