"""One SVG chart: a number for each of many named places in order. No dependencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 960, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 44, 90

_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #444 } .title { font-weight: 600; font-size: 14px }
.grid { stroke: #ddd } .line { fill: none; stroke: #2563eb; stroke-width: 1.5 }
.mark { fill: #2563eb }
"""


def curve(points: Sequence[tuple[str, float, str]], *, title: str, unit: str) -> str:
    """Points are (name, value, text shown when pointed at), drawn from left to right.

    Names share the space below: as many as fit, the first and the last among them.
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><style>{_STYLE}</style>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
        f'<text class="title" x="12" y="22">{escape(title)}</text>'
    ]
    if not points:
        return "".join([*parts, '<text x="60" y="60">equal everywhere</text></svg>'])
    values = [value for _, value, _ in points]
    ticks = _ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def place(index: int, value: float) -> tuple[float, float]:
        span = max(len(points) - 1, 1)
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * index / span
        y = HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)
        return x, y

    for tick in ticks:
        _, y = place(0, tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    parts.append(f'<text x="12" y="{_TOP - 6}">{escape(unit)}</text>')
    places = [place(i, value) for i, value in enumerate(values)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline class="line" points="{line}"/>')
    step = max(1, math.ceil(len(points) / 30))
    for index, ((name, _, tip), (x, y)) in enumerate(zip(points, places, strict=True)):
        parts.append(
            f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="2.5">'
            f"<title>{escape(tip)}</title></circle>"
        )
        is_last = index == len(points) - 1
        if is_last or (index % step == 0 and index + step <= len(points) - 1):
            short = name if len(name) <= 16 else f"…{name[-15:]}"
            parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 14}" text-anchor="end" '
                f'transform="rotate(-50 {x:.1f} {HEIGHT - _BOTTOM + 14})">{escape(short)}</text>'
            )
    return "".join([*parts, "</svg>"])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers around [low, high], about six of them."""
    span = max(high - low, 1e-9)
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [k * step for k in range(first, max(last, first + 1) + 1)]
