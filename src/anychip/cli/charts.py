"""Two SVG charts of a comparison: an interval per chip, and speed against cost. No dependencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Row = Mapping[str, Any]

_LEFT, _WIDTH, _LINE = 230, 940, 24


def label(row: Row) -> str:
    """How a row is named in charts: chip, count and precision; and how, unless by its twin."""
    count = f" ×{row['count']}" if row["count"] != 1 else ""
    how = "" if row["how"] == "twin" else f" {row['how']}"
    return f"{row['chip']}{how}{count} {row['precision']}"


def interval_chart(
    rows: Sequence[Row], key: str, title: str, unit: str, factor: float = 1.0
) -> str:
    """One line a row: the interval as a bar and the value as a mark, on a logarithmic axis.

    `factor` turns the JSON's unit into `unit`. Rows without the figure are left out.
    """
    shown = [row for row in rows if row.get(key)]
    if not shown:
        return ""
    low = min(row[key]["low"] for row in shown) * factor
    high = max(row[key]["high"] for row in shown) * factor
    axis = _LogAxis(max(low, 1e-12), max(high, 2e-12), _LEFT, _WIDTH - 90)
    height = 40 + _LINE * len(shown) + 30
    parts = [_open(_WIDTH, height, title)]
    parts += [_vertical(axis(t), 28, height - 28, _tick(t)) for t in axis.ticks()]
    parts.append(f'<text class="tick" x="{_WIDTH - 84}" y="{height - 12}">{escape(unit)}</text>')
    for index, row in enumerate(shown):
        y = 44 + index * _LINE
        number = row[key]
        a, b, v = (axis(max(number[k] * factor, 1e-12)) for k in ("low", "high", "value"))
        kind = number["kind"]
        text = f"{_tick(number['value'] * factor)} {unit}"
        spread = f"{_tick(number['low'] * factor)}–{_tick(number['high'] * factor)}"
        tip = f"{label(row)}: {text}, {spread}, {kind}"
        name, wide = escape(label(row)), max(b - a, 1)
        parts.append(
            f'<g class="{kind}"><title>{escape(tip)}</title>'
            f'<text class="name" x="{_LEFT - 12}" y="{y + 4}" text-anchor="end">{name}</text>'
            f'<rect class="bar" x="{a:.1f}" y="{y - 4}" width="{wide:.1f}" height="8" rx="4"/>'
            f'<circle class="mark" cx="{v:.1f}" cy="{y}" r="5"/>'
            f'<text class="value" x="{b + 8:.1f}" y="{y + 4}">{escape(text)}</text></g>'
        )
    return "".join([*parts, "</svg>"])


def scatter_chart(rows: Sequence[Row], title: str) -> str:
    """Tokens/s one user sees (x) against dollars per million tokens (y), both logarithmic."""
    shown = [row for row in rows if row.get("user_tok_s") and row.get("usd_per_mtok")]
    if len(shown) < 2:
        return ""
    xs = [row["user_tok_s"]["value"] for row in shown]
    ys = [row["usd_per_mtok"]["value"] for row in shown]
    width, height = _WIDTH, 460
    x_axis = _LogAxis(min(xs) / 1.4, max(xs) * 1.9, 70, width - 60)
    y_axis = _LogAxis(min(ys) / 1.4, max(ys) * 1.4, height - 50, 40)
    parts = [_open(width, height, title)]
    parts += [_vertical(x_axis(t), 40, height - 50, _tick(t)) for t in x_axis.ticks()]
    parts += [
        f'<line class="grid" x1="70" x2="{width - 60}" y1="{y_axis(t):.1f}" y2="{y_axis(t):.1f}"/>'
        f'<text class="tick" x="62" y="{y_axis(t) + 4:.1f}" text-anchor="end">{_tick(t)}</text>'
        for t in y_axis.ticks()
    ]
    parts.append(
        f'<text class="tick" x="{width / 2}" y="{height - 10}" text-anchor="middle">'
        "tokens/s one user sees (right is faster)</text>"
        '<text class="tick" x="8" y="34">$ per million tokens (down is cheaper)</text>'
    )
    points = [(x_axis(x), y_axis(y)) for x, y in zip(xs, ys, strict=True)]
    places = _label_places([row["chip"] for row in shown], points)
    for row, (px, py), (tx, ty) in zip(shown, points, places, strict=True):
        speed, cost = row["user_tok_s"]["value"], row["usd_per_mtok"]["value"]
        tip = f"{label(row)}: {_tick(speed)} tok/s per user, ${_tick(cost)} per million tokens"
        leader = (
            f'<line class="leader" x1="{px:.1f}" y1="{py:.1f}" x2="{tx:.1f}" y2="{ty - 4:.1f}"/>'
            if abs(ty - 4 - py) > 8
            else ""
        )
        parts.append(
            f'<g class="{row["user_tok_s"]["kind"]}"><title>{escape(tip)}</title>{leader}'
            f'<circle class="mark" cx="{px:.1f}" cy="{py:.1f}" r="5"/>'
            f'<text class="value" x="{tx:.1f}" y="{ty:.1f}">{escape(row["chip"])}</text></g>'
        )
    return "".join([*parts, "</svg>"])


def _label_places(
    texts: Sequence[str], points: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Where each text starts: beside its point, where it covers no point and no other text."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    places: list[tuple[float, float]] = []
    for text, (x, y) in zip(texts, points, strict=True):
        width = 6.6 * len(text)
        shifts = sorted(range(-91, 92, 13), key=abs)
        options = [(left, y + 4 + shift) for shift in shifts for left in (x + 9, x - 9 - width)]
        clear = (
            (left, base)
            for left, base in options
            if all(
                left + width < x0 or left > x1 or base < y0 or base - 11 > y1
                for x0, y0, x1, y1 in taken
            )
        )
        left, base = next(clear, options[0])
        taken.append((left, base - 11, left + width, base))
        places.append((left, base))
    return places


def _vertical(x: float, top: float, bottom: float, text: str) -> str:
    """A grid line with its tick text below."""
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{text}</text>'
    )


class _LogAxis:
    def __init__(self, low: float, high: float, start: float, end: float):
        self.low, self.high = math.log10(low), math.log10(max(high, low * 1.01))
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = (1, 2, 5) if self.high - self.low < 2.5 else (1,)
        ticks = [m * 10.0**d for d in decades for m in steps]
        return [t for t in ticks if self.low <= math.log10(t) <= self.high]


def _tick(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e4 or abs(value) < 1e-3:
        return f"{value:.2g}" if abs(value) < 1e-3 else f"{value / 1000:.3g}k"
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def _open(width: int, height: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f'<text class="title" x="8" y="16">{escape(title)}</text>'
    )
