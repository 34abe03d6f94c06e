"""Laws of the cpu and systolic machine models, on small steps of a language model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anychip.core import Chip, CompileOptions, Fact, Origin, discover
from anychip.frontends.llm import PRECISIONS
from anychip.twin import lower, twin
from anychip.twin.lowered import Amounts, Kernel, Lowered, Table
from anychip.twin.machine import Machine, machine
from anychip.twin.products import product
from anychip.twin.shard import ONE_CHIP, Shards, portion
from anychip.twin.simt import FIRST_BYTE_S
from anychip.twin.simulate import Simulated, kernels_of, simulate


def _fact(value: float) -> Fact:
    return Fact(value=value, source="made up for a test")


@pytest.fixture(params=["cpu", "tpu-v5e", "trainium2", "gaudi3", "h100", "mi300x"])
def chip(request, hand_chip) -> Machine:
    if request.param != "cpu":
        return machine(discover().chip(request.param).spec)
    about = {
        "convolution_flops_per_s": _fact(1e13),
        "transcendentals_per_s": _fact(1e12),
        "fresh_write_bytes_per_s": _fact(1e11),
        "rows_64_flops_per_s": _fact(5e13),
        "row_attention_flops_per_s": _fact(1e12),
        "turn_bytes_per_s": _fact(1e12),
        "read_1_thread_bytes_per_s": _fact(1e12),
        "cores_count": _fact(2.0),
        "call_s": _fact(1e-5),
        "argument_s": _fact(1e-7),
    }
    rates = {"f32": _fact(1e14), "bf16": _fact(1e14)}
    return machine(hand_chip(family="cpu", about=about, matmul_flops_per_s=rates))


def _table(small_model, batch: int = 1, length: int = 1) -> Table:
    return Table.of(lower(small_model().prefill(batch, length, 64, PRECISIONS["bf16"])))


def _run(table: Table, chip: Machine) -> Simulated:
    return simulate(table, chip)


@pytest.mark.parametrize("length", [1, 32])
def test_it_is_never_faster_than_the_roofline(chip, small_model, length):
    table = _table(small_model, length=length)
    part = portion(table, ONE_CHIP)
    flops = float(part.flops @ table.counts) / max(chip.peak_flops_per_s.values())
    moved = float((part.weight_bytes + part.state_bytes) @ table.counts)
    fastest = max(chip.peak_bytes_per_s)
    seconds = _run(table, chip).scheduled.seconds
    assert seconds >= max(flops, moved / fastest)


def test_work_is_conserved(chip, small_model):
    table = _table(small_model, length=8)
    part = portion(table, ONE_CHIP)
    spans = _run(table, chip).trace("x").spans
    done = sum(s.flops or 0 for s in spans)
    assert done == pytest.approx(float((part.flops + part.vector_flops) @ table.counts), rel=1e-6)
    read = sum(s.read_bytes or 0 for s in spans)
    assert read >= float((part.weight_bytes + part.state_bytes) @ table.counts) * (1 - 1e-6)


def test_twice_the_batch_is_never_quicker(chip, small_model):
    seconds = [
        _run(_table(small_model, batch=b, length=4), chip).seconds for b in (1, 2, 4, 16, 64)
    ]
    assert seconds == sorted(seconds)


def test_more_bandwidth_never_slows(chip, small_model):
    table = _table(small_model, length=16)
    seconds = []
    for times in (1, 2, 8):
        levels = tuple(replace(x, bytes_per_s=x.bytes_per_s * times) for x in chip.levels)
        peaks = tuple(rate * times for rate in chip.peak_bytes_per_s)
        faster = replace(chip, levels=levels, peak_bytes_per_s=peaks)
        seconds.append(_run(table, faster).seconds)
    assert seconds == sorted(seconds, reverse=True)


@pytest.mark.parametrize("name", ["tpu-v5e", "h100"])
def test_stages_hand_their_results_on_over_the_link(small_model, name):
    one = machine(discover().chip(name).spec)
    assert one.link is not None
    made = simulate(_table(small_model, length=4), one, Shards(1, 2))
    (sent,) = (
        span for span in made.trace("x").spans if span.op == "send on" and "0" in span.resource
    )
    assert sent.end_s - sent.start_s >= one.link.hop_s
    farther = replace(one, link=replace(one.link, hop_s=one.link.hop_s + 1e-3))
    slower = simulate(_table(small_model, length=4), farther, Shards(1, 2))
    # Next to all of it: the weights of the second stage are fetched meanwhile.
    assert 0.9e-3 < slower.seconds - made.seconds <= 1e-3 * (1 + 1e-9)


def test_a_scaled_step_takes_what_one_built_at_that_batch_does(chip, small_model):
    """Up to attention, whose products stand side by side when built and in one when scaled."""
    steps = [small_model().decode(batch, 64, PRECISIONS["bf16"]) for batch in (1, 48)]
    one, many = (Table.of(lower(step)) for step in steps)
    scaled, built = _run(one.at_batch(48), chip), _run(many, chip)
    assert scaled.scheduled.seconds == pytest.approx(built.scheduled.seconds, rel=0.05)


CPU = {
    "convolution_flops_per_s": 1e11,
    "transcendentals_per_s": 2e9,
    "fresh_write_bytes_per_s": 4e9,
    "rows_64_flops_per_s": 2e11,
    "row_attention_flops_per_s": 5e9,
    "turn_bytes_per_s": 8e9,
    "read_1_thread_bytes_per_s": 1e9,
    "cores_count": 2.0,
    "call_s": 8e-6,
    "argument_s": 1e-7,
}


def _on_host(hand_chip, *kernels: Kernel) -> float:
    """Seconds of these kernels, one after another, on a host of round rates."""
    about = {name: _fact(value) for name, value in CPU.items()}
    rates = {"f32": _fact(3e11)}
    one = machine(
        hand_chip(family="cpu", about=about, matmul_flops_per_s=rates, per_kernel_s=_fact(0.0))
    )
    return simulate(_by_hand(*kernels), one).seconds - 8e-6 - 10e-7


def _by_hand(*kernels: Kernel) -> Table:
    """These kernels, one after another, of a program that takes ten arguments."""
    lowered = Lowered(
        name="by hand",
        blocks=(kernels,),
        schedule=((0, Origin()),),
        layers=0,
        weight_bytes=sum(k.amounts.weight_bytes for k in kernels),
        state_bytes=0.0,
        arguments=10,
    )
    return Table.of(lowered)


def _dense(rows: int, inner: int, columns: int, *more: str) -> Kernel:
    return Kernel(
        name="dot",
        unit="matmul",
        amounts=Amounts(
            flops=2.0 * rows * inner * columns,
            weight_bytes=4.0 * inner * columns,
            read_bytes=4.0 * rows * inner,
            written_bytes=4.0 * rows * columns,
        ),
        formats=("f32",),
        stored="f32",
        dots=((inner, columns),),
        ops=("stablehlo.dot_general", *more),
    )


def test_the_benchmark_of_64_rows_comes_out_as_it_was_measured(hand_chip):
    made = _on_host(hand_chip, _dense(64, 2048, 2048))
    assert made == pytest.approx(2 * 64 * 2048 * 2048 / CPU["rows_64_flops_per_s"], rel=0.1)


def test_few_rows_are_not_packed_and_what_follows_a_product_reads_it_again(hand_chip):
    one, four, many = (_on_host(hand_chip, _dense(rows, 1024, 1024)) for rows in (1, 4, 16))
    assert four < 1.1 * one < many
    followed = _on_host(hand_chip, _dense(16, 1024, 1024, "stablehlo.tanh"))
    assert followed > many


def test_a_product_too_small_for_a_second_thread_is_read_at_half_the_pace(hand_chip):
    small, large = (_on_host(hand_chip, _dense(1, 512, columns)) for columns in (1024, 2048))
    assert small == pytest.approx(large, rel=0.01)
    many = (_on_host(hand_chip, _dense(8, 512, columns)) for columns in (1024, 2048))
    assert 2 * next(many) == pytest.approx(next(many), rel=0.01)


def test_a_transposed_result_is_one_more_copy_but_for_a_single_row(hand_chip):
    def more(rows: int) -> float:
        turned = _on_host(hand_chip, _dense(rows, 1024, 1024, "stablehlo.transpose"))
        return turned - _on_host(hand_chip, _dense(rows, 1024, 1024, "stablehlo.reshape"))

    assert more(1) == 0.0
    assert more(16) == pytest.approx(4 * 16 * 1024 / CPU["turn_bytes_per_s"], rel=1e-6)


def test_attention_of_a_prompt_is_lowered_op_by_op_and_that_of_a_token_has_its_own_rate(
    hand_chip, small_model
):
    prompt, token = (small_model().prefill(1, n, 64, PRECISIONS["f32"]) for n in (8, 1))
    names = [k.name for block in kernels_of(prompt, "cpu").blocks for k in block]
    assert "anychip.cached_attention" not in names
    whole = [k.name for block in kernels_of(prompt, "simt").blocks for k in block]
    assert "anychip.cached_attention" in whole
    (found,) = {
        k
        for block in kernels_of(token, "cpu").blocks
        for k in block
        if k.name == "anychip.cached_attention"
    }
    seconds = _on_host(hand_chip, found)
    assert seconds >= found.amounts.flops / CPU["row_attention_flops_per_s"]


def test_a_second_large_result_finds_room_where_the_first_is_over(hand_chip):
    size = 64e6
    moving = Amounts(read_bytes=size, written_bytes=size)
    kernel = Kernel(name="add", unit="vector", amounts=moving, ops=("stablehlo.add",))
    once, twice = _on_host(hand_chip, kernel), _on_host(hand_chip, kernel, kernel)
    assert once > size / CPU["fresh_write_bytes_per_s"]
    assert twice - once < once / 2


def test_equal_questions_have_equal_traces(chip, small_model):
    traces = [_run(_table(small_model, length=4), chip).trace("x") for _ in range(2)]
    assert traces[0] == traces[1]
    assert traces[0].kind == "simulated"


def test_loads_of_weights_run_ahead_of_their_products(small_model):
    chip = machine(discover().chip("tpu-v5e").spec)
    spans = _run(_table(small_model, length=32), chip).trace("x").spans
    loads = [s for s in spans if s.resource.endswith("HBM")]
    busy = [s for s in spans if s.resource.endswith("MXU")]
    assert any(a.start_s < b.end_s and b.start_s < a.end_s for a in loads for b in busy)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 512, 256), (64, 128, 512), (300, 700, 500)])
@pytest.mark.parametrize("is_weight", [True, False])
def test_the_shape_of_a_product_is_found_in_its_bytes(m, k, n, is_weight):
    amounts = Amounts(
        flops=2.0 * m * k * n,
        weight_bytes=2.0 * k * n if is_weight else 0.0,
        read_bytes=2.0 * (m * k + (0 if is_weight else k * n)),
        written_bytes=2.0 * m * n,
    )
    found = product(Kernel(name="dot", unit="matmul", amounts=amounts, formats=("bf16",)))
    assert found.k == pytest.approx(k, rel=1e-6)
    assert np.isclose(found.m * found.n, m * n)
    assert {round(found.m), round(found.n)} == {m, n}


def test_a_chip_without_the_facts_keeps_the_closed_form_and_says_why(hand_chip, small_model):
    spec = hand_chip(family="systolic")
    module = small_model().decode(1, 64, PRECISIONS["bf16"])
    target = twin(Chip(lambda: spec, {"twin": twin}))
    trace = target.compile(module, CompileOptions()).trace()
    assert trace.kind == "estimated"
    assert "about.mxu_side_count" in trace.note
    whole = discover().target("tpu-v5e:twin").compile(module, CompileOptions()).trace()
    assert whole.kind == "simulated"
    assert "146 published whole steps" in whole.note


def test_a_gpu_kernel_waits_for_its_first_byte_once():
    one = machine(discover().chip("h100").spec)
    moving = Amounts(flops=2.0 * 2**26, weight_bytes=float(2**27))
    kernel = Kernel(name="read", unit="vector", amounts=moving, ops=("stablehlo.add",))
    seconds = simulate(_by_hand(kernel), one).scheduled.seconds
    beyond = seconds - one.per_kernel_s - moving.weight_bytes / one.levels[0].bytes_per_s
    assert 0 < beyond < 2 * FIRST_BYTE_S
