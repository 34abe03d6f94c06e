"""Intervals: they contain the value, grow with what is uncertain, and name it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anychip.core import Fact
from anychip.twin import fact_range, own_error, spreads


def _fact(value: float, low: float | None, high: float | None, confidence="high") -> Fact:
    return Fact(value=value, low=low, high=high, source="test", confidence=confidence)


@given(st.floats(1.0, 1e6), st.floats(0.1, 1.0), st.floats(1.0, 10.0), st.floats(0, 1))
def test_the_interval_contains_the_value(value, down, up, own):
    facts = {"a": _fact(2.0, 2 * down, 2 * up), "b": _fact(3.0, 3 * down, 3.0)}

    def evaluate(turned):
        return {"x": value * turned.get("a", 2.0) / turned.get("b", 3.0)}

    spread = spreads(evaluate, facts, {"x": own})["x"]
    estimate = spread.estimate(evaluate({})["x"], subject="it", falsify="run it")
    assert estimate.low <= estimate.value <= estimate.high


def test_independent_facts_add_as_squares():
    facts = {name: _fact(1.0, 0.5, 2.0) for name in "ab"}

    def evaluate(turned):
        return {"x": turned.get("a", 1.0) * turned.get("b", 1.0)}

    spread = spreads(evaluate, facts, {"x": 0.0})["x"]
    assert spread.up == pytest.approx(math.log(2) * math.sqrt(2))
    assert spread.down == pytest.approx(spread.up)


def test_a_fact_that_does_not_matter_adds_nothing_and_is_not_named():
    facts = {"used": _fact(1.0, 0.5, 2.0), "idle": _fact(1.0, 0.1, 10.0)}
    spread = spreads(lambda turned: {"x": turned.get("used", 1.0)}, facts, {"x": 0.0})["x"]
    assert [name for name, _ in spread.drivers] == ["used"]
    text = spread.estimate(1.0, subject="acme", falsify="run it").provenance
    assert "used (100%)" in text


def test_unknown_results_get_no_interval():
    assert spreads(lambda turned: {"x": None}, {}, {"x": 0.1}) == {}


def test_a_fact_without_a_range_gets_that_of_its_confidence():
    assert fact_range(_fact(100.0, None, None)) == (100.0, 100.0)
    assert fact_range(_fact(100.0, None, None, "low")) == (80.0, 120.0)
    assert fact_range(_fact(100.0, 90.0, 105.0, "low")) == (90.0, 105.0)


def test_one_more_factor_widens_and_is_ranked():
    spread = spreads(lambda turned: {"x": 1.0}, {}, {"x": 0.1})["x"].also("the price", 0.5, 2.0)
    assert spread.drivers[0][0] == "the price"
    assert spread.up == pytest.approx(math.hypot(0.1, math.log(2)))


def test_the_first_token_has_its_own_error():
    error = own_error("simt", ("ttft_s", "tpot_s"))
    assert error["ttft_s"] > error["tpot_s"] > 0
