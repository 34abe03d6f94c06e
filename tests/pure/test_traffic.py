"""Fleets under traffic: demands, copies, prompts apart, goodput."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.core import InputError, UsageError
from anychip.mapper.pace import Pace
from anychip.mapper.serving import Stack, serve
from anychip.mapper.traffic import Fleet, goodput, read_trace, run, timeline, traffic

PACE = Pace(
    tokens=np.array([1.0, 64.0, 4096.0]),
    linear_s=np.array([0.01, 0.011, 0.2]),
    context_s=np.array([1e-6, 1e-6, 1e-6]),
    prompt_s=0.0,
    pair_s=1e-9,
    cache_tokens=1e6,
)
STACK = Stack(name="test", step_tokens=512, sequences=64)
ALONE = Fleet(pace=PACE, stack=STACK)


def test_the_same_seed_is_the_same_demand_and_poisson_has_its_rate():
    a, b = (traffic(4000, 100, 20, rate=50.0, seed=3) for _ in range(2))
    assert (a.arrivals_s == b.arrivals_s).all()
    assert 4000 / a.arrivals_s[-1] == pytest.approx(50, rel=0.05)
    assert abs(a.prompts - 100).max() <= 10
    assert (traffic(9, 7, 5, concurrency=2, spread=0.0).answers == 5).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"rate": 1.0, "concurrency": 2}, {"rate": 0.0}, {"rate": 1.0, "spread": 1.0}],
)
def test_a_demand_that_makes_no_sense_is_refused(options):
    with pytest.raises(UsageError):
        traffic(10, 10, 10, **options)


def test_one_copy_is_the_server_itself():
    demand = traffic(50, 100, 20, rate=20.0)
    assert (run(ALONE, demand).ended_s == serve(PACE, STACK, demand).ended_s).all()


def test_copies_keep_the_order_of_requests():
    demand = traffic(31, 100, 20, rate=20.0)
    served = run(replace(ALONE, copies=3), demand)
    assert (served.tokens == demand.answers).all()
    assert (served.arrived_s == demand.arrivals_s).all()


def test_more_copies_never_make_users_wait_longer():
    demand = traffic(300, 200, 40, rate=60.0)
    means = [run(replace(ALONE, copies=n), demand).ttft_s.mean() for n in (1, 2, 4)]
    assert means == sorted(means, reverse=True)


def test_prompts_apart_leave_answers_undisturbed():
    demand = traffic(200, 400, 40, rate=20.0)
    together = run(replace(ALONE, copies=2), demand)
    apart = run(replace(ALONE, copies=1, prefill=1), demand)
    assert (apart.tokens == demand.answers).all()
    assert (apart.first_s > apart.arrived_s).all()
    assert (apart.ended_s >= apart.first_s).all()
    assert np.percentile(apart.tpot_s, 99) < np.percentile(together.tpot_s, 99)


def test_a_slow_link_delays_answers_but_not_first_tokens():
    demand = traffic(50, 400, 40, rate=5.0)
    pace = replace(PACE, token_bytes=1e5)
    fast = run(Fleet(pace=pace, stack=STACK, prefill=1), demand)
    slow = run(Fleet(pace=pace, stack=STACK, prefill=1, handover_bytes_per_s=1e8), demand)
    assert (slow.first_s == fast.first_s).all()
    assert (slow.ended_s - fast.ended_s).min() > 0.3  # 360 tokens of 100 KB at 100 MB/s


@given(st.floats(0.0, 1.0), st.floats(0.0, 0.2))
@settings(max_examples=20, deadline=None)
def test_guesses_that_are_accepted_save_steps_and_cost_their_making(luck, share):
    demand = traffic(20, 50, 60, concurrency=4, spread=0.0)
    plain = run(ALONE, demand)
    guessed = run(replace(ALONE, accepted=(1 - luck, luck), draft_share=share), demand)
    assert guessed.steps <= plain.steps
    free = run(replace(ALONE, accepted=(1 - luck, luck)), demand)
    assert guessed.ended_s.max() >= free.ended_s.max() - 1e-9


def test_goodput_counts_what_meets_both_limits():
    served = run(ALONE, traffic(100, 100, 20, rate=20.0))
    assert goodput(served, 1e9, 1e9)[1] == 1.0
    assert goodput(served, 0.0, 1e9)[1] == 0.0
    assert goodput(served, 1e9, 0.0)[1] == 0.0


def test_the_timeline_ends_empty_and_counts_everyone():
    demand = traffic(100, 100, 20, rate=50.0)
    seen = timeline(run(ALONE, demand), demand.prompts)
    assert seen.waiting[-1] == seen.streaming[-1] == seen.cache_tokens[-1] == 0
    assert (seen.waiting >= 0).all()
    assert (seen.streaming >= 0).all()
    assert seen.cache_tokens.max() > 100


def test_a_trace_is_read_in_order_of_arrival(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt,answer\n5,20,3\n2,10,4\n")
    demand = read_trace(path)
    assert demand.prompts.tolist() == [10, 20]
    assert demand.arrivals_s.tolist() == [0.0, 3.0]
    for text in ("a,b\n", "arrival_s,prompt,answer\n", "arrival_s,prompt,answer\nx,1,1\n"):
        path.write_text(text)
        with pytest.raises(InputError):
            read_trace(path)


def test_a_pipeline_has_no_more_batches_than_its_cache_has_requests():
    fleet = replace(ALONE, lanes=4, pace=replace(PACE, cache_tokens=260.0))
    served = run(fleet, traffic(20, 100, 20, concurrency=4, spread=0.0))  # two of 120 tokens fit
    pair = run(replace(fleet, lanes=2), traffic(20, 100, 20, concurrency=4, spread=0.0))
    assert (served.ended_s == pair.ended_s).all()
