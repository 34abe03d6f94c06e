"""The intervals' own part is what left-out figures say: counted again from the kept errors."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from anychip.mapper.stacks import OWN, STACKS, TUNED_ERROR, serving_error
from anychip.twin.calibrate import half_width
from anychip.twin.left_out import (
    DECODE,
    FIGURES,
    PREFILL,
    RARE,
    WHOLE_STEPS,
    LeftOut,
    left_out,
)
from anychip.validate.left_out import kept as rows_left_out

ROOT = Path(__file__).parents[2]


def _tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kept():
    text = (ROOT / "bench" / "results" / "left-out.json").read_text()
    return _tool("half_widths").from_json(text)


def test_what_is_kept_of_figures_is_read_back(kept):
    tool = _tool("half_widths")
    assert len(kept) > 400
    assert tool.from_json(tool.to_json([], kept)) == kept


def test_the_package_has_the_left_out_rows_that_the_tools_found():
    results = ROOT / "bench" / "results"
    calibrated, spatial = (
        json.loads((results / f"{name}.json").read_text()) for name in ("calibrate", "spatial")
    )
    assert rows_left_out() == _tool("half_widths").kept_rows(calibrated, spatial)


def test_half_widths_are_those_of_the_kept_errors(kept):
    for line in _tool("half_widths").table(kept):
        if line["family"] == "rare":
            assert RARE[line["phase"]] == line["half_width"]
            assert FIGURES[line["phase"]] == line["figures"]
            continue
        known = (DECODE if line["phase"] == "decode" else PREFILL)[line["family"]]
        assert known == LeftOut(line["half_width"], line["figures"], line["from"])


def test_eight_of_ten_figures_of_left_out_chips_are_inside(kept):
    tool = _tool("half_widths")
    for phase in ("decode", "prefill"):
        for family in ("simt", "systolic"):  # those with chips and figures enough to count
            some = [f for f in kept if (f["phase"], f["family"]) == (phase, family)]
            assert len(some) > 50
            assert 0.75 <= tool.coverage(some) <= 0.90, (phase, family)


def test_a_wider_half_width_never_holds_fewer(kept):
    tool = _tool("half_widths")
    shares = [sum(tool.is_inside(one, own) for one in kept) for own in (0.0, 0.2, 0.5, 2.0)]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1] == len(kept)


def test_a_family_nothing_is_published_of_is_as_uncertain_as_the_rare_ones():
    assert left_out("dimc", "tpot_s") == LeftOut(RARE["decode"], FIGURES["decode"], "rare")
    assert left_out("dimc", "ttft_s").half_width == RARE["prefill"]
    assert "families with few" in left_out("dimc", "tpot_s").evidence


METRICS = {"ttft": "ttft_s", "tpot_mean": "tpot_s", "throughput_output_per_gpu": "chip_tok_s"}


def test_serving_intervals_hold_eight_of_ten_points_of_systems_left_out():
    document = json.loads((ROOT / "bench" / "results" / "calibrate.json").read_text())
    for metric, quantity in METRICS.items():
        inside = []
        for stack, systems in document["errors"].items():
            rows = [
                (system, error)
                for system, errors in systems.items()
                for id, error in errors.items()
                if id.endswith(":" + metric)
            ]
            own = half_width(np.expm1([error for _, error in rows]))
            assert serving_error(STACKS[stack], quantity) == pytest.approx(own, abs=0.001)
            inside += [
                abs(error) <= half_width(np.expm1([e for other, e in rows if other != system]))
                for system, error in rows
            ]
        assert len(inside) > 200
        assert 0.75 <= np.mean(inside) <= 0.90, metric


def test_intervals_of_the_tuned_stack_are_those_of_audited_servers():
    document = json.loads((ROOT / "bench" / "results" / "left-out.json").read_text())
    for metric, quantity in {
        "throughput_output_system": "chip_tok_s",
        "tpot_mean": "tpot_s",
    }.items():
        errors = list(document["validated"]["tuned"][metric].values())
        assert len(errors) > 40
        assert TUNED_ERROR[quantity] == pytest.approx(half_width(np.expm1(errors)), abs=0.005)


def test_our_own_engines_times_are_those_it_was_measured_at():
    kept = json.loads((ROOT / "bench" / "results" / "engine-host.json").read_text())
    assert OWN.host_s == pytest.approx(kept["host_s"], rel=0.02)
    assert OWN.token_s == pytest.approx(kept["token_s"], rel=0.02)


@pytest.mark.parametrize("family", WHOLE_STEPS)
def test_what_a_trace_says_of_whole_steps_is_what_was_found(family):
    document = json.loads((ROOT / "bench" / "results" / "whole-steps.json").read_text())
    rows = [row for row in document["rows"] if row["family"] == family]
    errors = np.abs([row["machine_model_error"] for row in rows])
    count, half, most = WHOLE_STEPS[family]
    assert count == len(errors)
    assert half == pytest.approx(np.median(errors), abs=0.001)
    assert most == pytest.approx(np.percentile(errors, 90), abs=0.005)
