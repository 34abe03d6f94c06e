"""Workloads and objectives: what cannot be is refused with its numbers."""

from __future__ import annotations

import pytest

from anychip.core import UsageError
from anychip.mapper import Workload
from anychip.mapper.objective import burden, check_objective


@pytest.mark.parametrize("wrong", [{"prompt": 0}, {"generate": -1}, {"batch": -4}, {"batch": 1.5}])
def test_a_number_below_one_is_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(UsageError, match=f"{name} = {value}"):
        Workload(**wrong)


def test_a_prompt_longer_than_the_context_is_refused(small_model):
    model = small_model()
    Workload(4000, 96).check(model.name, model.facts)
    with pytest.raises(UsageError, match=r"4000 \+ generate 97 = 4097 tokens.*4096.*by 1"):
        Workload(4000, 97).check(model.name, model.facts)


def test_an_unknown_objective_lists_the_known():
    with pytest.raises(UsageError, match=r"Did you mean 'latency'.*cost, energy"):
        check_objective("latancy")


def test_what_is_not_known_is_never_best():
    assert burden("energy", {"j_per_tok": None}) == float("inf")
    assert burden("throughput", {"chip_tok_s": 10.0}) < burden("throughput", {"chip_tok_s": 5.0})
