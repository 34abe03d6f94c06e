"""The scheduler's laws, against a model and a memory that are numbers only: every position that a
step reads must hold the token that belongs there, whatever was shared, copied, taken or kept."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.core import UsageError
from anychip.llm import scheduler
from anychip.llm.scheduler import Limits, Request


def next_token(tokens: tuple[int, ...]) -> int:
    return hashlib.blake2b(repr(tokens).encode(), digest_size=1).digest()[0] % 7


def alone(request: Request, context: int) -> tuple[int, ...]:
    tokens = request.prompt
    while len(tokens) < len(request.prompt) + request.max_new and len(tokens) <= context:
        tokens = (*tokens, next_token(tokens))
    return tokens[len(request.prompt) :]


@dataclass
class World:
    """A clock, a page memory and what came out."""

    state: scheduler.State
    memory: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    out: dict[int, tuple[int, ...]] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    batches: list[scheduler.Batch] = field(default_factory=list)
    now_s: float = 0.0

    def step(self) -> scheduler.Batch:
        self.state, batch = scheduler.step(self.state, self.now_s)
        check(self.state)
        limits = self.state.limits
        assert batch.tokens <= limits.step_tokens
        assert len(batch.slices) <= limits.sequences
        for source, target in batch.copies:
            for slot in range(limits.page_tokens):
                if (source, slot) in self.memory:
                    self.memory[target, slot] = self.memory[source, slot]
        sampled = {}
        for s in batch.slices:
            for i, token in enumerate(s.tokens):
                page, slot = divmod(s.context + i, limits.page_tokens)
                # A cell says what it stands for: the whole prefix up to and with its token.
                before = self.read(s.pages, s.context + i)
                self.memory[s.pages[page], slot] = (*before, token)
        for s in batch.slices:  # every read after every write, as in a real step
            if s.samples:
                sampled[s.id] = self.sample(s)
                self.out[s.id] = (*self.out.get(s.id, ()), *sampled[s.id])
        self.state, ended = scheduler.advance(self.state, batch, sampled)
        check(self.state)
        self.ended.update({**batch.ended, **ended})
        self.batches.append(batch)
        self.now_s += 1.0
        return batch

    def read(self, pages: tuple[int, ...], length: int) -> tuple[int, ...]:
        if not length:
            return ()
        page, slot = divmod(length - 1, self.state.limits.page_tokens)
        return self.memory[pages[page], slot]

    def sample(self, s: scheduler.Slice) -> tuple[int, ...]:
        size = self.state.limits.page_tokens
        for position in range(s.context + len(s.tokens)):
            page, slot = divmod(position, size)
            whole = self.read(s.pages, s.context + len(s.tokens))
            assert self.memory[s.pages[page], slot] == whole[: position + 1]
        got = []
        certain = len(s.tokens) - s.drafts
        for i in range(s.drafts + 1):
            got.append(next_token(self.read(s.pages, s.context + certain + i)))
            if i < s.drafts and s.tokens[certain + i] != got[-1]:
                break
        return tuple(got)

    def run(self, most: int = 5000) -> None:
        for _ in range(most):
            if self.state.is_idle:
                return
            batch = self.step()
            assert batch.slices or batch.ended, "nothing to do, and yet not idle"
        raise AssertionError("did not end")


def check(state: scheduler.State) -> None:
    """Every page is in one place, used as often as sequences use it."""
    pages = state.pages
    places = [*pages.free, *pages.idle, *pages.users]
    assert sorted(places) == list(range(pages.count))
    users: dict[int, int] = {}
    for s in state.running:
        assert len(set(s.pages)) == len(s.pages)
        for page in s.pages:
            users[page] = users.get(page, 0) + 1
        for page in s.pages[s.sealed :]:
            assert pages.users[page] == 1, "a page that may be written has one user"
    assert users == dict(pages.users)
    assert set(pages.idle) <= set(pages.entries)
    assert sorted(pages.found.values()) == sorted(pages.entries)
    assert sorted(p for c in pages.children.values() for p in c) == sorted(pages.entries)
    assert not [s for s in state.waiting if s.pages]


def world(**limits) -> World:
    return World(scheduler.start(Limits(**{"pages": 20, "page_tokens": 4, **limits})))


def request(id: int, prompt=(1, 2, 3), max_new: int = 5, **more) -> Request:
    return Request(id=id, prompt=tuple(prompt), max_new=max_new, **more)


@st.composite
def scenes(draw):
    sequences = draw(st.integers(1, 6))
    limits = Limits(
        pages=draw(st.integers(8, 30)),
        page_tokens=draw(st.sampled_from([1, 2, 4, 8])),
        step_tokens=draw(st.integers(sequences, 24)),
        sequences=sequences,
        context=draw(st.integers(4, 40)),
        prefix_cache=draw(st.booleans()),
        ageing_s=draw(st.sampled_from([0.0, 3.0])),
    )
    return limits, draw(st.integers(0, 10**6))


@settings(max_examples=120, deadline=None)
@given(scenes())
def test_any_mix_ends_with_the_tokens_each_gets_alone(scene):
    limits, seed = scene
    dice = random.Random(seed)
    world, wanted, cancelled = World(scheduler.start(limits)), {}, set()
    prefix = tuple(dice.randrange(7) for _ in range(20))
    for id in range(dice.randrange(1, 25)):
        length = dice.randrange(1, 20)
        prompt = (*prefix[: dice.randrange(length)], *(dice.randrange(3) for _ in range(length)))
        one = request(
            id,
            prompt,
            dice.randrange(1, 15),
            arrival_s=world.now_s,
            priority=dice.randrange(3),
            owner=dice.choice("ab"),
        )
        try:
            world.state = scheduler.submit(world.state, one)
        except UsageError:
            continue
        wanted[id] = alone(one, limits.context)
        for running in world.state.running:  # good and bad guesses
            if dice.random() < 0.5:
                full = (*running.request.prompt, *wanted[running.request.id])
                guess = list(full[running.length : running.length + dice.randrange(5)])
                if guess and dice.random() < 0.5:
                    guess[dice.randrange(len(guess))] = 9
                world.state = scheduler.propose(world.state, running.request.id, guess)
        for _ in range(dice.randrange(3)):
            world.step()
        if dice.random() < 0.2:
            gone = dice.randrange(id + 1)
            if gone not in world.ended:
                cancelled.add(gone)
            world.state = scheduler.cancel(world.state, gone)
            check(world.state)
    world.run()
    assert not world.state.pages.users
    for id, tokens in wanted.items():
        got = world.out.get(id, ())
        assert got == (tokens[: len(got)] if id in cancelled else tokens)


def test_equal_histories_give_equal_batches():
    def history():
        one = world(pages=12, step_tokens=16, sequences=4)
        for id in range(9):
            one.state = scheduler.submit(one.state, request(id, range(id + 2), 9))
            one.step()
        one.run()
        return one.batches

    assert history() == history()


def test_decodes_share_steps_with_chunks_of_a_long_prompt():
    one = world(step_tokens=8, sequences=4, pages=40, context=80)
    one.state = scheduler.submit(one.state, request(0, max_new=20))
    one.step()
    one.state = scheduler.submit(one.state, request(1, range(40)))
    batch = one.step()
    assert [(s.kind, len(s.tokens), s.samples) for s in batch.slices] == [
        ("decode", 1, True),
        ("prefill", 7, False),
    ]


def test_a_known_prefix_is_not_computed_again_and_a_half_known_page_is_copied():
    one = world(step_tokens=64, sequences=4, context=40)
    one.state = scheduler.submit(one.state, request(0, range(12), 1))
    one.run()
    one.state = scheduler.submit(one.state, request(1, (*range(10), 99, 98), 1))
    batch = one.step()
    assert batch.hits == 10
    assert [len(s.tokens) for s in batch.slices] == [2]
    assert len(batch.copies) == 1
    one.state = scheduler.submit(one.state, request(2, range(12), 1, salt="other"))
    assert one.step().hits == 0


def test_prefixes_unused_for_longest_go_first():
    one = world(pages=4, context=16)
    for id, first in enumerate((10, 20, 10, 30, 10)):
        one.state = scheduler.submit(one.state, request(id, range(first, first + 6), 2))
        one.run()
    hits = [b.hits for b in one.batches if any(s.kind == "prefill" for s in b.slices)]
    assert hits[2] > 0
    assert hits[4] > 0  # 20's page went for 30, not 10's


def test_without_pages_the_last_in_rank_is_preempted_and_still_finishes():
    one = world(pages=6, sequences=3, context=24)
    for id in range(3):
        one.state = scheduler.submit(one.state, request(id, (id, 1, 2), 16))
    one.run()
    assert any(b.preempted for b in one.batches)
    assert not any(0 in b.preempted for b in one.batches)
    assert {id: len(out) for id, out in one.out.items()} == {0: 16, 1: 16, 2: 16}


def test_higher_priority_takes_a_place_and_ageing_gives_it_back():
    one = world(sequences=1, ageing_s=10.0, context=64)
    one.state = scheduler.submit(one.state, request(0, max_new=30))
    one.step()
    one.state = scheduler.submit(one.state, request(1, max_new=2, priority=1, arrival_s=1.0))
    assert one.step().preempted == (0,)
    one.run()
    late = world(sequences=1, ageing_s=10.0, context=64)
    late.state = scheduler.submit(late.state, request(0, max_new=30))
    late.now_s = 25.0
    late.step()
    late.state = scheduler.submit(late.state, request(1, max_new=2, priority=1, arrival_s=25.0))
    assert late.step().preempted == ()


def test_owners_share_alike():
    one = world(sequences=1, context=64)
    for id in range(6):
        one.state = scheduler.submit(one.state, request(id, owner="many"))
    one.step()
    one.state = scheduler.submit(one.state, request(6, owner="few"))
    one.run()
    order = list(dict.fromkeys(s.id for b in one.batches for s in b.slices))
    assert order.index(6) == 1


def test_a_deadline_ends_a_request():
    one = world(context=64)
    one.state = scheduler.submit(one.state, request(0, max_new=30, deadline_s=4.0))
    one.run()
    assert one.ended == {0: "deadline"}
    assert len(one.out[0]) == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": ()}, "empty prompt"),
        ({"max_new": 0}, "max_new"),
        ({"prompt": tuple(range(33))}, "shorten it by 1"),
        ({"prompt": (1,) * 30, "max_new": 30}, "more pages"),
    ],
)
def test_what_can_never_run_is_refused_at_once(change, says):
    state = scheduler.start(Limits(pages=4, page_tokens=4, context=32))
    with pytest.raises(UsageError, match=says):
        scheduler.submit(state, replace(request(0), **change))


def test_a_request_is_here_once():
    state = scheduler.submit(scheduler.start(Limits(pages=4)), request(0))
    with pytest.raises(UsageError, match="already here"):
        scheduler.submit(state, request(0))
