"""Compare: rows of the agreed shape, in the objective's order, each with interval and proof."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from anychip.core import Chip, Fact, Measurement, PluginError, Registry, UsageError
from anychip.frontends.llm import PRECISIONS
from anychip.mapper import QUANTITIES, Measured, Workload, compare
from anychip.twin import twin


@pytest.fixture
def registry(hand_chip) -> Registry:
    """Four chips: quick and dear, slow and cheap, far too small, and a broken package."""
    specs = {
        "quick": hand_chip(name="quick", bytes_per_s=4e12, usd_per_hour=_usd(40)),
        "cheap": hand_chip(name="cheap", usd_per_hour=_usd(1)),
        "tiny": hand_chip(name="tiny", capacity_bytes=1e5),
    }
    chips = {
        name: lambda spec=spec: Chip(lambda: spec, {"twin": twin}) for name, spec in specs.items()
    }

    def broken() -> Chip:
        raise PluginError("chip 'broken' of acme 1.0 does not load")

    return Registry({**chips, "broken": broken}, dict.fromkeys([*chips, "broken"], "test"))


def _usd(value: float) -> Fact:
    return Fact(value=value, source="test")


def _compare(model, registry, **changes):
    return compare(model, Workload(128, 32, 1), registry, precisions=PRECISIONS, **changes)


def test_rows_have_the_agreed_shape(small_model, registry):
    read = json.loads(json.dumps(_compare(small_model(), registry).to_json()))
    assert read["workload"] == {"prompt": 128, "generate": 32, "batch": 1}
    keys = {"chip", "system", "count", "target", "how", "precision", "fits", "why_not"}
    for row in read["rows"]:
        assert keys | set(QUANTITIES) <= set(row)
        assert row["target"] == f"{row['chip']}:twin"
        for name in QUANTITIES if row["fits"] else ():
            one = row[name]
            assert one["kind"] == "estimated"
            assert one["low"] <= one["value"] <= one["high"]
            assert one["level"] == 0.8
            assert row["chip"] in one["provenance"]
            assert "vllm bench latency --model acme/small" in one["falsify"]


@pytest.mark.parametrize(
    ("objective", "best"),
    [("latency", "quick"), ("throughput", "quick"), ("cost", "cheap"), ("energy", "quick")],
)
def test_rows_are_sorted_by_the_objective(small_model, registry, objective: str, best: str):
    rows = _compare(small_model(), registry, objective=objective).rows
    assert rows[0].chip == best
    assert [row.fits for row in rows] == [True, True, False, False]


def test_a_chip_that_cannot_says_why(small_model, registry):
    why = {row.chip: row.why_not for row in _compare(small_model(), registry).rows if not row.fits}
    assert "does not fit on tiny" in why["tiny"]
    assert "does not load" in why["broken"]


def test_only_the_chips_asked_for_are_compared(small_model, registry):
    assert [row.chip for row in _compare(small_model(), registry, chips=["cheap"]).rows] == [
        "cheap"
    ]
    with pytest.raises(UsageError, match="Did you mean 'quick'"):
        _compare(small_model(), registry, chips=["quik"])


def test_unknown_objective_and_precision_are_refused(small_model, registry):
    with pytest.raises(UsageError, match="no objective"):
        _compare(small_model(), registry, objective="speed")
    with pytest.raises(UsageError, match="no precision"):
        _compare(small_model(), registry, precision="fp7")


def test_measurements_stand_beside_estimates(small_model, registry):
    samples = {"machine": "a test", "note": ""}
    done = Measured(
        precision="f32",
        ttft_s=Measurement(samples=(0.1, 0.2, 0.3), **samples),
        tpot_s=Measurement(samples=(0.01, 0.01, 0.01), **samples),
    )
    rows = _compare(small_model(), registry, measured={"cheap:xla": done}).rows
    row = next(row for row in rows if row.target == "cheap:xla")
    read = row.to_json()
    assert (row.how, row.fits, row.found) == ("xla", True, None)
    assert read["latency_s"]["value"] == pytest.approx(0.2 + 31 * 0.01)
    assert read["user_tok_s"]["value"] == pytest.approx(100)
    assert read["ttft_s"]["kind"] == "measured"
    assert read["j_per_tok"] is None


def test_what_would_change_the_answer_is_computed(small_model, registry):
    by_kind = {
        flip.kind: flip for flip in _compare(small_model(), registry, objective="cost").flips
    }
    assert by_kind["margin"].winner == "cheap"
    assert by_kind["margin"].value > 1
    flip = by_kind["price"]
    assert flip.winner == "quick"
    specs = {name: registry.chip(name).spec for name in ("quick", "cheap")}
    cheaper = replace(specs["quick"], usd_per_hour=_usd(flip.value * 0.99))
    again = Registry(
        {
            "quick": lambda: Chip(lambda: cheaper, {"twin": twin}),
            "cheap": lambda: Chip(lambda: specs["cheap"], {"twin": twin}),
        },
        {"quick": "test", "cheap": "test"},
    )
    assert _compare(small_model(), again, objective="cost").rows[0].chip == "quick"


def test_the_batch_at_which_another_chip_wins_is_found(hand_chip, small_model):
    """`wide` starts behind (a dear step) and wins once arithmetic counts."""
    narrow = hand_chip(name="narrow", flops_per_s=1e12)
    wide = hand_chip(name="wide", flops_per_s=1e14, per_step_s=_usd(1e-3))
    registry = Registry(
        {s.name: lambda s=s: Chip(lambda: s, {"twin": twin}) for s in (narrow, wide)},
        {"narrow": "test", "wide": "test"},
    )
    comparison = compare(
        small_model(), Workload(8, 64, 1), registry, precisions=PRECISIONS, precision="bf16"
    )
    batches = [flip for flip in comparison.flips if flip.kind == "batch"]
    assert [flip.winner for flip in batches] == ["narrow", "wide"]
    at = int(batches[1].value)
    for batch, winner in ((at, "wide"), (at // 2, "narrow")):
        best = compare(
            small_model(), Workload(8, 64, batch), registry, precisions=PRECISIONS, precision="bf16"
        )
        assert best.rows[0].chip == winner


def test_a_chip_without_power_or_price_has_no_joules_or_dollars(hand_chip, small_model):
    bare = hand_chip(name="bare", tdp_w=None, idle_w=None, usd_per_hour=None)
    registry = Registry({"bare": lambda: Chip(lambda: bare, {"twin": twin})}, {"bare": "test"})
    row = _compare(small_model(), registry).rows[0].to_json()
    assert row["j_per_tok"] is None
    assert row["usd_per_mtok"] is None
    assert row["tpot_s"]["value"] > 0
