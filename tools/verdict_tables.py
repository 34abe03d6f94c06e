"""Summary tables of `anychip compile MODEL --target all -f json`, one a model, for the docs.

    anychip compile resnet50.onnx --target all -f json > resnet50.json
    python tools/verdict_tables.py resnet50.json … [--into docs/compilers.md]

One row for a compiler and what it said; chips that were told the same share it. With `--into`, the
tables go between the page's two marks, each in the place of that of the same model.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

START, END = "<!-- verdicts: made by tools/verdict_tables.py -->", "<!-- end of verdicts -->"


def table(document: dict[str, Any]) -> str:
    """One model's table: what runs here, what compiled, what was refused, who was not asked."""
    groups: dict[tuple[int, str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for one in document["verdicts"]:
        if one["target"].endswith(":twin"):
            continue
        groups[_said(one)].append(one)
    name = Path(document["model"]).name
    verdicts = [v for v in document["verdicts"] if not v["target"].endswith(":twin")]
    counts = {
        "ran with the reference's numbers": sum(v["matched"] is True for v in verdicts),
        "ran with others": sum(v["matched"] is False for v in verdicts),
        "compiled, not run": sum(v["compiled"] and v["matched"] is None for v in verdicts),
        "refused": sum(v["state"] == "refused" for v in verdicts),
        "not installed": sum(v["state"] == "missing" for v in verdicts),
        "not to be had": sum(v["state"] == "absent" for v in verdicts),
        "not asked in time": sum(v["state"] == "unasked" for v in verdicts),
    }
    lines = [
        f"### {name}",
        ", ".join(f"{n} {what}" for what, n in counts.items() if n) + ".",
        "",
        "| compiler | chips | verdict | seconds | ops, or why not |",
        "|---|---|---|---|---|",
    ]
    for (_, how, verdict, why), found in sorted(groups.items(), key=lambda g: g[0][:3]):
        chips = ", ".join(v["target"].partition(":")[0] for v in found)
        spent = sorted(v["seconds"] for v in found)
        seconds = f"{spent[0]:.1f}" + (f"–{spent[-1]:.1f}" if len(spent) > 1 else "")
        asked = found[0]["state"] in ("ok", "refused")
        lines.append(f"| {how} | {chips} | {verdict} | {seconds if asked else ''} | {why} |")
    return "\n".join(lines)


def _tables(text: str) -> list[str]:
    """Each model's part of a page."""
    return [f"### {part.strip()}" for part in f"\n{text.strip()}".split("\n### ")[1:]]


def _said(one: dict[str, Any]) -> tuple[int, str, str, str]:
    """(order, compiler, verdict, why) that chips share."""
    how = one["target"].partition(":")[2]
    why = _short((one["error"] or one["summary"]).removeprefix(f"{one['target']} "))
    if one["matched"] is False and one["max_rel_err"] is not None:
        why += f"; off by {one['max_rel_err']:.1e} of the largest value"
    if one["state"] == "absent":
        return 5, "–", "not to be had", why
    if one["state"] == "missing":
        return 4, how, "not installed", why
    if one["state"] == "unasked":
        return 6, how, "not asked", why
    if not one["compiled"]:
        return 3, how, "**no**", why
    if one["matched"] is None:
        return 2, how, "compiled, not run", why
    word = "numbers match" if one["matched"] else "**numbers differ**"
    return 1, how, word, why


def _short(text: str) -> str:
    """The first sentence or so, without paths, addresses and what a page cannot show."""
    line = " ".join(text.split()).replace("|", "/")
    line = re.sub(r"(/[\w.\-]+){2,}", "…", line)
    return line if len(line) <= 150 else line[:149] + "…"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", nargs="+", type=Path)
    parser.add_argument("--into", type=Path)
    options = parser.parse_args()
    made = [table(json.loads(path.read_text(encoding="utf-8"))) for path in options.documents]
    text = "\n\n".join(made)
    if options.into is None:
        print(text)
        return 0
    page = options.into.read_text(encoding="utf-8")
    if START not in page or END not in page:
        print(f"{options.into} lacks the marks {START} and {END}", file=sys.stderr)
        return 2
    before, rest = page.split(START, 1)
    there, after = rest.split(END, 1)
    named = {one.splitlines()[0]: one for one in (*_tables(there), *_tables(text))}
    text = "\n\n".join(named.values())
    options.into.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
