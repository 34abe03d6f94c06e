"""A page of predicted against published: one log-log chart a metric, a dot a row. No network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

COLOURS = {
    "simt": "#2563eb",
    "systolic": "#059669",
    "lpu": "#d97706",
    "wafer": "#7c3aed",
    "dimc": "#db2777",
    "chiplet": "#0891b2",
    "dataflow": "#65a30d",
    "mesh": "#dc2626",
    "soc": "#475569",
    "cpu": "#92400e",
}
"""A colour a chip family; darker than the page by 4.5 to 1 or more."""

SIZE, LEFT, RIGHT, BELOW, ABOVE = 380, 70, 34, 46, 34
"""Pixels; half of the widest label ("100000") stands to the right of the last grid line."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1220px; color: #111; }
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem; } svg { background: #fff; }
text { font: 12px system-ui, sans-serif; fill: #333; } .title { font-size: 14px; font-weight: 600; }
.grid { stroke: #e5e7eb; } .same { stroke: #111; } .band { stroke: #9ca3af; stroke-dasharray: 4 3; }
td, th { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #e5e7eb; }
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin: 0 .4em 0 1em; }
"""


def scatter_page(document: Mapping[str, Any]) -> str:
    """HTML of a `validate` JSON document."""
    rows = document["rows"]
    metrics = sorted({(row["metric"], row["unit"]) for row in rows})
    charts = "".join(
        chart([r for r in rows if (r["metric"], r["unit"]) == key], *key) for key in metrics
    )
    families = [name for name in COLOURS if any(row["family"] == name for row in rows)]
    legend = "".join(
        f'<span class="key" style="background:{COLOURS[name]}"></span>{name}' for name in families
    )
    head = ("family", "metric", "rows", "median |error|", "90th pct.", "bias", "in 80 % interval")
    keys = ("median_abs_error", "p90_abs_error", "median_error", "coverage")
    lines = "".join(
        f"<tr><td>{escape(one['family'])}</td><td>{escape(one['metric'])}</td>"
        f"<td>{one['n']}</td>" + "".join(f"<td>{one[key]:.0%}</td>" for key in keys) + "</tr>"
        for one in document["summary"]
    )
    columns = "".join(f"<th>{name}</th>" for name in head)
    left = len(document["not_expressible"])
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<title>anychip validate</title><style>{STYLE}</style>"
        "<h1>Predicted against published</h1>"
        f"<p>{len(rows):,} published results predicted by the twins, {left} not expressible. "
        "On the line: exact; between the dashes: within a quarter. Point at a dot for its row.</p>"
        f"<p>{legend}</p><div class='charts'>{charts}</div>"
        f"<h2>Summary</h2><table><tr>{columns}</tr>{lines}</table>"
        f"{_beside(document['summary'])}</html>"
    )


def _beside(summary: Sequence[Mapping[str, Any]]) -> str:
    """The twin and the roofline on the rows that both predict; nothing where there are none."""
    shown = [one for one in summary if one["baseline"]]
    if not shown:
        return ""
    heads = ("family", "metric", "rows", "twin", "roofline", "twin, 90th pct.", "roofline")
    keys = ("twin_median_abs_error", "median_abs_error", "twin_p90_abs_error", "p90_abs_error")
    lines = "".join(
        f"<tr><td>{escape(one['family'])}</td><td>{escape(one['metric'])}</td>"
        f"<td>{one['baseline']['n']}</td>"
        + "".join(f"<td>{one['baseline'][key]:.0%}</td>" for key in keys)
        + "</tr>"
        for one in shown
    )
    columns = "".join(f"<th>{name}</th>" for name in heads)
    return (
        "<h2>Beside a five-parameter roofline, on the same serving points</h2>"
        f"<p>Median and 90th percentile of |error|.</p><table><tr>{columns}</tr>{lines}</table>"
    )


def chart(rows: Sequence[Mapping[str, Any]], metric: str, unit: str, *, tips: bool = True) -> str:
    """One metric's rows as an SVG; with `tips` each dot says which row it is."""
    values = [row[key] for row in rows for key in ("published", "predicted")]
    low = math.floor(math.log10(min(values)) - 0.05)
    high = max(math.ceil(math.log10(max(values)) + 0.05), low + 1)

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - low) / (high - low) * SIZE

    def y(value: float) -> float:
        return ABOVE + SIZE - (math.log10(value) - low) / (high - low) * SIZE

    name = f"{metric}, {unit} ({len(rows)} rows)"
    parts = [
        f'<svg role="img" aria-label="{escape(name)}" width="{LEFT + SIZE + RIGHT}" '
        f'height="{ABOVE + SIZE + BELOW}">',
        f'<text class="title" x="{LEFT}" y="18">{escape(name)}</text>',
    ]
    for power in range(low, high + 1):
        at = 10.0**power
        label = f"{at:g}" if -3 <= power <= 5 else f"1e{power}"
        parts += [
            f'<line class="grid" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{ABOVE}" '
            f'y2="{ABOVE + SIZE}"/>',
            f'<line class="grid" y1="{y(at):.1f}" y2="{y(at):.1f}" x1="{LEFT}" '
            f'x2="{LEFT + SIZE}"/>',
            f'<text x="{x(at):.1f}" y="{ABOVE + SIZE + 16}" text-anchor="middle">{label}</text>',
            f'<text x="{LEFT - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{label}</text>',
        ]
    ends = (10.0**low, 10.0**high)
    for factor, kind in ((1.0, "same"), (1.25, "band"), (0.8, "band")):
        first, last = max(ends[0], ends[0] / factor), min(ends[1], ends[1] / factor)
        parts.append(
            f'<line class="{kind}" x1="{x(first):.1f}" y1="{y(first * factor):.1f}" '
            f'x2="{x(last):.1f}" y2="{y(last * factor):.1f}"/>'
        )
    for row in rows:
        tip = (
            f"{row['id']}: {row['chip']}, {row['model']}, published {row['published']:.4g}, "
            f"predicted {row['predicted']:.4g} ({row['error']:+.0%})"
        )
        said = f"<title>{escape(tip)}</title>" if tips else ""
        parts.append(
            f'<circle cx="{x(row["published"]):.1f}" cy="{y(row["predicted"]):.1f}" r="4" '
            f'fill="{COLOURS.get(row["family"], "#111")}" fill-opacity="0.6">{said}</circle>'
        )
    middle = ABOVE + SIZE / 2
    centre, under = LEFT + SIZE / 2, ABOVE + SIZE + 36
    parts += [
        f'<text x="{centre}" y="{under}" text-anchor="middle">published</text>',
        f'<text x="16" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 16 {middle})">predicted</text>',
        "</svg>",
    ]
    return "".join(parts)
