"""Laws every machine model keeps, on the chips' own specs and a real model."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.chips.cerebras_wse3 import chip as cerebras
from anychip.chips.dmatrix_corsair import chip as corsair
from anychip.chips.groq_lpu import chip as groq
from anychip.chips.rebel_quad import chip as rebel
from anychip.core import UnsupportedError
from anychip.frontends.llm import PRECISIONS
from anychip.frontends.llm.catalogue import model as catalogue
from anychip.twin import Shards, Table, facts_of, lower, machine, simulate, step_cost
from anychip.twin.floor import plan
from anychip.twin.shard import portion

CHIPS = {"lpu": groq, "wafer": cerebras, "dimc": corsair, "chiplet": rebel}
PRECISION = {"lpu": "int8-weights", "wafer": "f16", "dimc": "mxint8", "chiplet": "fp8"}
SHARDS = {
    "lpu": [Shards(2, 32), Shards(8, 4), Shards(16, 4), Shards(1, 32)],
    "wafer": [Shards(), Shards(1, 2), Shards(2, 1)],
    "dimc": [Shards(8), Shards(2, 4), Shards(1, 8)],
    "chiplet": [Shards(), Shards(4), Shards(2, 2)],
}
AGREE = {
    "decode": {"lpu": (0.25, 1.0), "wafer": (0.7, 1.2), "dimc": (0.8, 1.1), "chiplet": (0.6, 1.1)},
    "prefill": {"lpu": (0.9, 1.9), "wafer": (1.0, 2.3), "dimc": (1.0, 1.9), "chiplet": (0.8, 1.1)},
}
"""Simulated over closed-form seconds. Decode: the LPU's closed form pays four vector operations to
unpack a weight, the machine model one conversion on the weights' way, which dependent trips partly
make up for; chiplets fetch ahead, which
the closed form does not. Prefill: activations also cross streams, meshes and dies, in pieces that
have to fill and drain, and arrays and tiles work whole; the closed form has no such cost."""

families = st.sampled_from(sorted(CHIPS))


@lru_cache
def table(family: str, phase: str = "decode") -> Table:
    model = catalogue("llama-3.1-8b")
    precision = PRECISIONS[PRECISION[family]]
    if phase == "decode":
        return Table.of(lower(model.decode(1, 512, precision)))
    return Table.of(lower(model.prefill(1, 256, 256, precision)))


def run(family: str, turned=None, shards: Shards | None = None, batch: float = 1, phase="decode"):
    one = machine(CHIPS[family].spec, None, turned)
    asked = table(family, phase).at_batch(batch)
    return simulate(asked, one, shards or SHARDS[family][0])


@pytest.mark.parametrize("family", CHIPS)
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_never_faster_than_the_roofline(family: str, phase: str):
    one = machine(CHIPS[family].spec)
    for shards in SHARDS[family]:
        asked = table(family, phase)
        part = portion(asked, shards)
        peak, near = max(one.peak_flops_per_s.values()), max(one.peak_bytes_per_s)
        floor = max(
            float(part.flops @ asked.counts) / peak,
            float((part.weight_bytes + part.state_bytes) @ asked.counts) / near,
        )
        assert run(family, shards=shards, phase=phase).seconds >= floor


@given(families, st.data(), st.floats(1.0, 8.0))
@settings(max_examples=60, deadline=None)
def test_more_of_any_rate_never_slows(family: str, data, factor: float):
    facts = facts_of(CHIPS[family].spec)
    rates = [k for k in facts if "_per_s" in k and k != "per_kernel_s"]
    key = data.draw(st.sampled_from(rates))
    shards = data.draw(st.sampled_from(SHARDS[family]))
    base = run(family, shards=shards).seconds
    assert run(family, {key: facts[key].value * factor}, shards).seconds <= base * (1 + 1e-9)


@given(families, st.data(), st.integers(1, 64))
@settings(max_examples=40, deadline=None)
def test_doubling_the_batch_never_lowers_the_step(family: str, data, batch: int):
    shards = data.draw(st.sampled_from(SHARDS[family]))
    try:
        double = run(family, shards=shards, batch=2 * batch).seconds
    except UnsupportedError:  # the wafer's cores are full
        return
    single = run(family, shards=shards, batch=batch).seconds
    assert single <= double * (1 + 1e-9)


@pytest.mark.parametrize("family", CHIPS)
def test_work_is_conserved(family: str):
    for shards in SHARDS[family]:
        made, asked = run(family, shards=shards), table(family)
        part = portion(asked, shards)
        chips = made.program.stands_for
        flops = read = 0.0
        for span in made.trace("x").spans:
            alike = chips.get(span.resource.split("/")[0], 1)
            flops += alike * (span.flops or 0)
            read += alike * (span.read_bytes or 0)
        matrix = shards.tensor * float(part.flops @ asked.counts)
        other = shards.tensor * float((part.vector_flops + part.unpack_flops) @ asked.counts)
        assert matrix * (1 - 1e-9) <= flops <= (matrix + other) * 1.001
        assert read >= shards.tensor * float(part.weight_bytes @ asked.counts) * 0.98


@pytest.mark.parametrize("family", CHIPS)
def test_the_same_input_gives_the_same_trace(family: str):
    assert run(family).trace("x").to_perfetto() == run(family).trace("x").to_perfetto()


@pytest.mark.parametrize("family", CHIPS)
@pytest.mark.parametrize("phase", AGREE)
def test_closed_form_and_machine_model_agree_within_an_explained_factor(family: str, phase: str):
    for shards in SHARDS[family]:
        closed = step_cost(table(family, phase), machine(CHIPS[family].spec), shards).seconds
        low, high = AGREE[phase][family]
        assert low <= run(family, shards=shards, phase=phase).seconds / closed <= high


def test_a_prompt_streams_through_all_rectangles_of_a_wafer_at_once():
    made = run("wafer", phase="prefill")
    spans = made.trace("x").spans
    half = made.seconds / 2
    busy = {s.resource for s in spans if s.start_s < half < s.end_s or s.end_s < half}
    later = {s.resource for s in spans if s.start_s > half}
    layers = {f"wafer 0/layers.{i}/cores" for i in range(2, 30)}
    assert layers <= busy & later


def test_equal_layers_of_an_lpu_pipeline_are_scheduled_once():
    made = run("lpu", shards=Shards(2, 32))
    assert len({id(outcome) for outcome in made.scheduled.outcomes}) <= 6


def test_a_part_of_next_to_nothing_still_has_a_core_of_its_own():
    parts = [("norm", 0, 10.0), ("weights", 0, 1e6), ("bias", 0, 1.0)]
    laid = plan(parts, 40, 30, 48 * 1024)
    assert [one.name for one in laid] == ["norm", "weights", "bias"]
    assert all(one.columns >= 1 and one.rows >= 1 for one in laid)
    taken = [
        (x, y)
        for one in laid
        for x in range(one.left, one.left + one.columns)
        for y in range(one.top, one.top + one.rows)
    ]
    assert len(taken) == len({*taken}) == 40 * 30
    with pytest.raises(UnsupportedError, match="3 parts do not fit on 2 by 1 cores"):
        plan(parts, 2, 1, 1e9)


def test_a_wafer_whose_cores_are_full_says_how_much_they_need():
    with pytest.raises(UnsupportedError, match=r"KB in each of its .* cores, which have 48 KB"):
        run("wafer", batch=3000)


def test_rectangles_cover_the_wafer_and_do_not_overlap():
    floor = run("wafer").program.picture
    seen: set[tuple[int, int]] = set()
    for one in floor.rectangles:
        for x in range(one.left, one.left + one.columns):
            column = {(x, y) for y in range(one.top, one.top + one.rows)}
            assert not column & seen
            seen |= column
    assert len(seen) == floor.columns * floor.rows
    assert floor.colours_used <= floor.colours


def test_an_lpu_multiplies_at_the_published_structural_rate():
    """Rows N8GO04 and N8GO05: two f16 tiles of 160 x 320, or four i8 tiles of 320 x 320, a row and
    cycle; with many rows the multiply takes over from the install."""
    one = machine(groq.spec)
    for precision, per_cycle, deep in (("int8-weights", 2, 160), ("int8", 4, 320)):
        asked = Table.of(
            lower(catalogue("llama-3.1-8b").decode(1, 512, PRECISIONS[precision]))
        ).at_batch(4096)
        made = simulate(asked, one, Shards(2, 32))
        jobs = max((block.jobs for block in made.scheduled.blocks), key=len)
        down = [j for j in jobs if j.name.startswith("multiply") and j.kernel == jobs[-1].kernel]
        tiles = -(-14336 // 2 // deep) * -(-4096 // 320)
        cycles = sum(j.busy for j in down) * 1e-15 * 9e8
        assert cycles == pytest.approx(4096 * tiles / per_cycle / 0.8, rel=1e-6)
