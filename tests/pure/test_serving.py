"""The simulated server: laws, and the same steps as the token engine's scheduler takes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anychip.core import UsageError
from anychip.llm.scheduler import Limits, Request, advance, start, step, submit
from anychip.mapper.pace import Pace
from anychip.mapper.serving import Demand, Stack, closed, serve

PACE = Pace(
    tokens=np.array([1.0, 64.0, 4096.0]),
    linear_s=np.array([0.01, 0.011, 0.2]),
    context_s=np.array([1e-6, 1e-6, 1e-6]),
    prompt_s=0.0,
    pair_s=1e-9,
    cache_tokens=1e6,
)
STACK = Stack(name="test", step_tokens=96, sequences=8)


JUST_BEFORE_A_STEP = ([(1, 1), (1, 1), (24, 13), (1, 1)], [0.0] * 13 + [0.12072551521813216])
"""An arrival so late in a step that steps of equal length would have ended before it."""


def demands():
    sizes = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 40)), min_size=1, max_size=14)
    return st.tuples(sizes, st.lists(st.floats(0, 1), min_size=14, max_size=14))


def _demand(drawn) -> Demand:
    sizes, times = drawn
    return Demand(
        prompts=np.array([p for p, _ in sizes]),
        answers=np.array([a for _, a in sizes]),
        arrivals_s=np.sort(times[-len(sizes) :]),
    )


def by_the_scheduler(demand: Demand):
    """First and last token's times when `llm.scheduler` fills the steps."""
    limits = Limits(
        pages=100_000,
        page_tokens=16,
        step_tokens=STACK.step_tokens,
        sequences=STACK.sequences,
        prefix_cache=False,
    )
    state, now, coming = start(limits), 0.0, 0
    first, ended = np.zeros(len(demand.prompts)), np.zeros(len(demand.prompts))
    done = 0
    while done < len(first):
        while coming < len(first) and demand.arrivals_s[coming] <= now:
            request = Request(
                id=coming,
                prompt=tuple(range(demand.prompts[coming])),
                max_new=int(demand.answers[coming]),
                arrival_s=float(demand.arrivals_s[coming]),
            )
            state, coming = submit(state, request), coming + 1
        state, batch = step(state, now)
        if not batch.slices:
            now = demand.arrivals_s[coming]
            continue
        decodes = [s for s in batch.slices if s.kind == "decode"]
        chunks = [(len(s.tokens), s.context) for s in batch.slices if s.kind == "prefill"]
        context = sum(s.context + 1 for s in decodes)
        now += PACE.step_s(len(decodes), context, chunks)
        state, over = advance(state, batch, {s.id: (0,) for s in batch.slices if s.samples})
        for one in batch.slices:
            if one.samples and one.kind == "prefill":
                first[one.id] = now
        for id in over:
            ended[id] = now
            done += 1
    return first, ended


@settings(max_examples=40, deadline=None)
@given(demands())
@example(JUST_BEFORE_A_STEP)
def test_steps_are_those_of_the_token_engines_scheduler(drawn):
    demand = _demand(drawn)
    first, ended = by_the_scheduler(demand)
    served = serve(PACE, STACK, demand)
    np.testing.assert_allclose(served.first_s, first, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(served.ended_s, ended, rtol=1e-3, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(demands())
def test_every_request_is_answered_after_it_came(drawn):
    demand = _demand(drawn)
    served = serve(PACE, STACK, demand)
    assert (served.first_s > served.arrived_s).all()
    assert (served.ended_s >= served.first_s).all()
    again = serve(PACE, STACK, demand)
    assert (served.ended_s == again.ended_s).all()


def test_more_users_never_shorten_the_wait():
    means = [serve(PACE, STACK, closed(64, 32, n, 20 * n)).ttft_s.mean() for n in (1, 4, 16)]
    assert means[0] < means[1] < means[2]


def test_a_slower_host_costs_each_step_its_time():
    fast = serve(PACE, STACK, closed(1, 101, 1, 1))
    slow = serve(PACE, Stack(name="slow", host_s=0.005), closed(1, 101, 1, 1))
    assert slow.tpot_s[0] - fast.tpot_s[0] == pytest.approx(0.005, rel=1e-6)


def test_accepted_guesses_shorten_answers_as_their_mean():
    plain = serve(PACE, STACK, closed(1, 301, 1, 1))
    guessed = serve(PACE, STACK, closed(1, 301, 1, 1), accepted=[0.0, 0.0, 1.0])
    assert guessed.tpot_s[0] / plain.tpot_s[0] == pytest.approx(1 / 3, rel=0.02)


def test_a_request_without_room_is_named():
    tight = replace(PACE, cache_tokens=100.0)
    with pytest.raises(UsageError, match=r"90 \+ 20 tokens needs more KV cache than the 100"):
        serve(tight, STACK, closed(90, 20, 1, 1))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"concurrency": 0}, "one of the two"),
        ({"arrivals_s": np.array([0.0, 0.0])}, "one of the two"),
        ({"answers": np.array([1])}, "as many prompts as answers"),
        ({"answers": np.array([1, 0])}, "at least one token"),
    ],
)
def test_impossible_demands_are_refused(changes, why):
    plain = {"prompts": np.array([4, 4]), "answers": np.array([4, 4]), "concurrency": 1}
    with pytest.raises(UsageError, match=why):
        Demand(**{**plain, **changes})


def test_ten_thousand_requests_take_few_steps_of_python():
    served = serve(PACE, Stack(name="wide", sequences=64), closed(256, 64, 64, 10_000))
    assert len(served.ended_s) == 10_000
    assert served.steps < 64 * 10_000


def test_a_slow_front_end_sets_the_pace_and_tokens_wait_for_it():
    demand = closed(10, 50, 8, 80)
    slow = replace(STACK, stream_s=5e-3)  # 200 tokens a second; the model gives some 700
    free, held = serve(PACE, STACK, demand), serve(PACE, slow, demand)
    assert free.tok_s > 500
    assert held.tok_s == pytest.approx(200, rel=0.02)
    assert held.ttft_s.mean() > 2 * free.ttft_s.mean()


@given(demands(), st.floats(0, 1e-2))
@settings(max_examples=30, deadline=None)
def test_a_front_end_never_makes_an_answer_earlier(drawn, stream_s):
    demand = _demand(drawn)
    free = serve(PACE, STACK, demand)
    held = serve(PACE, replace(STACK, stream_s=stream_s), demand)
    assert (held.first_s >= free.first_s - 1e-9).all()
    assert (held.ended_s >= free.ended_s - 1e-9).all()


def test_a_reserved_place_is_a_place_less():
    demand = closed(10, 20, 6, 30)
    fewer = serve(PACE, replace(STACK, sequences=3), demand)
    kept = serve(PACE, replace(STACK, sequences=4, reserved=1), demand)
    assert (kept.first_s == fewer.first_s).all()


def test_a_step_with_a_prompt_takes_at_least_its_launches():
    pace = replace(PACE, layers=32)
    one = closed(10, 1, 1, 1)
    assert serve(pace, STACK, one).ttft_s[0] < 0.02
    assert serve(pace, replace(STACK, eager_layer_s=1e-3), one).ttft_s[0] == pytest.approx(0.032)


@given(st.integers(1, 96))
def test_a_padded_step_costs_what_one_of_the_next_power_of_two_does(tokens):
    pace = replace(PACE, tokens=np.array([1.0, 3.0, 64.0, 100.0]), linear_s=np.arange(1.0, 5.0))
    pace = replace(pace, context_s=np.zeros(4))
    padded = min(2 ** (tokens - 1).bit_length(), 100)
    assert pace.padded().step_s(tokens, 0.0) == pytest.approx(pace.step_s(padded, 0.0))
    assert pace.padded().step_s(0, 0.0, [(tokens, 0)]) == pytest.approx(
        pace.step_s(0, 0.0, [(padded, 0)]), rel=1e-6
    )


def test_pages_taken_as_needed_let_more_requests_in():
    tight = replace(PACE, cache_tokens=400.0)
    demand = closed(50, 100, 4, 8)
    reserved, needed = (serve(tight, replace(STACK, held=h), demand) for h in (1.0, 0.5))
    assert needed.ttft_s.mean() < reserved.ttft_s.mean()
