"""One SVG chart of lines over numbers, such as a distribution of times or a count over time."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 280, 70, 36, 50, 44
COLOURS = ("#2563eb", "#d97706", "#059669")
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #444 } .title { font-weight: 600; font-size: 14px }
.grid { stroke: #e5e7eb } polyline { fill: none; stroke-width: 1.6 } .limit { stroke: #dc2626;
stroke-dasharray: 4 3 }
"""

Line = tuple[str, Sequence[float], Sequence[float]]
"""A name, and where it goes through: rising x, and y."""


def lines(series: Sequence[Line], *, title: str, x: str, y: str, limit: float | None = None) -> str:
    """The chart; `limit` is a vertical mark. Both axes start at zero."""
    right = max([float(max(xs)) for _, xs, _ in series] + [limit or 0.0]) or 1.0
    upper = max(float(max(ys)) for _, _, ys in series) or 1.0
    ticks_x, ticks_y = _ticks(right), _ticks(upper)

    def place(at: float, value: float) -> tuple[float, float]:
        across, up = at / ticks_x[-1], value / ticks_y[-1]
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * across,
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * up,
        )

    foot, head = HEIGHT - BOTTOM, TOP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'role="img" aria-label="{escape(title)}"><style>{STYLE}</style>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
        f'<text class="title" x="12" y="20">{escape(title)}</text>'
        f'<text x="12" y="{TOP - 10}">{escape(y)}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(x)}</text>'
    ]
    for tick in ticks_x:
        at, _ = place(tick, 0.0)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{head}" y2="{foot}"/>'
            f'<text x="{at:.1f}" y="{foot + 16}" text-anchor="middle">{tick:.6g}</text>'
        )
    for tick in ticks_y:
        _, at = place(0.0, tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{tick:.6g}</text>'
        )
    if limit is not None:
        at, _ = place(limit, 0.0)
        parts.append(
            f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{head}" y2="{foot}">'
            f"<title>limit {limit:g}</title></line>"
        )
    for index, (name, xs, ys) in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        points = " ".join("{:.1f},{:.1f}".format(*place(a, b)) for a, b in zip(xs, ys, strict=True))
        parts.append(
            f'<polyline points="{points}" stroke="{colour}"><title>{escape(name)}</title>'
            f'</polyline><text x="{LEFT + 90 + 110 * index}" y="{TOP - 10}" '
            f'style="fill:{colour}">{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def shares(values: np.ndarray, points: int = 200) -> tuple[list[float], list[float]]:
    """The distribution of values: at so many of them the share that is no larger."""
    ordered = np.sort(values)
    at = np.unique(np.linspace(0, len(ordered) - 1, points).astype(int))
    return [float(v) for v in ordered[at]], [float(i + 1) / len(ordered) for i in at]


def _ticks(most: float) -> list[float]:
    """Round numbers from zero to at least `most`, four to eight of them."""
    power = 10.0 ** np.floor(np.log10(most / 5))
    step = next(m * power for m in (1, 2, 5, 10) if 5 * m * power >= most * 0.999)
    return [float(step * i) for i in range(int(np.ceil(most / step - 1e-9)) + 1)]
