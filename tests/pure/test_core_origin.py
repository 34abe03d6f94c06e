"""core/origin.py: the layer and source line that MLIR locations carry."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anychip.core import Origin
from anychip.core.origin import parse, scope

SOURCES = ("model.py:10", "model.py:20")


@pytest.mark.parametrize(
    ("location", "origin"),
    [
        ('loc("jit(f)/layers.0#1/dot_general"(#loc))', Origin("layers.0", "model.py:20")),
        ('loc("jit(f)/a#0/jit(g)/b#1/add")', Origin("a/b", "model.py:20")),
        ('loc("jit(f)/a#0/b/add")', Origin("a/b", "model.py:10")),
        ('loc("a#7/add")', Origin("a", "")),
        ('loc("a#b/add")', Origin("a#b", "")),
        ('loc("add")', Origin()),
        ('loc("vmap(jit(f))/transpose(jvp(g))/pjit/h/add")', Origin("h", "")),
        ('loc("jit(f)/while/body/h#0/add")', Origin("h", "model.py:10")),
        ('loc(fused["a#0/add", "b/mul"])', Origin("a", "model.py:10")),
        ("loc(unknown)", Origin()),
        ("", Origin()),
    ],
)
def test_layer_and_source_are_read(location, origin):
    assert parse(location, SOURCES) == origin


def test_call_site_serves_when_no_line_is_marked():
    calls = 'callsite("g"("/home/u/model.py":5:3 to :9) at "m"("/home/u/run.py":1:1))'
    assert parse(f'loc("jit(f)/h/add"({calls}))') == Origin("h", "/home/u/model.py:5")


def test_our_own_and_frameworks_files_are_no_source():
    calls = 'callsite("a"("/x/site-packages/p/q.py":5:3) at "b"("/home/u/run.py":7:1))'
    assert parse(f'loc("h/add"({calls}))') == Origin("h", "/home/u/run.py:7")


def test_bare_file_location_is_a_source_without_a_layer():
    assert parse('loc("model.mlir":4:10)') == Origin("", "model.mlir:4")


@given(st.text("abc./@#", min_size=1, max_size=8), st.integers(0, 1) | st.none())
def test_whatever_a_layer_is_called_its_scope_reads_back(layer, index):
    origin = parse(f'loc("jit(f)/{scope(layer, index)}/add")', SOURCES)
    assert origin.source == ("" if index is None else SOURCES[index])
    assert "/" not in origin.layer
    assert "@" not in origin.layer
    assert len(origin.layer) == len(layer)


def test_inside_a_callee_the_callers_layer_comes_first():
    inner, outer = Origin("attn", ""), Origin("layers.3", "m.py:1")
    assert inner.inside(outer) == Origin("layers.3/attn", "m.py:1")
    assert Origin("attn", "n.py:2").inside(outer).source == "n.py:2"
    assert inner.inside(Origin()) == inner
    assert Origin().inside(outer) == outer


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (Origin("a", "m.py:1"), "a (m.py:1)"),
        (Origin("a"), "a"),
        (Origin("", "m.py:1"), "m.py:1"),
        (Origin(), "unknown"),
    ],
)
def test_origin_reads_well(origin, text):
    assert str(origin) == text


def test_inlined_op_is_its_layer_inside_the_callers():
    location = 'loc(callsite("jit(clip)/inner#1/max" at "jit(f)/enc.act#0/jit"))'
    assert parse(location, ("m.onnx:a", "m.onnx:b")) == Origin("enc.act/inner", "m.onnx:b")
    without = 'loc(callsite("jit(clip)/max" at "jit(f)/enc.act#0/jit"))'
    assert parse(without, ("m.onnx:a",)) == Origin("enc.act", "m.onnx:a")


def test_call_stack_without_a_name_gives_the_first_file_that_is_not_ours():
    location = 'loc(callsite("f"("/home/me/model.py":7:4) at "g"("/home/me/run.py":3:0)))'
    assert parse(location) == Origin("", "/home/me/model.py:7")


def test_files_between_the_names_of_an_inlined_op_do_not_hide_its_caller():
    location = (
        'loc(callsite("fc/dot"("layer"("/u/net.py":25:12 to :17)) at '
        '"jit(model)/layers.0/jit(layer)"(callsite("model"("/u/net.py":33:16 to :27) at '
        '"<module>"("/u/run.py":4:2 to :12)))))'
    )
    assert parse(location) == Origin("layers.0/fc", "/u/net.py:25")
