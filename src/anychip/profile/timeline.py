"""A Trace over time as SVG: one layer unit by unit, and the whole step place by place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from anychip.core import Span, Trace
from anychip.profile.svg import COLOURS, GRID, INK, NAMES, SOFT, Canvas, clipped, figure, ticks

WIDTH, RIGHT = 1180, 24
MOST_SPANS = 400


def place_of(resource: str) -> str:
    """The part of a resource's name before its unit: "LPU 0-7/VXM" → "LPU 0-7"."""
    return resource.rpartition("/")[0]


def a_layer(trace: Trace) -> list[Span]:
    """The spans of one layer from the middle of the trace; of a trace without layers, the first
    ones."""
    heads = [(s.origin.layer.split("/")[0]) for s in trace.spans]
    counts: dict[str, int] = defaultdict(int)
    for head in heads:
        counts[head] += bool(head)
    repeated = [n for n in dict.fromkeys(heads) if any(c.isdigit() for c in n) and counts[n] > 1]
    if not repeated:
        return list(trace.spans[:MOST_SPANS])
    chosen = repeated[min(len(repeated) // 2 + 1, len(repeated) - 1)]
    mine = [s for s, head in zip(trace.spans, heads, strict=True) if head == chosen]
    places = [place_of(s.resource) for s in mine]
    usual = max(sorted(set(places)), key=places.count)
    return [s for s, place in zip(mine, places, strict=True) if place == usual][:MOST_SPANS]


def timeline(spans: Sequence[Span], title: str, order: Sequence[str] = ()) -> str:
    """One row a resource, one bar a span, coloured by what limits it. Gaps are time in which
    results are on their way. `order` names units from top to bottom; others follow."""
    units = list(dict.fromkeys(s.resource for s in spans))
    rank = {name: index for index, name in enumerate(order)}
    units.sort(key=lambda r: (rank.get(r.rpartition("/")[2], len(rank)), r))
    start = min(s.start_s for s in spans)
    end = max(s.end_s for s in spans)
    unit, factor = _unit(end - start)
    names = [name.rpartition("/")[2] or name for name in units]
    left = 26 + max(len(name) for name in names) * 8.0
    high, top = 30, 92
    sheet = Canvas(
        WIDTH,
        top + high * len(units) + 46,
        title,
        f"{figure((end - start) * factor)} {unit}; in the gaps results are on their way; hover "
        "over a bar for its figures",
    )
    bounds = [b for b in COLOURS if any(s.bound == b for s in spans)]
    sheet.legend(0, 66, [(COLOURS[b], NAMES[b]) for b in bounds])
    span = (end - start) or 1.0

    def x(seconds: float) -> float:
        return left + (seconds - start) / span * (WIDTH - RIGHT - left)

    bottom = top + high * len(units)
    for tick in ticks(0, span * factor, 10):
        at = x(start + tick / factor)
        sheet.line(at, top - 4, at, bottom)
        sheet.text(at, bottom + 18, figure(tick), size=12, anchor="middle", colour=SOFT)
    middle = (left + WIDTH - RIGHT) / 2
    sheet.text(middle, bottom + 38, f"time in {unit}", anchor="middle", colour=SOFT)
    for index, (resource, name) in enumerate(zip(units, names, strict=True)):
        y = top + index * high
        sheet.line(0, y + high - 2, WIDTH - RIGHT, y + high - 2)
        sheet.text(left - 12, y + 18, name, size=13, anchor="end")
        for one in spans:
            if one.resource != resource:
                continue
            width = x(one.end_s) - x(one.start_s)
            sheet.rect(
                *(x(one.start_s), y + 3, width, high - 9),
                fill=COLOURS.get(one.bound, COLOURS[""]),
                tip=_tip(one, start, factor, unit),
            )
            whole = one.op.removeprefix("stablehlo.").replace("anychip.", "")
            label = clipped(whole, width - 8, 11)
            if label != whole:  # one whole word says more than half of two
                label = clipped(whole.split(" ")[0], width - 8, 11)
            if label:
                sheet.text(x(one.start_s) + 4, y + 17, label, size=11, colour="white")
    return sheet.render()


def overview(trace: Trace, title: str) -> str:
    """The whole step: one row a place (a chip of each stage, a layer's rectangle), in the order in
    which they are first used. "" when there is only one place."""
    by_place: dict[str, list[Span]] = defaultdict(list)
    for span in trace.spans:
        if place_of(span.resource):
            by_place[place_of(span.resource)].append(span)
    if len(by_place) < 2:
        return ""
    whole = trace.seconds
    unit, factor = _unit(whole)
    start = min(s.start_s for s in trace.spans)
    high = min(22.0, max(5.0, 620 / len(by_place)))
    every = max(1, round(13 / high + 0.49))
    left, top = 20 + max(map(len, by_place)) * 6.6, 92
    sheet = Canvas(
        WIDTH,
        top + high * len(by_place) + 46,
        title,
        f"{figure(whole * factor)} {unit} over {len(by_place)} places; the token passes "
        "from each to the next",
    )
    bounds = [b for b in COLOURS if any(s.bound == b for s in trace.spans)]
    sheet.legend(0, 66, [(COLOURS[b], NAMES[b]) for b in bounds])

    def x(seconds: float) -> float:
        return left + (seconds - start) / (whole or 1.0) * (WIDTH - RIGHT - left)

    bottom = top + high * len(by_place)
    for tick in ticks(0, whole * factor, 10):
        at = x(start + tick / factor)
        sheet.line(at, top - 4, at, bottom)
        sheet.text(at, bottom + 18, figure(tick), anchor="middle", colour=SOFT)
    middle = (left + WIDTH - RIGHT) / 2
    sheet.text(middle, bottom + 38, f"time in {unit}", anchor="middle", colour=SOFT)
    for index, (place, spans) in enumerate(by_place.items()):
        y = top + index * high
        if index % every == 0:
            sheet.text(left - 10, y + high / 2 + 4, place, size=11.5, anchor="end", colour=INK)
            sheet.line(left - 6, y + high / 2, left, y + high / 2, colour=SOFT)
        first, last = min(s.start_s for s in spans), max(s.end_s for s in spans)
        tip = (
            f"{place}: {figure((first - start) * factor)}–{figure((last - start) * factor)} {unit}"
        )
        sheet.rect(x(first), y + 1, x(last) - x(first), high - 2, fill=GRID, tip=tip)
        for one in spans:
            if one.seconds > 0:
                sheet.rect(
                    *(x(one.start_s), y + 1, x(one.end_s) - x(one.start_s), high - 2),
                    fill=COLOURS.get(one.bound, COLOURS[""]),
                )
    return sheet.render()


def _unit(seconds: float) -> tuple[str, float]:
    if seconds < 1e-3:
        return "µs", 1e6
    return ("ms", 1e3) if seconds < 1 else ("s", 1.0)


def _tip(one: Span, start: float, factor: float, unit: str) -> str:
    first, last = ((at - start) * factor for at in (one.start_s, one.end_s))
    parts = [one.op, f"{figure(first, 4)}–{figure(last, 4)} {unit}"]
    parts += [f"{one.flops:.3g} FLOPs"] if one.flops else []
    parts += [f"{one.read_bytes:.3g} bytes read"] if one.read_bytes else []
    return "; ".join(parts)
