"""Prompts and answers on copies of their own: laws, and leaps that equal single steps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.core import UsageError
from anychip.mapper.disaggregate import Split, _Halves, serve_apart
from anychip.mapper.pace import Pace
from anychip.mapper.serving import Demand, Guessing, Stack, closed

PACE = Pace(
    tokens=np.array([1.0, 64.0, 4096.0]),
    linear_s=np.array([0.01, 0.011, 0.2]),
    context_s=np.array([1e-6, 1e-6, 1e-6]),
    prompt_s=0.0,
    pair_s=1e-9,
    cache_tokens=700.0,
    token_bytes=1e3,
)
STACK = Stack(name="test", step_tokens=128, sequences=6)
LINK = {"handover_s": 1e-3, "handover_bytes_per_s": 2e7}


@st.composite
def demands(draw):
    sizes = draw(
        st.lists(st.tuples(st.integers(1, 200), st.integers(1, 40)), min_size=1, max_size=14)
    )
    prompts, answers = (np.array(part) for part in zip(*sizes, strict=True))
    if draw(st.booleans()):
        return Demand(prompts=prompts, answers=answers, concurrency=draw(st.integers(1, 9)))
    times = draw(st.lists(st.floats(0, 1), min_size=len(sizes), max_size=len(sizes)))
    return Demand(prompts=prompts, answers=answers, arrivals_s=np.sort(times))


splits = st.builds(
    Split,
    prefill=st.integers(1, 3),
    decode=st.integers(1, 3),
    **{name: st.just(value) for name, value in LINK.items()},
)


@given(demands(), splits)
@settings(max_examples=60, deadline=None)
def test_every_request_is_answered_in_its_time_and_the_same_again(demand, split):
    served = serve_apart(PACE, STACK, demand, split)
    many = demand.answers > 1
    assert (served.first_s > served.arrived_s).all()
    assert (served.ended_s[~many] == served.first_s[~many]).all()
    moved = demand.prompts * PACE.token_bytes / split.handover_bytes_per_s + split.handover_s
    least = (demand.answers - 1) * PACE.linear_s[0]
    assert (served.ended_s + 1e-9 >= served.first_s + moved + least)[many].all()
    again = serve_apart(PACE, STACK, demand, split)
    assert (served.ended_s == again.ended_s).all()
    assert (served.first_s == again.first_s).all()


class _Recorded(_Halves):
    """Keeps what was computed: prompt tokens, and sequences times steps of answers."""

    prompt_tokens = 0
    answer_steps = 0

    def _end_prefill(self, one, seconds):
        self.prompt_tokens += sum(one.chunks)
        super()._end_prefill(one, seconds)

    def _end_decode(self, one, version):
        if version == one.version:
            self.answer_steps += one.many * len(one.ends)
        super()._end_decode(one, version)


@given(demands(), splits)
@settings(max_examples=40, deadline=None)
def test_no_work_is_lost_and_none_done_twice(demand, split):
    halves = _Recorded(PACE, STACK, demand, split, Guessing())
    halves.run()
    assert halves.prompt_tokens == demand.prompts.sum()
    assert halves.answer_steps == (demand.answers - 1).sum()
    for copy in (*halves.prefills, *halves.decodes):
        assert copy.held == pytest.approx(0.0)


class _Stepwise(_Halves):
    """Without leaps: every decode step is an event."""

    def _schedule(self, one):
        one.many = 1
        super()._schedule(one)


@given(demands(), splits)
@settings(max_examples=60, deadline=None)
def test_leaps_are_the_steps_they_leave_out(demand, split):
    leapt, stepped = (
        kind(PACE, STACK, demand, split, Guessing()).run() for kind in (_Halves, _Stepwise)
    )
    np.testing.assert_allclose(leapt.first_s, stepped.first_s, rtol=1e-9)
    np.testing.assert_allclose(leapt.ended_s, stepped.ended_s, rtol=1e-9)
    assert leapt.steps == stepped.steps


@given(demands())
@settings(max_examples=40, deadline=None)
def test_one_prefill_copy_keeps_the_order_of_arrival(demand):
    served = serve_apart(PACE, STACK, demand, Split(prefill=1, decode=2, **LINK))
    assert (np.diff(served.first_s) >= 0).all()


@given(demands())
@settings(max_examples=60, deadline=None)
def test_more_decode_copies_never_raise_the_time_per_token(demand):
    """But for the step that runs when a cache comes in, of which one may catch another part."""
    demand = replace(demand, concurrency=0, arrivals_s=np.linspace(0, 0.5, len(demand.prompts)))
    if demand.answers.max() < 2:
        return
    served = [
        serve_apart(PACE, STACK, demand, Split(prefill=2, decode=n, **LINK)) for n in (1, 2, 4)
    ]
    step = PACE.step_s(STACK.sequences, PACE.cache_tokens)
    waits = [(one.ended_s - one.first_s).mean() for one in served]
    assert waits[0] + step >= waits[1]
    assert waits[1] + step >= waits[2]


def test_under_load_more_decode_copies_lower_the_time_per_token():
    random = np.random.default_rng(0)
    demand = Demand(
        prompts=random.integers(50, 150, 400),
        answers=random.integers(20, 60, 400),
        arrivals_s=np.cumsum(random.exponential(1 / 20, 400)),
    )
    means = [
        serve_apart(PACE, STACK, demand, Split(prefill=4, decode=n, **LINK)).tpot_s.mean()
        for n in (1, 2, 4, 8)
    ]
    assert means == sorted(means, reverse=True)
    assert means[0] > 2 * means[3]


def test_a_lone_request_is_a_prompt_a_handover_and_its_steps():
    split = Split(prefill=1, decode=1, **LINK)
    served = serve_apart(PACE, STACK, closed(100, 11, 1, 1), split)
    first = PACE.step_s(0, 0.0, [(100, 0)])
    moved = 100 * 1e3 / 2e7 + 1e-3
    steps = sum(PACE.step_s(1, 101 + i) for i in range(10))
    assert served.first_s[0] == pytest.approx(first)
    assert served.ended_s[0] == pytest.approx(first + moved + steps)


def test_caches_leave_one_after_the_other():
    """Two prompts of one step end together; the second cache waits for the first."""
    demand = Demand(prompts=np.array([60, 60]), answers=np.array([2, 2]), arrivals_s=np.zeros(2))
    slow = Split(prefill=1, decode=2, handover_bytes_per_s=1e5)
    served = serve_apart(PACE, STACK, demand, slow)
    assert served.first_s[0] == served.first_s[1]
    assert served.ended_s[1] - served.ended_s[0] == pytest.approx(60 * 1e3 / 1e5)


def test_users_in_a_loop_never_have_more_requests_than_they_are():
    demand = closed(80, 20, 5, 60)
    served = serve_apart(PACE, STACK, demand, Split(prefill=1, decode=2, **LINK))
    for when in served.arrived_s:
        assert ((served.arrived_s <= when) & (when < served.ended_s)).sum() <= 5


def test_guesses_save_steps():
    plain, guessed = (
        serve_apart(PACE, STACK, closed(10, 41, 1, 1), Split(prefill=1, decode=1), guesses)
        for guesses in (Guessing(), Guessing(given=2.0, checked=3, draft_share=0.1))
    )
    assert (plain.steps, guessed.steps) == (41, 21)
    assert guessed.tpot_s[0] < plain.tpot_s[0]


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match=r"690 \+ 20 tokens needs more KV cache than the 700"):
        serve_apart(PACE, STACK, closed(690, 20, 1, 1), Split(prefill=1, decode=1))
    for changes in ({"prefill": 0}, {"decode": 0}, {"handover_s": -1.0}):
        with pytest.raises(UsageError):
            Split(**{"prefill": 1, "decode": 1, **changes})
