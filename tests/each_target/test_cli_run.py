"""`anychip run` and `bench-llm` on a language model, as a person types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import anychip
from anychip.cli.answer import Ask, answer_prompts, precision_for
from anychip.cli.run import run
from anychip.core import AnychipError, SetupError, UsageError, room
from anychip.llm import paged


@pytest.fixture
def cli(tmp_path):
    """Runs `anychip …` in a fresh folder; gives (exit code, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "anychip", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "COLUMNS": "120", "ANYCHIP_THREADS": "2"},
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return call


def test_prompts_of_a_file_run_side_by_side_and_answer_as_alone(cli, tiny_gguf, tmp_path):
    model = tiny_gguf(format="q8_0")
    (tmp_path / "prompts.txt").write_text("ab\n\nabc abc abc\n")
    knobs = ("--max-new", 6, "--temperature", 0.7, "--seed", 3, "-f", "json")
    code, out, err = cli("run", model, "--prompts", "prompts.txt", *knobs, "--speculate", "lookup")
    assert code == 0, err
    both = json.loads(out)
    assert [a["prompt"] for a in both["answers"]] == ["ab", "abc abc abc"]
    assert both["kv_bytes"] > 0
    assert both["speculation"]["drafter"] == "prompt-lookup"
    code, out, err = cli("run", model, "-p", "abc abc abc", *knobs, "--logprobs", 2)
    assert code == 0, err
    alone = json.loads(out)
    assert alone["tokens"] == both["answers"][1]["tokens"]
    assert len(alone["logprobs"]) == len(alone["tokens"])
    assert f"KV cache {alone['kv_bytes'] / 1e6:.1f} MB" in err


def test_caches_of_the_native_target_are_of_f16_unless_something_else_was_asked_for(tiny_gguf):
    model = anychip.load(tiny_gguf(format="q8_0"))
    held = [
        precision_for(model, target, Ask(**asked)).cache
        for target, asked in (
            *(("cpu:native", {}), ("cpu:native", {"quantize": "q4_0"}), ("cpu:xla", {})),
            *(("cpu:native", {"precision": "f32"}), ("cpu:native", {"kv": "f32"})),
        )
    ]
    assert held == ["f16", "f16", "f32", "f32", "f32"]


def test_weights_are_quantised_on_load_and_the_cache_is_bounded(cli, tiny_gguf):
    model = tiny_gguf(format="q8_0")
    words = ("run", model, "-p", "abc", "--max-new", 3)
    code, out, err = cli(*words, "--quantize", "q4_0", "-f", "json", "--target", "cpu:xla")
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["precision"], answer["kv"]) == ("q4_0", "f32")
    cost = answer["perplexity"]
    assert cost["tokens"] == 128  # as many as the model's context holds
    assert cost["own"]["value"] > 1
    assert cost["change"] == cost["quantised"]["value"] / cost["own"]["value"] - 1 != 0
    code, out, err = cli(*words, "-f", "json")
    assert (code, json.loads(out)["kv"]) == (0, "f16"), err
    assert " MB of f16" in err
    code, _, err = cli(*words, "--kv-mb", 0.001)
    assert code == 2
    assert "holds no page" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "needs --prompt"),
        (("-p", "x", "--quantize", "q4_9"), "q4_0"),
        (("-p", "x", "--min-p", 7), "min_p"),
        (("-p", "x", "--kv", "q9"), "q8_0"),
        (("-p", "x", "--logit-bias", "five"), "TOKEN=NUMBER"),
        (("--prompts", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_a_wrong_option_is_explained(cli, tiny_gguf, words, says):
    code, _, err = cli("run", tiny_gguf(), *words)
    assert code == 2
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"max_new": 0}, "at least 1 token"),
        ({"sampling": {"bias": {999999: 1.0}}}, "outside"),
        ({"max_new": 100, "kv_mb": 0.15}, "lower --max-new"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_compiled_or_shown(
    tiny_gguf, asked, says, capsys, monkeypatch
):
    monkeypatch.setattr(paged.PagedSteps, "warm", lambda *_: pytest.fail("compiled"))
    model = anychip.load(tiny_gguf(format="q8_0"))
    with pytest.raises(UsageError, match=says):
        answer_prompts(model, "cpu:native", ["x"], Ask(**asked), stream=True)
    assert capsys.readouterr().out == ""


def test_an_answer_that_ends_in_numbers_that_are_none_is_an_error(tiny_gguf):
    path = tiny_gguf(format="q8_0")
    raw = bytearray(path.read_bytes())
    raw[-4096:] = b"\xff" * 4096
    path.write_bytes(raw)
    with pytest.raises(AnychipError, match="logits that are no numbers for prompt 1"):
        run(str(path), prompt=["abc"], max_new=3)


@pytest.mark.parametrize("words", [("run", "-p", "x"), ("bench-llm",)])
def test_a_model_without_values_is_told_before_anything_is_compiled(cli, words):
    code, _, err = cli(words[0], "llama-3.1-70b", *words[1:], "--target", "cpu:xla")
    assert code == 2
    assert "known by its shape only" in err


@pytest.mark.parametrize(
    ("target", "what"), [("cpu:native", "KV cache"), ("cpu:xla", "weights of .* as f32")]
)
def test_too_little_memory_is_told_before_it_is_taken(tiny_gguf, monkeypatch, target, what):
    monkeypatch.setattr(room, "free_memory_bytes", lambda: 1000)
    if target == "cpu:xla":
        monkeypatch.setattr(paged, "require_memory", lambda *_: None)
    model = anychip.load(str(tiny_gguf(format="q8_0")))
    with pytest.raises(SetupError, match=f"{what}: .* are free on this host. Instead: "):
        answer_prompts(model, target, ["x"], Ask(max_new=1), stream=False)


def test_bench_llm_gives_the_figures_others_rely_on(cli, tiny_gguf):
    model = tiny_gguf(format="q8_0")
    words = ("--prompt", 8, "--context", 16, "--rounds", 1)
    code, out, err = cli("bench-llm", model, *words, "-f", "json", "--target", "cpu:xla")
    assert code == 0, err
    found = json.loads(out)
    for key in ("decode_tok_s", "prefill_tok_s", "gb_s", "bandwidth_gb_s", "ratio"):
        assert found[key] > 0
    assert found["bandwidth_by"] in ("cpu:native's sum", "XLA's sum")
    assert found["engine"] == "anychip cpu:xla"
    assert found["threads"] == 2
    assert (found["j_per_tok"] is None) == bool(found["j_per_tok_why_not"])
