"""core/quantity.py: estimates keep inside their intervals, measurements show their spread."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anychip.core import Estimate, Measurement, UsageError, machine_name, measured

FINITE = st.floats(-1e9, 1e9)


def _estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, provenance="spec", falsify="anychip run m")


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [(3, 1, 2), (0, 1, 2), (1, 2, 0), (math.nan, 0, 1), (0, math.nan, 1), (0, 0, math.nan)],
)
def test_estimate_outside_its_interval_raises(value, low, high):
    with pytest.raises(UsageError, match="outside its own interval"):
        _estimate(value, low, high)


@given(st.tuples(FINITE, FINITE, FINITE).map(sorted), st.sampled_from([2.0, -3.0, 0.0]))
def test_estimate_in_another_unit_keeps_its_interval_the_right_way_round(values, factor):
    low, value, high = values
    mapped = _estimate(value, low, high).map(lambda x: x * factor)
    assert mapped.low <= mapped.value <= mapped.high
    assert {mapped.low, mapped.high} == {low * factor, high * factor}
    assert mapped.provenance == "spec"


def test_reciprocal_turns_the_interval_over():
    rate = _estimate(2.0, 1.0, 4.0).map(lambda s: 1 / s)
    assert (rate.low, rate.value, rate.high) == (0.25, 0.5, 1.0)


def test_estimate_as_json_has_the_agreed_keys():
    assert _estimate(2.0, 1.0, 4.0).to_json() == {
        "kind": "estimated",
        "value": 2.0,
        "low": 1.0,
        "high": 4.0,
        "level": 0.8,
        "provenance": "spec",
        "falsify": "anychip run m",
    }


def test_measurement_gives_median_and_percentiles():
    one = measured(range(1, 102), note="toy")
    assert (one.value, one.low, one.high) == (51, 11, 91)
    assert one.machine == machine_name()
    assert one.to_json() == {
        "kind": "measured",
        "value": 51.0,
        "low": 11.0,
        "high": 91.0,
        "samples": 101,
        "machine": machine_name(),
        "note": "toy",
    }


def test_measurement_without_samples_raises():
    with pytest.raises(UsageError, match="at least one sample"):
        measured([])


@given(st.lists(FINITE, min_size=1, max_size=20))
def test_spread_holds_the_median(samples):
    one = Measurement(samples=tuple(samples), machine="toy")
    assert one.low <= one.value <= one.high
    assert min(samples) <= one.low
    assert one.high <= max(samples)


def test_measurement_in_another_unit_keeps_every_sample():
    one = measured([1.0, 2.0, 4.0]).map(lambda s: s * 1e3)
    assert one.samples == (1e3, 2e3, 4e3)


def test_machine_name_tells_cores_and_system():
    assert "cores" in machine_name()
