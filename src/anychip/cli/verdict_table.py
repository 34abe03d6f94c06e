"""Verdicts as people read them: a table that grows while targets are asked, and the whole of it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from textwrap import fill

from rich.console import Group, RenderableType
from rich.text import Text

from anychip.cli.output import console, progress_console, scaled, table
from anychip.cli.verdicts import State, Verdict

COLUMNS = ("target", "compiled", "numbers", "time", "ops, or why not")


class Growing:
    """What is shown meanwhile: the latest rows, and below them who is at work and for how long."""

    def __init__(self, title: str, total: int):
        self._title, self._total, self._start_s = title, total, time.perf_counter()
        self._rows: list[Verdict] = []
        self._done = 0
        self._busy: dict[str, float] = {}

    def hear(self, name: str, verdict: Verdict | None) -> None:
        if verdict is None:
            self._busy[name] = time.perf_counter()
            return
        self._busy.pop(name, None)
        self._done += 1
        if verdict.state in ("ok", "refused") and not name.endswith(":twin"):
            self._rows.append(verdict)

    def __rich__(self) -> RenderableType:
        now = time.perf_counter()
        busy = ", ".join(f"{name} {now - began:.0f} s" for name, began in self._busy.items())
        said = f"{self._done} of {self._total}, {now - self._start_s:.0f} s: {busy}"
        line = Text(said, style="dim", no_wrap=True, overflow="ellipsis")
        if not self._rows:
            return line
        room = max(1, progress_console.height - 7)
        rows = [_row(one, 60) for one in self._rows[-room:]]
        return Group(table(self._title, COLUMNS, rows, right=(3,)), line)


def show(title: str, verdicts: Sequence[Verdict], *, is_all: bool) -> None:
    """Compilers first; when all were asked, twins that say the same and what is absent in short."""
    unanswered = ("absent", "missing", "unasked")
    others = [v for v in verdicts if is_all and v.state in unanswered]
    twins = [v for v in verdicts if is_all and v.target.endswith(":twin") and v not in others]
    asked = [v for v in verdicts if v not in twins and v not in others]
    asked.sort(key=lambda v: (not v.ran, not v.compiled))
    if asked:
        console.print(table(title, COLUMNS, [_row(v) for v in asked], right=(3,)))
    if twins:
        console.print(table("Twins", ("chips", "ops, or why not"), _grouped(twins, ":twin")))
    for one in (v for v in verdicts if v.not_kept):
        console.print(f"{one.target}: not kept: {one.not_kept}", style="yellow", soft_wrap=True)
    if others:
        console.print(table("Not asked", ("targets", "why"), _grouped(others)))


def _row(verdict: Verdict, limit: int = 240) -> tuple[str | Text, ...]:
    said = _short(verdict.error, limit) or verdict.summary
    took = scaled(verdict.seconds, "s")
    return verdict.target, _yes(verdict), _outcome(verdict), took, said


def _grouped(verdicts: Sequence[Verdict], ending: str = "") -> list[tuple[str, Text]]:
    """(names without their ending, what all of them said), the largest group first."""
    groups: dict[tuple[State, str], list[str]] = defaultdict(list)
    for one in verdicts:
        said = one.error or one.summary
        groups[one.state, said].append(one.target.removesuffix(ending))
    return [
        (fill(", ".join(names), 48), Text(said, style="red" if state == "refused" else ""))
        for (state, said), names in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _short(error: str | None, limit: int) -> str:
    text = " ".join((error or "").split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _yes(verdict: Verdict) -> Text:
    if verdict.state in ("missing", "absent", "unasked"):
        return Text("–", style="dim")
    return Text("yes", style="green") if verdict.compiled else Text("no", style="red")


def _outcome(verdict: Verdict) -> Text:
    if verdict.ran and verdict.matched is None:
        return Text("ran, not compared", style="dim")
    if verdict.matched is None:
        return Text("compiled, not run" if verdict.compiled else "–", style="dim")
    style = "green" if verdict.matched else "red"
    word = "match" if verdict.matched else "differ"
    if verdict.tolerance is None:
        return Text(f"{word} (max rel {verdict.max_rel_err:.1e})", style=style)
    cell = Text(f"{word} (rel {verdict.rel_err:.1e} of {verdict.tolerance:.1e})", style=style)
    return cell.append(f"\n{verdict.simulated}", style="dim") if verdict.simulated else cell
