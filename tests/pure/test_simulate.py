"""`anychip simulate`: deployments, what the verb prints, and what it refuses."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from anychip.cli.app import application
from anychip.cli.simulate import disaggregated, falsify, percentiles, spark
from anychip.core import AnychipError, UnsupportedError, UsageError, discover
from anychip.frontends.llm import PRECISIONS, catalogue
from anychip.llm import Limits
from anychip.mapper.accept import accepted
from anychip.mapper.deployment import deploy
from anychip.mapper.traffic import lengths, run, traffic


@pytest.fixture(scope="module")
def registry():
    return discover()


@pytest.fixture(scope="module")
def model():
    return catalogue.model("smollm2-135m")


def test_a_system_is_its_chip_and_the_stack_has_its_own_cache(registry, model):
    by_chip = deploy(model, "h100:twin", registry, PRECISIONS, longest=512, precision="fp8")
    by_system = deploy(
        model, "dgx-h100", registry, PRECISIONS, longest=512, precision="fp8", stack="vllm"
    )
    assert (by_chip.chip, by_system.chip) == ("h100", "h100")
    assert by_system.precision.cache == "bf16"
    assert by_system.pace.token_bytes == pytest.approx(2 * by_chip.pace.token_bytes)


def test_our_own_engine_is_a_stack_with_its_limits_and_padded_steps(registry, model):
    own = deploy(model, "h100", registry, PRECISIONS, longest=512, stack="anychip")
    limits = Limits(pages=1)
    assert own.stack.step_tokens == limits.step_tokens
    assert own.stack.sequences == limits.sequences
    assert own.pace.step_s(33, 0.0) == pytest.approx(own.pace.step_s(64, 0.0))
    assert "engine_twin" not in falsify(own, traffic(4, 32, 8, concurrency=2), 0)
    here = deploy(model, "cpu", registry, PRECISIONS, longest=512, precision="f32", stack="anychip")
    said = falsify(here, traffic(4, 32, 8, concurrency=2, spread=0.0), 0)
    for part in ("bench/engine_twin.py", "--users 2", "--prompt 32", "--precision f32"):
        assert part in said


def test_more_chips_a_copy_are_faster_and_counted(registry, model):
    made = [
        deploy(model, "h100", registry, PRECISIONS, longest=512, precision="bf16", tensor=n)
        for n in (1, 2)
    ]
    assert [one.chips for one in made] == [1, 2]
    assert made[1].pace.cache_tokens > made[0].pace.cache_tokens


def test_a_chunk_bounds_the_steps(registry, model):
    demand = traffic(20, 400, 20, concurrency=4, spread=0.0)
    steps = [
        run(
            deploy(
                model, "h100", registry, PRECISIONS, longest=512, precision="bf16", step_tokens=n
            ).fleet(),
            demand,
        ).steps
        for n in (2048, 64)
    ]
    assert steps[1] > 1.4 * steps[0]


def test_what_cannot_be_simulated_says_what_could(registry, model):
    with pytest.raises(UsageError, match="h100:twin"):
        deploy(model, "h100:xla", registry, PRECISIONS, longest=64)
    with pytest.raises(UsageError, match="dgx-h100"):
        deploy(model, "dgx-h10", registry, PRECISIONS, longest=64)
    with pytest.raises(UsageError, match="fewer than 64"):
        deploy(model, "dgx-h100", registry, PRECISIONS, longest=64, tensor=64)
    with pytest.raises(UsageError, match="serving stack"):
        deploy(model, "h100", registry, PRECISIONS, longest=64, stack="vlmm")
    with pytest.raises(UsageError, match="no more stages"):
        deploy(model, "dgx-h100", registry, PRECISIONS, longest=64, pipeline=8000)
    with pytest.raises(UnsupportedError, match="only 8 of a node"):
        deploy(model, "groq-lpu", registry, PRECISIONS, longest=64, tensor=16)


def test_a_pipeline_has_a_batch_a_stage_in_flight(registry, model):
    """Four stages answer four times as many users in little more than the time of one."""
    made = deploy(model, "h100", registry, PRECISIONS, longest=512, precision="bf16", pipeline=4)
    assert (made.chips, made.fleet().lanes) == (4, 4)
    one, four = (
        run(made.fleet(), traffic(40 * n, 200, 50, concurrency=n, spread=0.0)) for n in (1, 4)
    )
    assert four.tok_s == pytest.approx(4 * one.tok_s, rel=0.02)
    many = run(made.fleet(), traffic(640, 200, 50, concurrency=64, spread=0.0))
    assert four.tok_s < many.tok_s < 64 * one.tok_s


def test_a_model_over_many_lpus_is_served(registry):
    made = deploy(catalogue.model("llama-2-7b"), "groq-lpu", registry, PRECISIONS, longest=512)
    assert made.shards.pipeline > 1
    served = run(made.fleet(), traffic(30, 100, 20, concurrency=3))
    assert (served.ended_s > served.first_s).all()


@pytest.mark.parametrize("text", ["3", "0:1", "a:b", "1:2:3"])
def test_a_division_of_prompts_and_answers_is_two_numbers(text):
    assert disaggregated("2:6") == (2, 6)
    with pytest.raises(UsageError, match="P:D"):
        disaggregated(text)


def test_acceptance_is_by_position_or_a_mean():
    assert accepted("0.8,0.6") == pytest.approx((0.2, 0.2, 0.6))
    assert accepted("0.85") == pytest.approx((0.15, 0.85))
    for guesses in (None, 2, 5):
        chances = accepted("2.4", guesses)
        assert sum(chances) == pytest.approx(1)
        assert np.dot(chances, range(1, len(chances) + 1)) == pytest.approx(2.4)
        assert len(chances) == (guesses or 2) + 1
    for text, guesses in (("often", None), ("0.5,0.6", None), ("-1", None), ("3.5", 2), ("0.5", 2)):
        with pytest.raises(UsageError):
            accepted(text, guesses)


@pytest.mark.parametrize(
    ("text", "mean"),
    [
        ("500", 500),
        ("uniform:100,300", 200),
        ("normal:500,50", 500),
        ("lognormal:800,0.5", 800),
        ("exponential:300", 300),
    ],
)
def test_lengths_have_their_mean_and_are_the_same_again(text, mean):
    drawn = [lengths(text, 20_000, np.random.default_rng(1), 0.1) for _ in range(2)]
    assert (drawn[0] == drawn[1]).all()
    assert drawn[0].mean() == pytest.approx(mean, rel=0.03)
    assert drawn[0].min() >= 1


@pytest.mark.parametrize("text", ["many", "0", "-5", "uniform:9,3", "normal:5", "zipf:2,3", "nan"])
def test_lengths_that_make_no_sense_are_refused(text):
    with pytest.raises(UsageError, match="expected tokens such as"):
        lengths(text, 5, np.random.default_rng(1))


def test_bars_show_the_highest_full():
    assert spark([0, 1, 2, 4], width=4) == " ▂▄█"
    assert set(percentiles(traffic(5, 9, 9, rate=1.0).prompts)) == {
        *("mean", "p10", "p50", "p90", "p99"),
    }


def _json(tmp_path, monkeypatch, *words):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(application(["simulate"]), ["simulate", *words, "-f", "json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_verb_gives_json_and_a_page(tmp_path, monkeypatch):
    words = ("smollm2-135m", "--target", "h100", "--prompt", "200", "--generate", "50")
    document = _json(tmp_path, monkeypatch, *words, "--requests", "10000", "--rate", "100")
    assert document["kind"] == "simulated"
    assert document["requests"] == 10000
    assert document["ttft_s"]["p50"] <= document["ttft_s"]["p99"]
    ttft = document["estimates"]["ttft_s"]
    assert ttft["low"] < ttft["value"] == document["ttft_s"]["mean"] < ttft["high"]
    page = (tmp_path / document["run"] / "simulate.html").read_text()
    assert page.count("<svg") == 5
    made = document["estimates"]
    assert all(one["low"] <= one["value"] <= one["high"] for one in made.values())
    assert all("virtual clock" in one["provenance"] and one["falsify"] for one in made.values())
    for time in ("ttft_s", "tpot_s", "e2e_s"):
        for name in ("p10", "p50", "p90", "p99"):
            assert made[f"{time}.{name}"]["value"] == document[time][name]
    assert made["chip_tok_s"]["value"] == made["tok_s"]["value"]
    assert made["goodput_requests_s"]["value"] <= made["requests_s"]["value"] * (1 + 1e-9)
    assert 1 <= made["mean_batch"]["value"] <= 2048
    assert 100 < made["wall_w"]["value"] < 1300  # an H100 and its share of a server
    rent = made["usd_per_mtok"]["value"] * made["chip_tok_s"]["value"] * 3600 / 1e6
    assert 0.5 < rent < 15  # dollars an hour
    apart = _json(
        tmp_path, monkeypatch, *words, "--requests", "100", "--rate", "9", "--disaggregate", "1:2"
    )
    assert (apart["prefill_copies"], apart["copies"], apart["chips"]) == (1, 2, 3)


def test_users_of_parted_copies_have_energy_and_a_command_of_their_own(tmp_path, monkeypatch):
    words = ("smollm2-135m", "--target", "h100", "--prompt", "lognormal:300,0.3", "--accept", "1.7")
    words += ("--requests", "200", "--concurrency", "8", "--disaggregate", "1:2")
    document = _json(tmp_path, monkeypatch, *words)
    made = document["estimates"]
    assert made["mean_batch"]["value"] <= 8
    assert 3 * 100 < made["wall_w"]["value"] < 3 * 1300
    assert "--max-concurrency 8" in made["ttft_s"]["falsify"]
    assert "1 copy for prompts" in made["ttft_s"]["falsify"]
    assert document["accepted"] == pytest.approx([0.3, 0.7])


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("smollm2-135m", "--target", "dgx-h1000", "--rate", "1"), 2, "dgx-h100"),
        (("smollm2-135m", "--target", "h100", "--rate", "1", "--stack", "vlmm"), 2, "vllm"),
        (("smollm2-135m", "--target", "h100"), 2, "rate or a concurrency"),
        (("smollm2-135m", "--target", "h100", "--rate", "1", "--generate", "9000"), 2, "made for"),
        (("llama-3.1-405b", "--target", "l4", "--rate", "1", "--precision", "bf16"), 1, "not fit"),
        (("smollm2-135m", "--target", "h100", "--rate", "1", "--guesses", "2"), 2, "--accept"),
        (("smollm2-135m", "--target", "h100", "--trace", "t", "--requests", "9"), 2, "--requests"),
    ],
)
def test_what_cannot_be_is_a_clear_error_and_what_does_not_fit_a_verdict(words, code, why):
    done = CliRunner().invoke(application(["simulate"]), ["simulate", *words])
    assert isinstance(done.exception, AnychipError), done.output
    assert done.exception.exit_code == code
    assert why in str(done.exception)


def test_tensorrt_llm_is_known_by_its_name(registry, model):
    made = deploy(model, "h100", registry, PRECISIONS, longest=64, stack="tensorrt-llm")
    assert made.stack.name == "trtllm"
