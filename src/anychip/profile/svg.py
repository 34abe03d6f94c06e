"""A little SVG: a canvas of shapes and texts with fixed colours, dark on light, one file each."""

from __future__ import annotations

import math
from html import escape

INK, SOFT, GRID = "#1b2430", "#5b6776", "#dfe4ea"
COLOURS = {
    "memory": "#2f6fb3",
    "compute": "#d9822b",
    "vector": "#3c9a5f",
    "link": "#8a5fb8",
    "overhead": "#9aa4b0",
    "": "#7d8894",
}
"""By what limits an op."""
NAMES = {
    "memory": "memory",
    "compute": "matrix arithmetic",
    "vector": "vector arithmetic",
    "link": "links",
    "overhead": "overhead",
    "": "other",
}
EM = 0.56
"""Mean width of a letter in heights of its font."""


class Canvas:
    """Shapes in pixels, y downwards."""

    def __init__(self, width: float, height: float, title: str, subtitle: str = "") -> None:
        self.width, self.height = width, height
        self.parts: list[str] = []
        self.title = title
        self.text(0, 18, title, size=17, weight=600)
        if subtitle:
            self.text(0, 38, subtitle, size=12.5, colour=SOFT)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 12,
        anchor: str = "start",
        colour: str = INK,
        weight: int = 400,
        halo: str = "",
    ) -> None:
        around = f' stroke="{halo}" stroke-width="4" paint-order="stroke"' if halo else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{colour}" font-weight="{weight}"{around}>{escape(text)}</text>'
        )

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str,
        stroke: str = "none",
        tip: str = "",
        opacity: float = 1.0,
    ) -> None:
        inside = f"<title>{escape(tip)}</title>" if tip else ""
        self.parts.append(
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(width, 0.4):.2f}" height="{height:.2f}" '
            f'fill="{fill}" stroke="{stroke}" fill-opacity="{opacity}">{inside}</rect>'
        )

    def circle(self, x: float, y: float, radius: float, *, fill: str, tip: str = "") -> None:
        inside = f"<title>{escape(tip)}</title>" if tip else ""
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}" fill-opacity="0.8" '
            f'stroke="white">{inside}</circle>'
        )

    def line(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        *,
        colour: str = GRID,
        width: float = 1,
        dash: str = "",
    ) -> None:
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}" '
            f'stroke-width="{width}"{extra}/>'
        )

    def legend(self, x: float, y: float, entries: list[tuple[str, str]]) -> None:
        """(colour, text) side by side."""
        for colour, text in entries:
            self.rect(x, y - 10, 12, 12, fill=colour)
            self.text(x + 17, y, text, size=12, colour=SOFT)
            x += 17 + len(text) * 12 * EM + 18

    def render(self) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:.0f} '
            f'{self.height:.0f}" width="{self.width:.0f}" height="{self.height:.0f}" role="img" '
            f'aria-label="{escape(self.title)}" font-family="system-ui, sans-serif">'
            f'<rect width="100%" height="100%" fill="white"/>{"".join(self.parts)}</svg>'
        )


def clipped(text: str, width: float, size: float) -> str:
    """As much of `text` as `width` pixels show, "" when that is less than three letters."""
    room = int(width / (size * EM))
    if room >= len(text):
        return text
    return f"{text[: room - 1]}…" if room >= 4 else ""


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers from `low` to `high`."""
    if high <= low:
        return [low]
    raw = (high - low) / most
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * f for f in (1, 2, 5, 10) if unit * f >= raw)
    first = math.ceil(low / step - 1e-9)
    return [step * n for n in range(first, math.floor(high / step + 1e-9) + 1)]


def figure(value: float, digits: int = 3) -> str:
    """A number for people: 1234 → "1,230", 0.00123 → "0.00123"."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"


def scaled(value: float, unit: str) -> str:
    """A number with an SI prefix: 1.5e12 B/s → "1.5 TB/s"."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")):
        if abs(value) >= factor:
            return f"{figure(value / factor)} {prefix}{unit}"
    for factor, prefix in ((1e-3, "m"), (1e-6, "µ"), (1e-9, "n")):
        if abs(value) >= factor:
            return f"{figure(value / factor)} {prefix}{unit}"
    return f"{figure(value)} {unit}"
