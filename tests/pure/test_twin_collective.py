"""Collectives: the alpha-beta model at its ends, and its laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anychip.twin.collective import all_gather_s, all_reduce_s, all_to_all_s
from anychip.twin.machine import Link

TOPOLOGIES = ("switch", "ring", "torus2d", "torus3d", "mesh", "dragonfly")


def _link(topology: str = "switch", bytes_per_s: float = 1e11, hop_s: float = 1e-6) -> Link:
    return Link(bytes_per_s=bytes_per_s, hop_s=hop_s, topology=topology, j_per_byte=None)


def test_a_small_message_over_a_switch_takes_one_hop():
    assert all_reduce_s(8, 8, _link()) == pytest.approx(1e-6, rel=0.01)


def test_a_large_message_takes_twice_its_bytes():
    size = 1e9
    for topology in ("switch", "ring"):
        expected = 2 * 7 / 8 * size / 1e11
        assert all_reduce_s(size, 8, _link(topology)) == pytest.approx(expected, rel=0.01)


def test_a_ring_pays_for_every_hop():
    assert all_reduce_s(8, 8, _link("ring")) == pytest.approx(8e-6, rel=0.01)
    assert all_gather_s(8, 8, _link("ring")) == pytest.approx(4e-6, rel=0.01)


def test_one_chip_and_no_bytes_cost_nothing():
    for cost in (all_reduce_s, all_gather_s, all_to_all_s):
        assert cost(1e6, 1, _link()) == 0
        assert cost(0, 8, _link()) == 0


@given(
    st.sampled_from([all_reduce_s, all_gather_s, all_to_all_s]),
    st.sampled_from(TOPOLOGIES),
    st.integers(2, 512),
    st.floats(1, 1e9),
    st.floats(1.0, 8.0),
)
def test_more_bytes_never_cost_less_and_better_links_never_more(cost, topology, chips, size, k):
    base = cost(size, chips, _link(topology))
    assert cost(size * k, chips, _link(topology)) >= base
    assert cost(size, chips, _link(topology, bytes_per_s=1e11 * k)) <= base
    assert cost(size, chips, _link(topology, hop_s=1e-6 / k)) <= base
    assert base >= (chips - 1) / chips * size / 1e11
