"""The twin at the Target seam: coverage, artifacts and trace."""

from __future__ import annotations

import pytest

from anychip.core import Chip, CompileOptions, Executable, Fact, Limit, UsageError
from anychip.core.target import check_target
from anychip.frontends.llm import PRECISIONS
from anychip.twin import twin


def _compiled(spec, module):
    target = check_target(twin(Chip(lambda: spec, {"twin": twin})), "test")
    return target.compile(module, CompileOptions())


def test_it_is_a_target_and_makes_executables(hand_chip, small_model):
    target = twin(Chip(hand_chip, {"twin": twin}))
    assert (target.name, target.runs) == ("hand:twin", True)
    made = target.compile(small_model().decode(1, 64, PRECISIONS["bf16"]), CompileOptions())
    assert isinstance(made, Executable)


def test_every_executed_op_is_in_one_row(hand_chip, small_model):
    made = _compiled(hand_chip(), small_model().decode(1, 64, PRECISIONS["bf16"]))
    rows = made.coverage.rows
    assert made.coverage.count("native") == made.coverage.total > 0
    assert next(r.count for r in rows if r.op == "anychip.rms_norm") == 2 * 4 + 1
    assert len({(r.op, r.fate, r.why, r.origin) for r in rows}) == len(rows)


def test_a_missing_format_is_said_to_be_emulated(hand_chip, small_model):
    made = _compiled(hand_chip(), small_model().decode(1, 64, PRECISIONS["q4_0"]))
    emulated = [r for r in made.coverage.rows if r.fate == "emulated"]
    assert [r.op for r in emulated] == ["anychip.quantized_matmul"]
    assert emulated[0].count == 7 * 4
    assert "unpacked to bf16" in emulated[0].why


def test_a_declared_limit_is_unsupported_with_its_place(hand_chip, small_model):
    limit = Limit(op="stablehlo.exponential", dtype="f32", why="no exponential unit")
    made = _compiled(hand_chip(limits=(limit,)), small_model().decode(1, 64, PRECISIONS["bf16"]))
    refused = [r for r in made.coverage.rows if r.fate == "unsupported"]
    assert {r.op for r in refused} == {"anychip.cached_attention", "anychip.swiglu"}
    assert all("no exponential unit" in r.why for r in refused)
    places = {f"layers.{i}/{part}" for i in range(4) for part in ("attn", "ffn")}
    assert {r.origin.layer for r in refused} == places


def test_the_trace_follows_the_layers(hand_chip, small_model):
    spec = hand_chip(per_layer_s=Fact(value=1e-5, source="test"))
    trace = _compiled(spec, small_model().decode(1, 64, PRECISIONS["bf16"])).trace()
    assert trace.kind == "estimated"
    assert "eight times in ten: own error of" in trace.note
    waits = [s for s in trace.spans if s.resource == "wait"]
    assert len(waits) == 4 + 1  # one a layer, one a step
    assert waits[0].seconds == pytest.approx(1e-5)
    layers = [s.origin.layer.split("/")[0] for s in trace.spans if "layers." in s.origin.layer]
    assert layers == sorted(layers)
    for before, after in zip(trace.spans, trace.spans[1:], strict=False):
        assert after.start_s == pytest.approx(before.end_s)
    assert all(s.joules is not None and s.joules > 0 for s in trace.spans)


def test_options_it_cannot_honour_are_refused(hand_chip, small_model):
    target = twin(Chip(hand_chip, {"twin": twin}))
    with pytest.raises(UsageError, match="matmul"):
        target.compile(
            small_model().decode(1, 64, PRECISIONS["bf16"]), CompileOptions(extra={"fast": "1"})
        )
