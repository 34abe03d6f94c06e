"""Search: the smallest count that holds the model, and larger ones only where they pay."""

from __future__ import annotations

import json

import pytest

from anychip.core import SystemSpec, UnsupportedError, UsageError
from anychip.frontends.llm import PRECISIONS
from anychip.mapper import Question, Workload, search

BOX = SystemSpec(name="box", title="Box", chip="hand", counts=(1, 2, 4, 8))
RACK = SystemSpec(name="rack", title="Rack", chip="hand", counts=(16, 32))


def _ask(model, **changes) -> Question:
    base = {"workload": Workload(256, 64, 1), "precision": "bf16", "precisions": PRECISIONS}
    return Question(model=model, **(base | changes))


def _weights(model) -> float:
    return float(model.bind(PRECISIONS["bf16"]).nbytes)


def test_the_smallest_count_that_holds_the_model_is_taken(hand_chip, small_model):
    model = small_model()
    for part, count in ((2.0, 1), (0.8, 2), (0.4, 4)):
        spec = hand_chip(capacity_bytes=_weights(model) * part)
        found = search(_ask(model), spec, [RACK, BOX])
        assert found.plan.pieces[0].chips == count
        assert found.plan.pieces[0].system == "box"
        assert found.option.placement.fits


def test_a_larger_system_is_taken_when_the_small_one_is_too_small(hand_chip, small_model):
    model = small_model()
    found = search(_ask(model), hand_chip(capacity_bytes=_weights(model) / 7.5), [BOX, RACK])
    assert (found.plan.pieces[0].system, found.plan.pieces[0].chips) == ("rack", 16)


def test_latency_takes_more_chips_and_cost_does_not(hand_chip, small_model):
    model = small_model()
    slow = hand_chip(bytes_per_s=1e9, capacity_bytes=1e9)
    fast = search(_ask(model, objective="latency"), slow, [BOX])
    cheap = search(_ask(model, objective="cost"), slow, [BOX])
    assert fast.plan.pieces[0].chips == 8
    assert cheap.plan.pieces[0].chips == 1
    assert fast.option.prediction.latency_s < cheap.option.prediction.latency_s
    assert "better for latency" in fast.plan.why


def test_more_chips_are_not_taken_where_they_do_not_pay(hand_chip, small_model):
    found = search(_ask(small_model(), objective="latency"), hand_chip(), [BOX])
    assert found.plan.pieces[0].chips == 1  # exchanges cost more than a small model's weights


def test_the_batch_counts_towards_what_must_fit(hand_chip, small_model):
    model = small_model()
    spec = hand_chip(capacity_bytes=_weights(model) * 1.3)
    few = search(_ask(model), spec, [BOX]).plan.pieces[0].chips
    many = search(_ask(model, workload=Workload(256, 64, 64)), spec, [BOX]).plan.pieces[0].chips
    assert few < many


def test_what_fits_nowhere_says_how_much_is_missing(hand_chip, small_model):
    with pytest.raises(UnsupportedError, match=r"bf16 weights of 0\.0 GB .* rack, has 32 x"):
        search(_ask(small_model()), hand_chip(capacity_bytes=1e5), [BOX, RACK])


def test_auto_narrows_the_weights_before_it_gives_up(hand_chip, small_model):
    model = small_model()
    one = SystemSpec(name="one", title="One", chip="hand", counts=(1,))
    spec = hand_chip(capacity_bytes=model.bind(PRECISIONS["fp8"]).nbytes * 1.05)
    found = search(_ask(model, precision="auto"), spec, [one])
    assert found.plan.pieces[0].precision.name == "q4_0"
    assert "does not fit in fp8" in found.why_precision


def test_a_pin_overrides_the_precision_of_one_chip(hand_chip, small_model):
    question = _ask(small_model(), precision="auto", pinned={"hand": "f32"})
    assert search(question, hand_chip(), [BOX]).plan.pieces[0].precision.name == "f32"


def test_chips_without_a_link_are_used_one_at_a_time(hand_chip, small_model):
    model = small_model()
    alone = hand_chip(link=None)
    assert search(_ask(model, objective="latency"), alone, [BOX]).plan.pieces[0].chips == 1
    with pytest.raises(UnsupportedError):
        search(_ask(model), hand_chip(link=None, capacity_bytes=_weights(model) / 2), [BOX])


def test_too_long_a_workload_is_a_usage_error(hand_chip, small_model):
    with pytest.raises(UsageError, match="4096"):
        search(_ask(small_model(), workload=Workload(4096, 1)), hand_chip(), [BOX])


def test_a_plan_is_json(hand_chip, small_model):
    plan = search(_ask(small_model(), objective="energy"), hand_chip(), [BOX]).plan
    read = json.loads(json.dumps(plan.to_json()))
    assert read["pieces"][0]["shards"] == {"tensor": 1, "pipeline": 1, "expert": 1}
    assert read["workload"] == {"prompt": 256, "generate": 64, "batch": 1}


def test_quantities_agree_with_one_another(hand_chip, small_model):
    found = search(_ask(small_model(), workload=Workload(256, 64, 8)), hand_chip(), [BOX])
    one = found.option.prediction
    assert one.latency_s == pytest.approx(one.ttft_s + 63 * one.tpot_s)
    assert one.user_tok_s == pytest.approx(1 / one.tpot_s)
    assert one.chip_tok_s == pytest.approx(8 * 64 / one.latency_s)
    assert found.values() == found.option.values()
