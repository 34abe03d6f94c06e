"""Few parameters on many figures: found again when known, and never fitted on what is left out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anychip.core import UsageError
from anychip.twin.baseline import KNOBS, Load, Peaks, Sizes, chip_tok_s, tpot_s, ttft_s
from anychip.twin.calibrate import Knob, at_bounds, errors, fit, fits_without, half_width, left_out

SIZES = Sizes(
    parameters=8e9, layers=32, hidden=4096, cache_width=2048, weight_bytes=2, cache_bytes=2
)
CHIP = Peaks(bytes_per_s=3e12, flops_per_s=1e15, link_bytes_per_s=4e11)
VALUES = {name: knob.start for name, knob in KNOBS.items()}
LINE = {"slope": Knob(start=1.0, low=0.01, high=100.0), "base": Knob(start=1.0, low=0.01, high=100)}


def line(values, x):
    return values["slope"] * x + values["base"]


def test_known_parameters_are_found_again():
    truth = {"slope": 3.0, "base": 0.5}
    figures = [0.1, 0.5, 1.0, 2.0, 8.0]
    found = fit(figures, line, lambda x: line(truth, x), LINE)
    assert found == pytest.approx(truth, rel=1e-4)
    assert not at_bounds(found, LINE)


def test_one_odd_figure_does_not_turn_the_fit():
    figures = [0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0]
    found = fit(figures, line, lambda x: (3 * x + 0.5) * (10 if x == 2.0 else 1), LINE)
    assert found["slope"] == pytest.approx(3.0, rel=0.1)


def test_what_the_figures_do_not_determine_is_named():
    figures = [0.5, 1.0, 2.0, 4.0]
    found = fit(figures, line, lambda x: 3.0 * x + 1e-4, LINE)  # less than `base` may be
    assert at_bounds(found, LINE) == ["base"]


def test_a_left_out_group_has_no_part_in_its_fit():
    figures = [("a", x) for x in (1.0, 2.0, 3.0)] + [("b", x) for x in (1.0, 2.0, 3.0)]

    def published(one):
        return line({"slope": 2.0 if one[0] == "a" else 4.0, "base": 1.0}, one[1])

    def predict(values, one):
        return line(values, one[1])

    fits = fits_without(figures, predict, published, LINE, lambda one: one[0])
    assert fits["b"] == pytest.approx({"slope": 2.0, "base": 1.0}, rel=1e-3)  # that of a alone
    assert fits["a"] == pytest.approx({"slope": 4.0, "base": 1.0}, rel=1e-3)
    relative = left_out(figures, predict, published, fits, lambda one: one[0])
    assert (relative[:3] > 0.5).all()
    assert (relative[3:] < -0.3).all()


def test_nothing_can_be_left_out_of_one_group():
    with pytest.raises(UsageError, match="none can be left out"):
        fits_without([1.0, 2.0], line, lambda x: x, LINE, lambda _: "only")


def test_fewer_figures_than_parameters_are_refused():
    with pytest.raises(UsageError, match="2 parameters cannot be fitted on 1 figures"):
        fit([1.0], line, lambda x: x, LINE)


@given(st.lists(st.floats(-0.9, 3.0), min_size=5, max_size=60))
def test_the_interval_holds_its_share_of_the_figures_it_was_made_from(relative):
    width = half_width(np.array(relative))
    inside = np.abs(np.log1p(relative)) <= width + 1e-12
    assert inside.mean() >= 0.8


loads = st.builds(
    Load,
    prompt=st.integers(64, 8192),
    answer=st.integers(16, 4096),
    users=st.integers(1, 512),
    chips=st.sampled_from([1, 2, 4, 8]),
)


@given(loads)
def test_the_baseline_is_never_faster_than_memory_and_slows_with_users(load):
    step = tpot_s(VALUES, SIZES, CHIP, load)
    assert step >= SIZES.parameters * SIZES.weight_bytes / load.chips / CHIP.bytes_per_s
    more = Load(**{**vars(load), "users": 2 * load.users})
    assert tpot_s(VALUES, SIZES, CHIP, more) >= step
    wider = Peaks(**{**vars(CHIP), "bytes_per_s": 2 * CHIP.bytes_per_s})
    assert tpot_s(VALUES, SIZES, wider, load) <= step
    assert ttft_s(VALUES, SIZES, CHIP, load) > 0
    assert chip_tok_s(VALUES, SIZES, CHIP, load) <= load.users / step / load.chips * 2


def test_the_baseline_finds_its_own_parameters_again():
    truth = {
        "memory_efficiency": 0.8,
        "matmul_efficiency": 0.6,
        "all_reduce_s": 2e-5,
        "per_layer_s": 4e-5,
        "per_step_s": 3e-3,
    }
    points = [
        Load(prompt=p, answer=256, users=u, chips=c)
        for p in (512, 4096)
        for u in (1, 32, 512)
        for c in (1, 2, 8)
    ]
    small = Sizes(**{**vars(SIZES), "layers": 4})

    def predict(values, one):
        load, sizes = one
        return tpot_s(values, sizes, CHIP, load)

    figures = [(load, sizes) for load in points for sizes in (SIZES, small)]
    found = fit(figures, predict, lambda one: predict(truth, one), KNOBS)
    assert np.abs(errors(found, figures, predict, lambda one: predict(truth, one))).max() < 0.01
    assert found == pytest.approx(truth, rel=0.05)
