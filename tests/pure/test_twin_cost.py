"""Laws of the closed form: roofline is a floor, more of anything never hurts, nothing is lost."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.core import Chip, CompileOptions, Fact, MemorySpec, Origin, UsageError
from anychip.frontends.llm import PRECISIONS
from anychip.twin import (
    Amounts,
    Kernel,
    Lowered,
    Shards,
    Table,
    joules_by_source,
    lower,
    machine,
    step_cost,
    step_joules,
    twin,
)
from anychip.twin.cost import kernel_ways
from anychip.twin.formats import way
from anychip.twin.machine import ACTIVE
from anychip.twin.shard import place, portion, shardings, share

numbers = st.integers(0, 10**12).map(float)


@st.composite
def tables(draw) -> Table:
    """A Table of one to five kernels, some of them matmuls, some divided, some with experts."""
    kernels = []
    for index in range(draw(st.integers(1, 5))):
        is_matmul = draw(st.booleans())
        experts = draw(st.sampled_from([0, 0, 8]))
        amounts = Amounts(
            flops=draw(numbers) if is_matmul else 0.0,
            vector_flops=draw(numbers),
            weight_bytes=draw(numbers),
            state_read_bytes=draw(numbers),
            read_bytes=draw(numbers),
            written_bytes=draw(numbers),
            reduce_bytes=draw(st.sampled_from([0.0, 1e5])),
            rows=draw(st.integers(1, 100)) if experts else 0,
        )
        kernels.append(
            Kernel(
                name=f"k{index}",
                unit="matmul" if is_matmul else "vector",
                amounts=amounts,
                formats=("bf16",) if is_matmul else (),
                is_split=draw(st.booleans()),
                state_splits=draw(st.sampled_from([1, 4, 8])),
                experts=experts,
                active=2 if experts else 1,
            )
        )
    total = sum(k.amounts.weight_bytes for k in kernels)
    lowered = Lowered(
        name="drawn",
        blocks=(tuple(kernels),),
        schedule=((0, Origin()),) * draw(st.integers(1, 3)),
        layers=draw(st.integers(0, 3)),
        weight_bytes=total,
        state_bytes=draw(numbers),
        replicated_weight_bytes=sum(k.amounts.weight_bytes for k in kernels if not k.is_split),
    )
    return Table.of(lowered)


some_shards = st.sampled_from([Shards(), Shards(2), Shards(8), Shards(2, 2), Shards(8, 1, 4)])


@given(tables(), some_shards)
@settings(max_examples=60, deadline=None)
def test_never_faster_than_the_roofline(hand_chip, table: Table, shards: Shards):
    spec = hand_chip()
    cost = step_cost(table, machine(spec), shards)
    part = cost.portion
    assert np.all(cost.kernel_s >= part.flops / 1e14 * (1 - 1e-9))
    assert np.all(cost.kernel_s >= (part.weight_bytes + part.state_bytes) / 1e12 * (1 - 1e-9))
    assert cost.seconds >= float(cost.kernel_s @ table.counts) * (1 - 1e-9)


@given(tables(), some_shards, st.floats(1.0, 16.0))
@settings(max_examples=60, deadline=None)
def test_more_bandwidth_or_arithmetic_never_slows(hand_chip, table: Table, shards: Shards, factor):
    base = step_cost(table, machine(hand_chip()), shards).seconds
    for faster in (
        hand_chip(bytes_per_s=1e12 * factor),
        hand_chip(flops_per_s=1e14 * factor),
    ):
        assert step_cost(table, machine(faster), shards).seconds <= base * (1 + 1e-9)


@given(tables(), some_shards)
@settings(max_examples=60, deadline=None)
def test_doubling_the_batch_never_lowers_the_step(hand_chip, table: Table, shards: Shards):
    one = machine(hand_chip())
    single = step_cost(table, one, shards).seconds
    double = step_cost(table.at_batch(2), one, shards).seconds
    assert double >= single * (1 - 1e-9)


@given(tables(), some_shards)
@settings(max_examples=60, deadline=None)
def test_doubling_the_batch_at_most_doubles_the_step(hand_chip, table: Table, shards: Shards):
    """Where no cache holds activations: what stops fitting in one costs more than twice. Rounding
    of the hundred-odd sums and the exp and log of experts stays far below the 1e-9 allowed."""
    spec = hand_chip()
    one = machine(replace(spec, memory=spec.memory[:1]))
    single = step_cost(table, one, shards).seconds
    double = step_cost(table.at_batch(2), one, shards).seconds
    assert double <= 2 * single * (1 + 1e-9)


def test_half_a_token_keeps_as_many_experts_busy_as_a_whole_one(hand_chip):
    table = _one_kernel(Amounts(flops=1e15, rows=1), experts=8, active=2)
    one, shards = machine(hand_chip()), Shards(8, 1, 4)
    single = step_cost(table, one, shards).seconds
    assert step_cost(table.at_batch(2), one, shards).seconds <= 2 * single


@given(tables(), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 3]))
@settings(max_examples=60, deadline=None)
def test_sharding_conserves_weights(table: Table, tensor: int, pipeline: int):
    """All chips together hold every weight; only what is replicated is held more than once."""
    part = share(table, Shards(tensor, pipeline))
    stages = -(-max(table.layers, 1) // pipeline) / max(table.layers, 1)
    whole = table.replicated_weight_bytes
    expected = ((table.weight_bytes - whole) / tensor + whole) * max(stages, 1 / pipeline)
    assert part.weight_bytes == pytest.approx(expected)
    assert part.weight_bytes * tensor * pipeline >= table.weight_bytes * (1 - 1e-9)


@given(tables(), st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=60, deadline=None)
def test_dense_work_is_divided_and_not_lost(table: Table, tensor: int):
    part = portion(table, Shards(tensor))
    dense = ~table.traits.is_grouped
    ways = np.where(table.traits.is_split, tensor, 1)
    for name in ("flops", "weight_bytes"):
        whole = (getattr(part, name) * ways)[dense]
        np.testing.assert_allclose(whole, table.numbers[name][dense])


@given(tables(), some_shards)
@settings(max_examples=30, deadline=None)
def test_the_same_input_gives_the_same_output(hand_chip, table: Table, shards: Shards):
    first, second = (step_cost(table, machine(hand_chip()), shards) for _ in range(2))
    assert first.seconds == second.seconds
    assert np.array_equal(first.kernel_s, second.kernel_s)


@given(tables(), some_shards)
@settings(max_examples=60, deadline=None)
def test_power_stays_between_idle_and_tdp(hand_chip, table: Table, shards: Shards):
    one = machine(hand_chip())
    cost = step_cost(table, one, shards)
    joules = step_joules(table, one, cost, cost.seconds)
    assert joules is not None
    watts = joules / cost.seconds / shards.chips
    assert 100 * (1 - 1e-9) <= watts <= 700 * (1 + 1e-9)


@given(tables(), some_shards)
@settings(max_examples=40, deadline=None)
def test_joules_have_sources_that_add_up(hand_chip, table: Table, shards: Shards):
    one = machine(hand_chip())
    cost = step_cost(table, one, shards)
    parts = joules_by_source(table, one, cost, cost.seconds)
    assert parts is not None
    assert min(parts.values()) >= 0
    assert sum(parts.values()) == pytest.approx(step_joules(table, one, cost, cost.seconds))
    assert parts["idle"] == pytest.approx(100 * cost.seconds * shards.chips)


def test_a_busy_chip_draws_more_than_its_work_explains(hand_chip):
    table = _one_kernel(Amounts(flops=1e9))
    lazy, busy = (machine(hand_chip(), turned={ACTIVE: share}) for share in (0.0, 0.3))
    a, b = (joules_by_source(table, one, step_cost(table, one), 1.0) for one in (lazy, busy))
    assert a is not None
    assert b is not None
    assert a["compute"] == b["compute"]
    assert sum(b.values()) > sum(a.values())


def test_a_spec_without_power_gives_no_joules(hand_chip):
    one = machine(hand_chip(tdp_w=None, idle_w=None))
    table = _one_kernel(Amounts(flops=1e9))
    assert step_joules(table, one, step_cost(table, one), 1.0) is None


def _one_kernel(amounts: Amounts, **changes) -> Table:
    kernel = Kernel(name="k", unit="matmul", amounts=amounts, formats=("bf16",), **changes)
    return Table.of(
        Lowered(
            name="one",
            blocks=((kernel,),),
            schedule=((0, Origin()),),
            layers=1,
            weight_bytes=amounts.weight_bytes,
            state_bytes=0.0,
        )
    )


def test_work_overlaps_as_far_as_the_family_says(hand_chip):
    table = _one_kernel(Amounts(flops=8e13, weight_bytes=8e11))  # a second of each
    ideal = step_cost(table, machine(hand_chip(), None, {"family.overlap": 1.0})).kernel_s[0]
    turns = step_cost(table, machine(hand_chip(), None, {"family.overlap": 0.0})).kernel_s[0]
    assert ideal == pytest.approx(1.0, rel=1e-4)
    assert turns == pytest.approx(2.0, rel=1e-4)


def test_small_activations_do_not_pay_for_main_memory(hand_chip):
    one = machine(hand_chip())
    near = step_cost(_one_kernel(Amounts(read_bytes=2e7)), one).memory_s[0]
    far = step_cost(_one_kernel(Amounts(read_bytes=2e8)), one).memory_s[0]
    assert near == pytest.approx(2e7 / 8e12)
    assert far == pytest.approx(2e8 / 8e11)


def test_weights_live_in_the_nearest_memory_with_room(hand_chip):
    levels = tuple(
        MemorySpec(
            name=name,
            capacity_bytes=Fact(value=size, source="test"),
            read_bytes_per_s=Fact(value=rate, source="test"),
        )
        for name, size, rate in (("dram", 1e12, 4e11), ("sram", 2e9, 1e14))
    )
    one = machine(hand_chip(memory=levels))
    small = _one_kernel(Amounts(weight_bytes=1e9))
    large = _one_kernel(Amounts(weight_bytes=3e9))
    assert place(share(small, Shards()), one).level == 1
    assert place(share(large, Shards()), one).level == 0
    assert step_cost(large, one).memory_s[0] == pytest.approx(3e9 / 3.2e11)
    assert step_cost(small, one).memory_s[0] == pytest.approx(1e9 / 8e13)


def test_expert_parallelism_reads_whole_experts_and_pays_for_imbalance():
    table = _one_kernel(
        Amounts(weight_bytes=8e6, flops=8e6, rows=2), experts=8, active=2, is_split=True
    )
    one_token = portion(table, Shards(8, 1, 8))
    assert one_token.weight_bytes[0] == pytest.approx(1e6)  # two chips have one expert each to do
    assert one_token.flops[0] == pytest.approx(8e6 / 8 * 4)  # four times the mean of the eight
    sliced = portion(table, Shards(8))
    assert sliced.weight_bytes[0] == pytest.approx(2e6 / 8)


def test_chips_without_a_link_cannot_share_a_model(hand_chip):
    table = _one_kernel(Amounts(reduce_bytes=1e5), is_split=True)
    with pytest.raises(UsageError, match="no link"):
        step_cost(table, machine(hand_chip(link=None)), Shards(2))


def test_pipeline_stages_add_up_for_one_batch_and_overlap_for_many(hand_chip, small_model):
    table = Table.of(lower(small_model().decode(1, 64, PRECISIONS["bf16"])))
    one = machine(hand_chip())
    alone, staged = step_cost(table, one), step_cost(table, one, Shards(1, 4))
    assert staged.seconds > alone.seconds  # the hops come on top
    assert staged.stage_s - 1e-4 < (alone.seconds - 1e-4) / 3  # 1e-4 s a step, whoever does it


def test_shards_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match="divide tensor"):
        Shards(8, 1, 3)
    assert Shards(4, 2) in set(shardings(8, 80))
    assert all(one.chips == 12 for one in shardings(12, 80, experts=8))
    assert all(one.pipeline <= 3 for one in shardings(12, 3))


@pytest.mark.parametrize(
    ("formats", "rates", "used"),
    [
        (("bf16",), {"bf16": 1, "f32": 1}, "bf16"),
        (("f8E4M3FN", "bf16"), {"bf16": 1}, "bf16"),
        (("f8E4M3FN",), {"f8E4M3FNUZ": 2, "bf16": 1}, "f8E4M3FNUZ"),
        (("i8", "bf16"), {"f16": 1, "f32": 1}, "f16"),
        (("bf16",), {"f16": 1}, "f16"),
        (("f32",), {"bf16": 1}, "bf16"),
        (("f64",), {"f32": 1}, "vector"),
        (("bf16",), {"mxint8": 1}, "vector"),
    ],
)
def test_a_missing_format_is_emulated_by_one_that_holds_it(formats, rates, used: str):
    chosen = way(formats, {name: float(rate) for name, rate in rates.items()})
    assert chosen.format == used
    assert chosen.is_native == (formats[0] == used)


def test_unpacking_is_said_and_paid_only_where_needed(hand_chip, small_model):
    table = Table.of(lower(small_model().decode(1, 64, PRECISIONS["q4_0"])))
    one = machine(hand_chip())
    whys = {w.why for w, k in zip(kernel_ways(table, one), table.kernels, strict=True) if k.stored}
    assert whys == {"q4_0 is unpacked to bf16 before the multiply"}
    lazy = step_cost(
        replace(table, numbers=table.numbers | {"unpack_flops": 0 * table.counts}), one
    )
    assert step_cost(table, one).seconds > lazy.seconds
    fp8 = Table.of(lower(small_model().decode(1, 64, PRECISIONS["fp8"])))
    assert all(w.is_native for w in kernel_ways(fp8, one))


def test_scaling_a_table_agrees_with_building_that_batch(small_model):
    """The surface's assumption, held against real modules."""
    model, precision = small_model(experts=8), PRECISIONS["fp8"]
    scaled = Table.of(lower(model.decode(4, 256, precision))).at_batch(8)
    built = Table.of(lower(model.decode(32, 256, precision)))
    for name in built.numbers:
        assert scaled.total(name) == pytest.approx(built.total(name), rel=0.02), name
    assert scaled.state_bytes == built.state_bytes


def test_a_table_between_two_contexts_agrees_with_building_that_context(small_model):
    model, precision = small_model(latent=True), PRECISIONS["bf16"]
    low, high = (Table.of(lower(model.decode(2, c, precision))) for c in (128, 512))
    built = Table.of(lower(model.decode(2, 320, precision)))
    between = low.blend(high, 0.5)
    for name in built.numbers:
        assert between.total(name) == pytest.approx(built.total(name), rel=1e-6), name


def test_the_kernel_table_is_json(hand_chip, small_model):
    spec = hand_chip()
    made = twin(Chip(lambda: spec, {"twin": twin})).compile(
        small_model().decode(1, 64, PRECISIONS["bf16"]), CompileOptions()
    )
    table = json.loads(made.artifacts["kernels.json"])
    assert table["seconds"] == pytest.approx(made.trace().seconds, rel=1e-6)
