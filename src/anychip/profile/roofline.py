"""The roofline of one chip with every op as a dot (Williams, Waterman and Patterson, CACM 2009)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anychip.profile.svg import COLOURS, EM, INK, NAMES, SOFT, Canvas, scaled

WIDTH, HEIGHT = 1180, 620
LABELS = 12
Box = tuple[float, float, float, float]
Scale = Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Dot:
    """An op (equal ones of all layers together): what one run does on one chip, and its time."""

    name: str
    where: str
    flops: float
    bytes: float
    seconds: float
    count: float
    bound: str


@dataclass(frozen=True, kw_only=True)
class Roof:
    """A ceiling of arithmetic, or with `is_slope` of bytes a second."""

    name: str
    value: float
    is_slope: bool = False


def roofline(dots: Sequence[Dot], roofs: Sequence[Roof], title: str) -> str:
    """Arithmetic intensity against attained rate, both logarithmic; area is share of the time."""
    shown = [d for d in dots if d.flops > 0 and d.bytes > 0 and d.seconds > 0]
    if not shown or not any(not r.is_slope for r in roofs):
        return ""
    by_value: dict[float, list[str]] = {}
    for roof in roofs:
        if not roof.is_slope:
            by_value.setdefault(roof.value, []).append(roof.name)
    flat = [Roof(name=" and ".join(names), value=v) for v, names in by_value.items()]
    slopes = [r for r in roofs if r.is_slope]
    peak = max(r.value for r in flat)
    knees = [f.value / s.value for f in flat for s in slopes]
    low_x = min(d.flops / d.bytes for d in shown) / 3
    high_x = max([d.flops / d.bytes for d in shown] + knees) * 6
    low_y = min(d.flops / d.seconds for d in shown) / 3
    left, top, right, bottom = 92, 96, WIDTH - 40, HEIGHT - 56

    def x(value: float) -> float:
        return left + math.log(value / low_x) / math.log(high_x / low_x) * (right - left)

    def y(value: float) -> float:
        share = math.log(value / low_y) / math.log(peak * 4 / low_y)
        return bottom - share * (bottom - top)

    left_out = len(dots) - len(shown)
    sheet = Canvas(
        WIDTH,
        HEIGHT,
        title,
        "each dot is an op, its area the share of the time"
        + (f"; without arithmetic or bytes, and left out: {left_out}" if left_out else ""),
    )
    bounds = [b for b in COLOURS if any(d.bound == b for d in shown)]
    sheet.legend(0, 66, [(COLOURS[b], f"limited by {NAMES[b]}") for b in bounds])
    for power in range(math.ceil(math.log10(low_x)), math.floor(math.log10(high_x)) + 1):
        at = x(10.0**power)
        sheet.line(at, top, at, bottom)
        sheet.text(at, bottom + 18, f"{10.0**power:g}", anchor="middle", colour=SOFT)
    for power in range(math.ceil(math.log10(low_y)), math.floor(math.log10(peak * 4)) + 1):
        at = y(10.0**power)
        sheet.line(left, at, right, at)
        sheet.text(left - 8, at + 4, scaled(10.0**power, "FLOP/s"), anchor="end", colour=SOFT)
    sheet.text(
        (left + right) / 2,
        HEIGHT - 12,
        "arithmetic intensity in FLOPs a byte of memory",
        anchor="middle",
        colour=SOFT,
    )
    taken: list[Box] = []
    _roofs(sheet, flat, slopes, x, y, (low_x, high_x, low_y, peak), taken)
    _dots(sheet, shown, x, y, (left, top, right, bottom), taken)
    return sheet.render()


def _roofs(
    sheet: Canvas,
    flat: Sequence[Roof],
    slopes: Sequence[Roof],
    x: Scale,
    y: Scale,
    box: Box,
    taken: list[Box],
) -> None:
    low_x, high_x, low_y, peak = box
    fastest = max((s.value for s in slopes), default=0.0)
    for roof in flat:
        start = max(roof.value / fastest if fastest else low_x, low_x)
        for step in range(61):
            at = start * (high_x / start) ** (step / 60)
            taken.append((x(at) - 3, y(roof.value) - 3, x(at) + 3, y(roof.value) + 3))
        sheet.line(x(start), y(roof.value), x(high_x), y(roof.value), colour=INK, width=1.6)
        text = f"{roof.name} {scaled(roof.value, 'FLOP/s')}"
        wide = len(text) * 12 * EM
        at = y(roof.value) - 6
        above = [y(r.value) for r in flat if r.value > roof.value]
        if above and y(roof.value) - max(above) < 26:  # the next ceiling's label is just above
            at = y(roof.value) + 16
        sheet.text(x(high_x), at, text, anchor="end")
        taken.append((x(high_x) - wide, at - 12, x(high_x), at + 3))
    for index, roof in enumerate(slopes):
        first = max(low_x, low_y / roof.value)
        last = min(high_x, peak / roof.value)
        if last <= first:
            continue
        sheet.line(
            *(x(first), y(first * roof.value), x(last), y(last * roof.value)),
            colour=INK,
            width=1.6,
            dash="" if index == len(slopes) - 1 else "6 4",
        )
        for step in range(61):  # labels keep off the line
            at = first * (last / first) ** (step / 60)
            px, py = x(at), y(at * roof.value)
            taken.append((px - 3, py - 3, px + 3, py + 3))
        share = 0.3
        at = first ** (1 - share) * last**share
        text = f"{roof.name} {scaled(roof.value, 'B/s')}"
        wide = len(text) * 12 * EM
        px, py = x(at) - 10, y(at * roof.value) - 8
        sheet.text(px, py, text, anchor="end")
        taken.append((px - wide, py - 12, px, py + 3))


def _dots(
    sheet: Canvas, shown: Sequence[Dot], x: Scale, y: Scale, box: Box, taken: list[Box]
) -> None:
    left, top, right, bottom = box
    total = sum(d.seconds * d.count for d in shown)
    ranked = sorted(shown, key=lambda d: -d.seconds * d.count)
    places: list[tuple[Dot, float, float, float]] = []
    for dot in ranked:
        radius = 4 + 26 * math.sqrt(dot.seconds * dot.count / total)
        px, py = x(dot.flops / dot.bytes), y(dot.flops / dot.seconds)
        tip = (
            f"{dot.name} {dot.where} ×{dot.count:g}: {scaled(dot.flops / dot.seconds, 'FLOP/s')}, "
            f"{dot.flops / dot.bytes:.3g} FLOPs a byte, {scaled(dot.seconds, 's')} each"
        )
        sheet.circle(px, py, radius, fill=COLOURS.get(dot.bound, COLOURS[""]), tip=tip)
        places.append((dot, px, py, radius))
        near = max(4.0, radius * 0.8)
        taken.append((px - near, py - near, px + near, py + near))
    for dot, px, py, radius in places[:LABELS]:
        name = dot.name.rpartition(".")[2]
        share = dot.seconds * dot.count / total
        if share < 0.005:
            continue
        text = f"{name} {dot.where}".strip() + f" {share:.0%}"
        wide = len(text) * 11.5 * EM
        shifts = sorted((s * 15 for s in range(-12, 13)), key=abs)
        for shift in shifts:
            for tx in (px + radius + 5, px - radius - 5 - wide):
                ty = py + 4 + shift
                inside = left < tx and tx + wide < right and top < ty - 12 and ty < bottom
                clear = all(
                    tx + wide < a or tx > c or ty < b or ty - 12 > d for a, b, c, d in taken
                )
                if inside and clear:
                    break
            else:
                continue
            break
        else:
            continue
        if abs(shift) > 8:
            edge = tx if tx > px else tx + wide
            sheet.line(px, py, edge, ty - 4, colour=SOFT, width=0.8)
        sheet.text(tx, ty, text, size=11.5)
        taken.append((tx, ty - 12, tx + wide, ty + 3))
