"""`anychip chips [NAME]`: the chips, or one chip's every figure with its source."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from anychip.cli.output import Format, FormatOption, console, print_json, scaled, table
from anychip.core import AnychipError, Fact, Rule, discover

UNITS = {
    "flops_per_s": "FLOP/s",
    "bytes_per_s": "B/s",
    "capacity_bytes": "B",
    "j_per_byte": "J/B",
    "_bytes": "B",
    "_hz": "Hz",
    "_s": "s",
    "_w": "W",
    "_j": "J",
}


def register(app: typer.Typer) -> None:
    app.command("chips")(chips)


def chips(
    name: Annotated[str | None, typer.Argument(help="A chip; all of them when left out.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """List the chips, or print each figure of one with its source."""
    if name is None:
        _list(format)
    else:
        _one(name, format)


def _list(format: Format) -> None:
    registry = discover()
    rows: list[dict[str, object]] = []
    for chip in registry.chips:
        try:
            spec = registry.chip(chip).spec
        except AnychipError as error:
            rows.append({"chip": chip, "broken": str(error), "package": registry.owners[chip]})
            continue
        best = max(spec.matmul_flops_per_s.items(), key=lambda item: item[1].value)
        rows.append(
            {
                "chip": chip,
                "title": spec.title,
                "family": spec.family,
                "targets": [f"{chip}:{how}" for how in sorted(registry.chip(chip).targets)],
                "memory_bytes": spec.main_memory.capacity_bytes.value,
                "bytes_per_s": spec.main_memory.read_bytes_per_s.value,
                "peak_flops_per_s": best[1].value,
                "peak_format": best[0],
                "package": registry.owners[chip],
            }
        )
    if format is Format.json:
        print_json({"chips": rows})
        return
    cells = [
        (
            row["chip"],
            row["title"],
            row["family"],
            scaled(float(str(row["memory_bytes"])), "B"),
            scaled(float(str(row["bytes_per_s"])), "B/s"),
            f"{scaled(float(str(row['peak_flops_per_s'])), '')} {row['peak_format']}",
            " ".join(str(t).split(":")[1] for t in row["targets"]),  # type: ignore[attr-defined]
        )
        if "broken" not in row
        else (row["chip"], Text(f"broken: {row['broken']}", style="red"), "", "", "", "", "")
        for row in rows
    ]
    columns = ("chip", "what it is", "family", "memory", "bandwidth", "peak FLOP/s", "targets")
    console.print(table(f"{len(rows)} chips", columns, cells, right=(3, 4, 5)))
    console.print("[dim]anychip chips NAME prints every figure of one with its source.[/dim]")


def _one(name: str, format: Format) -> None:
    registry = discover()
    chip = registry.chip(name)
    spec = chip.spec
    systems = registry.systems(name)
    if format is Format.json:
        print_json(
            {
                "chip": name,
                "title": spec.title,
                "vendor": spec.vendor,
                "family": spec.family,
                "note": spec.note,
                "facts": [{"field": key, **_fact_json(fact)} for key, fact in spec.facts()],
                "rules": [{"field": key, **vars(rule)} for key, rule in spec.rules()],
                "limits": [{"op": x.op, "dtype": x.dtype, "why": x.why} for x in spec.limits],
                "targets": sorted(chip.targets),
                "absent": dict(chip.absent),
                "systems": [
                    {"name": s.name, "title": s.title, "counts": list(s.counts)} for s in systems
                ],
            }
        )
        return
    console.print(f"[bold]{spec.title}[/bold]  ({spec.name}; {spec.vendor}; family {spec.family})")
    if spec.note:
        console.print(spec.note, style="dim")
    width = max(len(key) for key, _ in spec.facts())
    for key, fact in (*spec.facts(), *spec.rules()):
        shown = fact.value if isinstance(fact, Rule) else _value(key, fact)
        line = Text.assemble(f"{key:<{width}}  ", (shown, "bold"), "  ")
        line.append(fact.confidence, style=_STYLE[fact.confidence])
        console.print(line, soft_wrap=True)
        for detail in (fact.source, fact.note):
            if detail:
                console.print(Text(f"    {detail}", style="dim"), soft_wrap=True)
    for limit in spec.limits:
        console.print(f"limit: {limit.op} {limit.dtype}: {limit.why}")
    for how in sorted(chip.targets):
        console.print(f"target: {name}:{how}")
    for how, why in chip.absent.items():
        console.print(f"not to be had: {how}: {why}", style="dim")
    for system in systems:
        counts = ", ".join(map(str, system.counts))
        console.print(f"system: {system.name} ({system.title}), {counts} chips", style="dim")


_STYLE = {"high": "green", "medium": "yellow", "low": "red"}


def unit_of(key: str) -> str:
    """The unit that a figure's key ends in, "" when it is a plain number."""
    if "flops_per_s" in key:
        return "FLOP/s"
    if key.endswith(("usd_per_hour", "purchase_usd")):
        return "USD/h" if key.endswith("hour") else "USD"
    return next((unit for suffix, unit in UNITS.items() if key.endswith(suffix)), "")


def _value(key: str, fact: Fact) -> str:
    unit = unit_of(key)
    shown = (
        f"{fact.value:g} {unit}".strip()
        if unit in ("USD", "USD/h", "")
        else scaled(fact.value, unit)
    )
    if fact.low is None and fact.high is None:
        return shown
    low, high = fact.range
    spread = (
        f"{low:g}–{high:g}"
        if unit in ("USD", "USD/h", "")
        else f"{scaled(low, unit)} – {scaled(high, unit)}"
    )
    return f"{shown} ({spread})"


def _fact_json(fact: Fact) -> dict[str, object]:
    low, high = fact.range
    return {
        "value": fact.value,
        "low": low,
        "high": high,
        "source": fact.source,
        "confidence": fact.confidence,
        "note": fact.note,
    }
