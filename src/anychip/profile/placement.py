"""Where a model lies, as SVG: rectangles on wafers, or how full each chip of a pipeline is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from anychip.profile.svg import INK, SOFT, Canvas, clipped, figure, scaled, ticks

WIDTH = 1180
SHADES = ("#2f6fb3", "#7fb0dd")


class Rectangle(Protocol):
    """A part of the model on a wafer (twin.floor.Rectangle)."""

    @property
    def name(self) -> str: ...
    @property
    def wafer(self) -> int: ...
    @property
    def left(self) -> int: ...
    @property
    def top(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def core_bytes(self) -> float: ...


def floor_plan(
    rectangles: Sequence[Rectangle], columns: int, rows: int, core_bytes: float, title: str
) -> str:
    """Every wafer with its rectangles, shaded by how full their cores are, and the token's way."""
    wafers = sorted({one.wafer for one in rectangles})
    across = 1 if len(wafers) == 1 else 2
    gap, top = 36, 108
    scale = (WIDTH - gap * (across - 1)) / across / columns
    scale = min(scale, 760 / columns) if across == 1 else scale
    high = rows * scale
    down = -(-len(wafers) // across)
    sheet = Canvas(
        WIDTH,
        top + down * (high + 48),
        title,
        f"{columns} × {rows} cores a wafer; each rectangle holds one part, the line is the "
        "token's way; shade: how full the fullest core is",
    )
    for index, share in enumerate((0.2, 0.4, 0.6, 0.8, 1.0)):
        x = index * 118
        sheet.rect(x, 56, 14, 14, fill=_shade(share), stroke=SOFT)
        sheet.text(x + 20, 68, f"{share * core_bytes / 1024:.0f} KB", colour=SOFT)
    sheet.text(5 * 118, 68, f"of {core_bytes / 1024:.0f} KB a core", colour=SOFT)
    for place, wafer in enumerate(wafers):
        x0 = (place % across) * (columns * scale + gap)
        y0 = top + (place // across) * (high + 48)
        mine = [one for one in rectangles if one.wafer == wafer]
        used = sum(one.core_bytes * one.columns * one.rows for one in mine)
        share = used / (core_bytes * columns * rows)
        sheet.text(x0, y0 - 8, f"wafer {wafer}: {len(mine)} parts, {share:.0%} full", weight=600)
        sheet.rect(x0, y0, columns * scale, high, fill="white", stroke=INK)
        middles: list[tuple[float, float]] = []
        for one in mine:
            x, y = x0 + one.left * scale, y0 + one.top * scale
            w, h = one.columns * scale, one.rows * scale
            tip = (
                f"{one.name}: {one.columns} × {one.rows} = {one.columns * one.rows:,} cores, "
                f"{one.core_bytes / 1024:.1f} KB in each"
            )
            fill = _shade(one.core_bytes / core_bytes)
            sheet.rect(x, y, w, h, fill=fill, stroke="white", tip=tip)
            middles.append((x + w / 2, y + h * 0.72))
        for (xa, ya), (xb, yb) in pairwise(middles):
            sheet.line(xa, ya, xb, yb, colour="#d9822b", width=1.6)
        for index, (x, y) in enumerate(middles):
            sheet.circle(x, y, 4.5 if index in (0, len(middles) - 1) else 2.4, fill="#d9822b")
        for one in mine:
            x, y = x0 + (one.left + one.columns / 2) * scale, y0 + one.top * scale
            w, h, full = one.columns * scale, one.rows * scale, one.core_bytes / core_bytes
            colour, halo = "white" if full > 0.5 else INK, _shade(full)
            label = clipped(one.name, w - 4, 12)
            label = label if label == one.name else one.name.rpartition(".")[2]
            sheet.text(x, y + h * 0.36, label, anchor="middle", colour=colour, halo=halo)
            size = clipped(f"{one.columns}×{one.rows}", w - 4, 10.5)
            at = y + h * 0.36 + 15
            sheet.text(x, at, size, size=10.5, anchor="middle", colour=colour, halo=halo)
    return sheet.render()


def _shade(share: float) -> str:
    """White to deep blue."""
    low, high = (232, 240, 248), (24, 78, 134)
    part = min(max(share, 0.0), 1.0)
    mixed = (round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def occupancy(
    groups: Sequence[tuple[str, Sequence[tuple[str, float]]]], capacity_bytes: float, title: str
) -> str:
    """How much of each place's memory the parts of the model take, a place a row; parts of the
    model follow one another in the order of use."""
    longest = max(len(name) for name, _ in groups)
    left, top = 20 + longest * 7.0, 92
    high = min(26.0, max(7.0, 620 / len(groups)))
    every = max(1, round(13 / high + 0.49))
    most = max(capacity_bytes, *(sum(size for _, size in parts) for _, parts in groups))
    bottom = top + high * len(groups)
    right = WIDTH - 130
    sheet = Canvas(
        WIDTH,
        bottom + 46,
        title,
        f"{scaled(capacity_bytes, 'B')} a chip (the dark line); weights and cache of what runs "
        "there",
    )
    sheet.rect(0, 56, 12, 12, fill=SHADES[1])
    sheet.legend(14, 66, [(SHADES[0], "parts of the model, shaded by turns")])

    def x(size: float) -> float:
        return left + size / most * (right - left)

    prefix, factor = ("GB", 1e9) if most >= 1e9 else ("MB", 1e6)
    for tick in ticks(0, most / factor, 8):
        at = x(tick * factor)
        sheet.line(at, top - 4, at, bottom)
        sheet.text(at, bottom + 18, figure(tick), anchor="middle", colour=SOFT)
    sheet.text((left + right) / 2, bottom + 38, f"{prefix} a chip", anchor="middle", colour=SOFT)
    serial = 0
    for index, (name, parts) in enumerate(groups):
        y, at = top + index * high, 0.0
        if index % every == 0:
            sheet.text(left - 10, y + high / 2 + 4, name, size=11.5, anchor="end")
        for part, size in parts:
            fill = SHADES[serial % 2]
            serial += 1
            wide = x(at + size) - x(at)
            tip = f"{name}: {part}, {scaled(size, 'B')}"
            sheet.rect(x(at), y + 1, wide, high - 2, fill=fill, tip=tip)
            label = clipped(part, wide - 6, 11) if high >= 14 else ""
            if label:
                colour = "white" if fill == SHADES[0] else INK
                sheet.text(x(at) + 4, y + high / 2 + 4, label, size=11, colour=colour)
            at += size
        if index % every == 0:
            sheet.text(right + 10, y + high / 2 + 4, f"{at / capacity_bytes:.0%} full", size=11.5)
    sheet.line(x(capacity_bytes), top - 8, x(capacity_bytes), bottom, colour=INK, width=2)
    return sheet.render()
