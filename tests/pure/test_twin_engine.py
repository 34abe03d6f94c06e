"""Laws of the engine: starts are never early, resources do one thing at a time, order is total."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.core import UsageError
from anychip.twin.engine import TICK_S, Block, Job, Run, schedule, ticks

NAMES = ("matrix", "vector", "chip/link", "chip/memory")


@st.composite
def blocks(draw) -> Block:
    jobs = []
    for index in range(draw(st.integers(1, 8))):
        before = st.sampled_from(range(index)) if index else st.nothing()
        jobs.append(
            Job(
                name=f"j{index}",
                resources=tuple(draw(st.lists(st.sampled_from(NAMES), max_size=2, unique=True))),
                busy=draw(st.integers(0, 50)),
                after=tuple(sorted(draw(st.sets(before, max_size=2)))) if index else (),
                delay=draw(st.sampled_from([0, 0, 7])),
                priority=draw(st.integers(0, 2)),
                reads=("token",) if draw(st.booleans()) else (),
                writes=("token",) if draw(st.booleans()) else (),
            )
        )
    return Block(tuple(jobs))


programs = st.lists(blocks(), min_size=1, max_size=3)
orders = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=8)


def runs_of(order, made):
    return [Run(b % len(made), at={"chip": f"chip {c}"}, stage=c) for b, c in order]


def plain(made, runs):
    """The same by definition: every run scheduled anew, no reuse, no heap."""
    state = defaultdict(int)
    found = []
    for run in runs:
        block = made[run.block]
        used = [n for j in block.jobs for n in (*j.resources, *j.reads, *j.writes)]
        names = {n: n.replace("chip/", run.at["chip"] + "/") for n in used}
        base = max((state[n] for n in names.values()), default=0)
        done = []
        for job in block.jobs:
            mine = [names[n] for n in (*job.reads, *job.resources)]
            waits = [*(done[i] for i in job.after), *(state[n] for n in mine)]
            start = max(waits, default=base)
            for name in job.resources:
                state[names[name]] = start + job.busy
            for name in job.writes:
                state[names[name]] = start + job.busy + job.delay
            done.append(start + job.busy + job.delay)
            found.append((start, start + job.busy))
    return found


@given(programs, orders)
@settings(max_examples=150, deadline=None)
def test_reuse_changes_nothing(made, order):
    runs = runs_of(order, made)
    assert [(s, e) for _, _, s, e in schedule(made, runs).spans()] == plain(made, runs)


@given(programs, orders, st.sampled_from([frozenset(), frozenset(NAMES[:2]), frozenset(NAMES)]))
@settings(max_examples=150, deadline=None)
def test_no_job_starts_early_and_no_resource_does_two_things(made, order, shared):
    runs = runs_of(order, made)
    result = schedule(made, runs, shared=shared)
    held = defaultdict(list)
    spans = list(result.spans())
    at = 0
    for run in runs:
        jobs = made[run.block].jobs
        mine = spans[at : at + len(jobs)]
        at += len(jobs)
        for job, (_, _, start, end) in zip(jobs, mine, strict=True):
            assert end - start == job.busy
            for other in job.after:
                assert start >= mine[other][3] + jobs[other].delay
            for name in job.resources:
                held[name.replace("chip/", run.at["chip"] + "/")].append((start, end))
    for taken in held.values():
        assert all(a[1] <= b[0] for a, b in pairwise(sorted(taken)))
    assert sum(result.busy().values()) == sum(e - s for each in held.values() for s, e in each)
    assert result.ticks >= max(e for _, _, _, e in spans)


@given(programs, orders, st.data())
@settings(max_examples=100, deadline=None)
def test_a_shorter_job_never_ends_anything_later(made, order, data):
    shorter = [
        Block(tuple(j._replace(busy=data.draw(st.integers(0, j.busy))) for j in b.jobs))
        for b in made
    ]
    runs = runs_of(order, made)
    pairs = zip(schedule(made, runs).spans(), schedule(shorter, runs).spans(), strict=True)
    assert all(after[3] <= before[3] for before, after in pairs)


@given(programs, orders)
@settings(max_examples=50, deadline=None)
def test_the_same_input_gives_the_same_schedule(made, order):
    runs = runs_of(order, made)
    for shared in (frozenset(), frozenset(NAMES)):
        first = schedule(made, runs, shared=shared)
        assert first == schedule(list(made), list(runs), shared=shared)


def test_events_and_one_pass_agree_where_readiness_is_turn():
    block = Block(
        (
            Job("load", ("dma",), 5),
            Job("multiply", ("matrix",), 7, after=(0,), delay=2),
            Job("add", ("vector",), 1, after=(1,)),
        )
    )
    runs = [Run(0)] * 4
    assert list(schedule([block], runs).spans()) == list(
        schedule([block], runs, shared=frozenset({"dma"})).spans()
    )


def test_shared_resources_serve_by_time_then_priority_then_serial():
    jobs = (
        Job("first", ("link",), 10),
        Job("late", ("link",), 1, priority=0, after=(0,)),
        Job("low", ("link",), 1, priority=2),
        Job("high", ("link",), 1, priority=1),
        Job("high again", ("link",), 1, priority=1),
    )
    result = schedule([Block(jobs)], [Run(0)], shared=frozenset({"link"}))
    order = sorted((start, job.name) for _, job, start, _ in result.spans())
    assert [name for _, name in order] == ["first", "late", "high", "high again", "low"]
    in_turn = schedule([Block(jobs)], [Run(0)])
    assert [start for _, _, start, _ in in_turn.spans()] == [0, 10, 11, 12, 13]


def test_equal_layers_are_scheduled_once():
    layer = Block(
        (Job("a", ("x",), 3, reads=("t",)), Job("b", ("y",), 4, after=(0,), writes=("t",)))
    )
    result = schedule([layer], [Run(0)] * 1000)
    assert len({id(outcome) for outcome in result.outcomes}) <= 3
    assert result.ticks == 7000


def test_equal_stages_are_scheduled_once_wherever_they_are():
    layer = Block(
        (
            Job("load", ("chip/x",), 3, reads=("t",)),
            Job("a", ("chip/y",), 3, after=(0,)),
            Job("b", ("chip/y",), 4, after=(1,), writes=("t",)),
        )
    )
    result = schedule([layer], [Run(0, at={"chip": str(s)}) for s in range(500)])
    assert len({id(outcome) for outcome in result.outcomes}) == 1


def test_the_busiest_stage_sets_the_pace():
    layer = Block((Job("a", ("chip/x",), 3, reads=("t",), writes=("t",)),))
    runs = [Run(0, at={"chip": str(s)}, stage=s) for s in (0, 1, 1, 2)]
    result = schedule([layer], runs)
    assert (result.ticks, result.stage_ticks()) == (12, 6)


def test_ticks_round_up_and_a_job_waits_for_earlier_ones_only():
    assert ticks(1e-9) * TICK_S >= 1e-9 > (ticks(1e-9) - 1) * TICK_S
    assert ticks(0.4e-15) == 1
    with pytest.raises(UsageError, match="after those it waits for"):
        Block((Job("a", (), 1, after=(0,)),))
