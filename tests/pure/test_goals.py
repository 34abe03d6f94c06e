"""Goals are judged on systems that had no part in a fit, part by part."""

import json
import math

import pytest

from anychip.cli.validate import print_goals
from anychip.validate.goals import GOALS, judged
from anychip.validate.left_out import Figure, is_inside, summed


def figure(id, error, *, part="MLPerf", system="a", family="simt", metric="tpot_mean", facts=0.0):
    return Figure(
        id=id,
        family=family,
        metric=metric,
        part=part,
        pool=metric,
        system=system,
        error=error,
        facts=facts,
        baseline=None,
    )


def test_an_interval_is_made_without_the_system_it_judges():
    steady = [figure(f"a{i}", 0.1, system="a") for i in range(5)]
    odd = [figure(f"b{i}", 0.5, system="b") for i in range(5)]
    inside = is_inside([*steady, *odd])
    assert all(inside[one.id] for one in steady)  # b's interval is wide
    assert not any(inside[one.id] for one in odd)  # a's is not
    assert is_inside(steady) == {}  # nothing else to make one of
    wide = [figure(f"b{i}", 0.5, system="b", facts=0.6) for i in range(5)]
    assert all(is_inside([*steady, *wide])[one.id] for one in wide)  # the facts' ranges reach it


def test_a_good_part_does_not_hide_a_bad_one():
    some = [figure(f"a{i}", 0.05, system=str(i)) for i in range(18)]
    some += [figure(f"b{i}", 0.2, part="points of x", system=f"x{i}") for i in range(2)]
    goal = next(one for one in judged(some) if one["goal"] == "GPU time per token")
    parts = {part["part"]: part for part in goal["parts"]}
    assert goal["reached"]
    assert parts["MLPerf"]["reached"]
    assert not parts["points of x"]["reached"]
    assert goal["median_abs_error"] == pytest.approx(math.expm1(0.05))
    assert [row["id"] for row in parts["points of x"]["worst"]] == ["b0", "b1"]


def test_a_ninetieth_percentile_can_miss_alone():
    some = [figure(f"a{i}", 0.01 if i < 8 else 1.0, system=str(i)) for i in range(10)]
    goal = next(one for one in judged(some) if one["goal"] == "GPU time per token")
    assert goal["median_abs_error"] <= GOALS[0].median
    assert not goal["reached"]


def test_goals_without_rows_are_neither_reached_nor_missed(capsys):
    every = judged([])
    assert [one["goal"] for one in every] == [goal.name for goal in GOALS]
    assert {one["reached"] for one in every} == {None}
    print_goals(json.loads(json.dumps({"goals": every})))
    assert "no row" in capsys.readouterr().out


def test_a_miss_is_printed_with_its_rows_and_the_reason(capsys):
    some = [figure("CB01", -0.3, family="wafer", metric="tok_s_user")]
    print_goals({"goals": judged(some)})
    said = " ".join(capsys.readouterr().out.split())
    assert "wafer tokens/s: not reached (bias -26%; farthest off CB01 -26%)" in said
    assert "Two rows set one number" in said


def test_of_rows_that_are_not_shipped_no_reason_is_known():
    goal = next(
        one
        for one in judged([figure("mine", -0.3, family="wafer", metric="tok_s_user")])
        if one["goal"] == "wafer tokens/s"
    )
    assert goal["reached"] is False
    assert goal["why"] == ""


def test_summed_counts_systems_and_holds_the_baseline_beside():
    some = [figure("a", 0.1), figure("b", -0.1, system="b")]
    found = summed(some, {"a": True})
    assert (found["n"], found["systems"], found["coverage"]) == (2, 2, 1.0)
    assert found["baseline"] is None
