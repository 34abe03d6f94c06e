"""Prices: rented before bought, electricity only where it is not in the price."""

from __future__ import annotations

import pytest

from anychip.core import Fact, SystemSpec
from anychip.mapper import price, usd_per_mtok
from anychip.mapper.economics import (
    AMORTISED_YEARS,
    HOURS_PER_YEAR,
    PUE,
    SERVER,
    USD_PER_KWH,
    USED_SHARE,
)


def _fact(value: float) -> Fact:
    return Fact(value=value, source="test")


def test_the_systems_price_goes_before_the_chips(hand_chip):
    rented = SystemSpec(name="box", title="Box", chip="hand", counts=(1,), usd_per_hour=_fact(2.0))
    found = price(hand_chip(), rented)
    assert found is not None
    assert (found.value, found.owned) == (2.0, False)
    assert found.low < 2.0 < found.high


def test_a_purchase_is_spread_over_the_hours_it_works(hand_chip):
    found = price(hand_chip(usd_per_hour=None, purchase_usd=_fact(30000)))
    assert found is not None
    assert found.owned
    hours = AMORTISED_YEARS.value * HOURS_PER_YEAR * USED_SHARE.value
    assert found.value == pytest.approx(30000 * SERVER.value / hours)
    assert found.low < found.value < found.high
    machine = price(hand_chip(family="soc", usd_per_hour=None, purchase_usd=_fact(30000)))
    assert machine is not None
    assert machine.value == pytest.approx(30000 / hours)  # a whole machine needs no server


def test_no_price_is_no_price(hand_chip):
    assert price(hand_chip(usd_per_hour=None)) is None


def test_dollars_for_a_million_tokens():
    assert usd_per_mtok(3.6, 1000, 5.0, owned=False) == pytest.approx(1.0)
    electricity = 3.6 * PUE.value * USD_PER_KWH.value  # 3.6 J a token is 1 kWh a million
    assert usd_per_mtok(3.6, 1000, 3.6, owned=True) == pytest.approx(1.0 + electricity / 3.6)
