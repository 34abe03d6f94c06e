"""core/trace.py: spans in order, and the JSON that trace viewers read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anychip.core import Origin, Span, Trace, UsageError


def _span(start_s: float, end_s: float, op: str = "add", resource: str = "core 0", **more) -> Span:
    return Span(resource=resource, op=op, start_s=start_s, end_s=end_s, **more)


@given(
    st.lists(
        st.tuples(st.floats(0, 9), st.floats(0, 9), st.sampled_from("ab"), st.sampled_from("xy"))
    )
)
def test_spans_are_sorted_whatever_their_order(rows):
    spans = tuple(_span(start, start + length, op, lane) for start, length, op, lane in rows)
    trace = Trace("measured", "cpu:xla", spans)
    keys = [(s.start_s, s.resource, s.op) for s in trace.spans]
    assert keys == sorted(keys)
    assert sorted(map(repr, trace.spans)) == sorted(map(repr, spans))
    assert trace == Trace("measured", "cpu:xla", tuple(reversed(spans))) or len(set(keys)) < len(
        keys
    )


def test_span_that_ends_before_it_starts_is_refused():
    with pytest.raises(UsageError, match="span add on core 0 ends before it starts"):
        Trace("measured", "cpu:xla", (_span(2.0, 1.0),))


def test_length_runs_from_first_start_to_last_end():
    assert Trace("measured", "t:x", (_span(2, 9), _span(1, 3), _span(4, 5))).seconds == 8
    assert Trace("measured", "t:x", ()).seconds == 0
    assert _span(1.0, 3.5).seconds == 2.5


def test_perfetto_json_has_one_thread_a_resource_and_microseconds():
    spans = (
        _span(1e-3, 2e-3, "dot", "mxu", flops=8.0, origin=Origin("l.0", "m.py:1"), bound="compute"),
        _span(0.0, 1e-3, "load", "dma", read_bytes=64.0),
    )
    document = json.loads(Trace("simulated", "toy:twin", spans, note="hello").to_perfetto())
    events = document["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert sorted(names.values()) == ["dma", "mxu"]
    (process,) = (e for e in events if e["name"] == "process_name")
    assert process["args"]["name"] == "toy:twin (simulated)"
    load, dot = (e for e in events if e["ph"] == "X")
    assert (names[load["tid"]], load["ts"], load["dur"]) == ("dma", 0.0, 1000.0)
    assert load["args"] == {"read_bytes": 64.0}
    assert (names[dot["tid"]], dot["ts"], dot["dur"]) == ("mxu", 1000.0, 1000.0)
    assert dot["args"] == {"flops": 8.0, "bound": "compute", "layer": "l.0", "source": "m.py:1"}
    assert document["otherData"] == {"kind": "simulated", "target": "toy:twin", "note": "hello"}


def test_perfetto_json_has_one_process_a_place_in_the_order_of_use():
    spans = (_span(0, 1, "a", "LPU 8/VXM"), _span(1, 2, "b", "LPU 0/VXM"), _span(2, 3, "c", "host"))
    events = json.loads(Trace("simulated", "toy:twin", spans).to_perfetto())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {
        1: "LPU 8, toy:twin (simulated)",
        2: "LPU 0, toy:twin (simulated)",
        3: "toy:twin (simulated)",
    }
    threads = [(e["pid"], e["args"]["name"]) for e in events if e["name"] == "thread_name"]
    assert sorted(threads) == [(1, "VXM"), (2, "VXM"), (3, "host")]
    assert [e["pid"] for e in events if e["ph"] == "X"] == [1, 2, 3]


def test_zero_is_a_counter_and_unknown_is_none():
    trace = Trace("measured", "t:x", (_span(0, 1, flops=0.0),))
    (event,) = (e for e in json.loads(trace.to_perfetto())["traceEvents"] if e["ph"] == "X")
    assert event["args"] == {"flops": 0.0}
