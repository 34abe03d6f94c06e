"""Pictures are well-formed, inside their frame, and show every span, part and op they are given."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from anychip.core import Origin, Span, Trace
from anychip.profile import Dot, Roof, a_layer, floor_plan, occupancy, overview, roofline, timeline
from anychip.profile.svg import EM
from anychip.twin.floor import plan

SVG = "{http://www.w3.org/2000/svg}"


def trace(layers: int = 5) -> Trace:
    spans: list[Span] = []
    for index in range(layers):
        for step, (unit, bound) in enumerate((("MXM", "compute"), ("VXM", "vector"))):
            start = 2.0 * index + step
            where = f"LPU {index}/{unit}"
            layer = Origin(f"layers.{index}/mlp")
            spans.append(
                Span(
                    resource=where,
                    op=f"{unit} work",
                    start_s=start * 1e-6,
                    end_s=(start + 1) * 1e-6,
                    origin=layer,
                    bound=bound,
                )
            )
    return Trace("simulated", "acme:twin", tuple(spans))


def boxes(svg: str) -> list[tuple[float, float, float, float, str]]:
    """What each text covers, by the mean width of a letter."""
    found = []
    for text in ET.fromstring(svg).iter(f"{SVG}text"):
        size = float(text.attrib["font-size"])
        wide = len(text.text or "") * size * EM
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        x -= {"start": 0.0, "middle": wide / 2, "end": wide}[text.attrib["text-anchor"]]
        found.append((x, y - 0.75 * size, x + wide, y + 0.1 * size, text.text or ""))
    return found


def check(svg: str) -> None:
    """Well-formed; no text leaves the frame or lies on another."""
    root = ET.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    texts = [box for box in boxes(svg) if box[4]]
    for x0, y0, x1, y1, text in texts:
        assert x0 > -6, text
        assert x1 < width + 6, text
        assert y0 >= 0, text
        assert y1 <= height, text
    for index, (x0, y0, x1, y1, text) in enumerate(texts):
        for a0, b0, a1, b1, other in texts[index + 1 :]:
            assert x1 <= a0 + 2 or a1 <= x0 + 2 or y1 <= b0 + 2 or b1 <= y0 + 2, (text, other)


def test_a_timeline_draws_every_span_of_one_layer_in_the_order_of_units():
    layer = a_layer(trace())
    assert {s.origin.layer for s in layer} == {"layers.3/mlp"}
    svg = timeline(layer, "One layer", ("VXM", "MXM"))
    check(svg)
    names = [text for *_, text in boxes(svg)]
    assert names.index("VXM") < names.index("MXM")
    assert svg.count("<title>") == len(layer)


def test_an_overview_has_a_row_for_each_place_and_none_for_one():
    svg = overview(trace(), "All")
    check(svg)
    assert {f"LPU {i}" for i in range(5)} <= {text for *_, text in boxes(svg)}
    assert overview(Trace("measured", "cpu:xla", trace().spans[:2]), "One") == ""


def test_an_overview_asks_for_the_length_of_a_trace_once(monkeypatch):
    asked: list[int] = []
    length = Trace.seconds.fget
    assert length is not None

    def counted(self: Trace) -> float:
        asked.append(1)
        return length(self)

    monkeypatch.setattr(Trace, "seconds", property(counted))
    overview(trace(40), "All")
    assert len(asked) == 1


def test_a_floor_plan_names_every_part():
    parts = [(f"layers.{i}", i // 8, 1e8 * (1 + i % 3)) for i in range(16)]
    svg = floor_plan(plan(parts, 200, 150, 1e6), 200, 150, 1e6, "Floor")
    check(svg)
    assert {name for name, _, _ in parts} <= {text for *_, text in boxes(svg)}


@pytest.mark.parametrize("count", [1, 12, 90])
def test_occupancy_says_how_full_each_chip_is(count: int):
    groups = [(f"LPU {i}", ((f"layers.{i}", 1.1e8), ("more", 2e7))) for i in range(count)]
    svg = occupancy(groups, 2.3e8, "Occupancy")
    check(svg)
    assert "57% full" in {text for *_, text in boxes(svg)}


def test_a_roofline_has_a_dot_for_each_op_and_labels_that_do_not_collide():
    dots = [
        Dot(
            name=f"op{i}",
            where="ffn",
            flops=1e9 * (1 + i % 2),
            bytes=1e9,
            seconds=1e-3 * (1 + i / 10),
            count=80,
            bound="memory",
        )
        for i in range(9)
    ]
    roofs = [
        Roof(name="bf16", value=1e15),
        Roof(name="vector", value=1e15),
        Roof(name="fp8", value=2e15),
        Roof(name="hbm", value=3e12, is_slope=True),
    ]
    svg = roofline(dots, roofs, "Roofline")
    check(svg)
    assert svg.count("<circle") == 9
    assert "bf16 and vector 1 PFLOP/s" in {text for *_, text in boxes(svg)}
    assert roofline([], roofs, "Empty") == ""
