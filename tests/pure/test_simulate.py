"""`anychip simulate`: deployments, what the verb prints, and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

from anychip.cli.app import application
from anychip.cli.simulate import chances, disaggregated, heads, percentiles, spark
from anychip.core import UnsupportedError, UsageError, discover
from anychip.frontends.llm import PRECISIONS, catalogue
from anychip.mapper.deployment import deploy
from anychip.mapper.traffic import run, traffic


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
    with pytest.raises(UnsupportedError, match="pipeline"):
        deploy(catalogue.model("llama-2-7b"), "groq-lpu", registry, PRECISIONS, longest=64)


@pytest.mark.parametrize("text", ["3", "0:1", "a:b", "1:2:3"])
def test_a_division_of_prompts_and_answers_is_two_numbers(text):
    assert disaggregated("2:6") == (2, 6)
    with pytest.raises(UsageError, match="P:D"):
        disaggregated(text)


def test_chances_are_numbers():
    assert chances("0.25,0.75") == (0.25, 0.75)
    with pytest.raises(UsageError):
        chances("often")


def test_heads_are_taken_one_after_the_other():
    assert heads("0.8") == pytest.approx((0.2, 0.8))
    assert heads("0.8,0.5") == pytest.approx((0.2, 0.4, 0.4))
    with pytest.raises(UsageError, match="between 0 and 1"):
        heads("1.2")


def test_bars_show_the_highest_full():
    assert spark([0, 1, 2, 4], width=4) == " ▂▄█"
    assert set(percentiles(traffic(5, 9, 9, rate=1.0).prompts)) == {"mean", "p50", "p90", "p99"}


def _json(tmp_path, monkeypatch, *words):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(application(["simulate"]), ["simulate", *words, "-f", "json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_verb_gives_json_and_a_page(tmp_path, monkeypatch):
    words = ("smollm2-135m", "--target", "h100", "--input", "200", "--output", "50")
    document = _json(tmp_path, monkeypatch, *words, "--requests", "10000", "--rate", "100")
    assert document["kind"] == "simulated"
    assert document["requests"] == 10000
    assert document["ttft_s"]["p50"] <= document["ttft_s"]["p99"]
    ttft = document["estimates"]["ttft_s"]
    assert ttft["low"] < ttft["value"] == document["ttft_s"]["mean"] < ttft["high"]
    assert "<svg" in (tmp_path / document["run"] / "simulate.html").read_text()
    apart = _json(
        tmp_path, monkeypatch, *words, "--requests", "100", "--rate", "9", "--disaggregate", "1:2"
    )
    assert (apart["prefill_copies"], apart["copies"], apart["chips"]) == (1, 2, 3)
