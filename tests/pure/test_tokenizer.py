"""Tokenizers of GGUF files, against those transformers builds from the same files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anychip.core.errors import InputError, UsageError
from anychip.frontends.gguf_file import GGUF
from anychip.frontends.llm.tokenizer import byte_alphabet, read_tokenizer

TEXTS = (
    "The capital of France is Paris.",
    "I'll say it's 12345 times, DON'T YOU'VE we'd",
    "naïve café, Ångström: 日本語のテキスト, русский, عربى, ελληνικά",
    "🙂👩‍👩‍👧 emoji\U0001f3fd and ﬁ ligatures",
    "def f(x):\n\treturn x ** 2  # two  spaces\r\n\r\n\n   end",
    "1 22 333 4444 55555 ½ ²³ Ⅳ",
    "a_b-c/d\\e|f $3.50 100% #tag @you <b>bold</b> ...!?",
    "camelCase HTTPServer newYork/DELHI/\n\nIT'S it's 9000",
    "  leading, trailing  ",
    "<|im_start|>user\nhi<|im_end|>\n",
    "\n",
    "x",
    "",
)

_THEIRS = """
import json, sys
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    convert_gguf_tokenizer, get_gguf_tokenizer)
answers = []
for path, texts in json.load(sys.stdin):
    architecture, metadata, _ = get_gguf_tokenizer(path)
    tokenizer, _ = convert_gguf_tokenizer(architecture, metadata)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    answers.append([ids, [tokenizer.decode(one, skip_special_tokens=False) for one in ids]])
print(json.dumps(answers))
"""


def _transformers_says(
    questions: list[tuple[Path, tuple[str, ...]]],
) -> list[tuple[list[list[int]], list[str]]]:
    """Ids and decoded texts by transformers, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _THEIRS],
        input=json.dumps([(str(path), texts) for path, texts in questions]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [(ids, decoded) for ids, decoded in json.loads(done.stdout.splitlines()[-1])]


def _train(start: list[str], **options: Any) -> tuple[list[str], list[str]]:
    """Vocabulary and merges learnt from TEXTS with no cut between words, so cuts matter later."""
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.BPE())
    for name, step in options.items():
        setattr(tokenizer, name, step)
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=start, min_frequency=1, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 2, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    words = sorted(state["vocab"], key=state["vocab"].get)
    return words, [" ".join(pair) for pair in state["merges"]]


@pytest.fixture(scope="module")
def byte_level() -> dict[str, Any]:
    from tokenizers import pre_tokenizers

    alphabet = sorted(byte_alphabet())
    words, merges = _train(
        alphabet, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    )
    # First of all merges, so that camelCase shows which names cut where the case changes.
    words, merges = [*words, "lC"], ["l C", *merges]
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return {
        "tokenizer.ggml.tokens": control + words,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3] * 3 + [1] * len(words),
        "llama.vocab_size": None,
    }


@pytest.fixture(scope="module")
def sentencepiece() -> dict[str, Any]:
    from tokenizers import normalizers

    spaces = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    words, _ = _train([], normalizer=spaces)
    words = [word for word in words if word.isascii() or "\u2581" in word or len(word) > 1]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": special + words,
        "tokenizer.ggml.scores": [0.0] * len(special) + [-float(i) for i in range(len(words))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(words)],
        "tokenizer.ggml.add_bos_token": None,
        "llama.vocab_size": None,
    }


def test_ids_equal_those_of_transformers(
    tiny_gguf: Callable[..., Path], byte_level: dict[str, Any], sentencepiece: dict[str, Any]
):
    """smollm, which transformers does not cut, is compared on the real vocabulary.

    Llama 3 and Tekken take a word that is a token whole, as their own tokenizers do; transformers
    merges it up, which is the same here because every token can be merged up.
    """
    questions = [
        (tiny_gguf(set=byte_level | {"tokenizer.ggml.pre": pre}, name=f"{pre}.gguf"), TEXTS)
        for pre in ("gpt-2", "llama-bpe", "qwen2", "tekken", "gpt-4o")
    ]
    unpadded = tuple(text for text in TEXTS if not text.startswith((" ", "\n")))
    questions.append((tiny_gguf(set=sentencepiece, name="sentencepiece.gguf"), unpadded))
    answers = _transformers_says(questions)
    for (path, texts), (ids, decoded) in zip(questions, answers, strict=True):
        ours = read_tokenizer(GGUF.open(path))
        assert [ours.encode(text) for text in texts] == ids, path.name
        assert [ours.decode(one, control=True) for one in ids] == decoded == list(texts)
    same = [(a, b) for a in range(6) for b in range(a) if answers[a][0] == answers[b][0]]
    assert not same


def test_sentencepiece_always_puts_a_space_before_the_text(
    tiny_gguf: Callable[..., Path], sentencepiece: dict[str, Any]
):
    """sentencepiece's add_dummy_prefix; transformers leaves it out before a leading space."""
    ours = read_tokenizer(GGUF.open(tiny_gguf(set=sentencepiece)))
    spelled = "".join(ours.tokens[i] for i in ours.encode("  x"))
    assert spelled == "\u2581\u2581\u2581x"
    assert ours.decode(ours.encode("  x")) == "  x"
    without = sentencepiece | {"tokenizer.ggml.add_space_prefix": False}
    plain = read_tokenizer(GGUF.open(tiny_gguf(set=without, name="plain.gguf")))
    assert "".join(plain.tokens[i] for i in plain.encode("  x")) == "\u2581\u2581x"
    assert plain.decode(plain.encode("  x")) == "  x"


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("smollm", "abc 1234", ["abc", "Ġ", "1", "2", "3", "4"]),
        ("default", "a+b==c 1234567", ["a", "+", "b", "==", "c", "Ġ", "123", "456", "7"]),
        ("llama-bpe", "a 1234567", ["a", "Ġ", "123", "456", "7"]),
        ("qwen2", "12", ["1", "2"]),
    ],
)
def test_text_is_cut_as_the_name_says(tiny_gguf, pre: str, text: str, pieces: list[str]):
    """With every piece in the vocabulary and whole words merged first, pieces are tokens."""
    alphabet = sorted(byte_alphabet())
    digits = ["12", "123", "1234", "45", "456", "ab", "abc", "==", "Ġ1", "Ġ12"]
    merges = ["1 2", "12 3", "123 4", "4 5", "45 6", "a b", "ab c", "= =", "Ġ 1", "Ġ1 2"]
    changes = {
        "tokenizer.ggml.tokens": alphabet + digits,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [1] * (256 + len(digits)),
        "tokenizer.ggml.pre": pre,
    }
    ours = read_tokenizer(GGUF.open(tiny_gguf(set=changes)))
    assert [ours.tokens[i] for i in ours.encode(text)] == pieces


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_a_stream_never_gives_out_half_a_character(
    tiny_gguf: Callable[..., Path], request: pytest.FixtureRequest, kind: str
):
    # One merge only: most characters of several bytes come as several tokens.
    changes = dict(request.getfixturevalue(kind))
    if kind == "byte_level":
        changes["tokenizer.ggml.merges"] = changes["tokenizer.ggml.merges"][:1]
    ours = read_tokenizer(GGUF.open(tiny_gguf(set=changes)))
    silent = 0
    for text in TEXTS:
        stream, so_far = ours.stream(control=True), ""
        for token in ours.encode(text):
            piece = stream.push(token)
            silent += not piece
            so_far += piece
            assert text.startswith(so_far)
        assert so_far + stream.flush() == text
    assert silent > 20


def test_what_is_not_utf8_is_shown_as_such(tiny_gguf: Callable[..., Path]):
    ours = read_tokenizer(GGUF.open(tiny_gguf()))
    first = ours.encode("é")[0]  # the first of its two bytes
    assert ours.decode([first]) == "\ufffd"
    stream = ours.stream()
    assert (stream.push(first), stream.flush()) == ("", "\ufffd")
    assert ours.decode([first, 2, first], control=True) == "\ufffd<|im_end|>\ufffd"


def test_special_tokens_are_found_kept_out_of_text_and_stop(tiny_gguf: Callable[..., Path]):
    ours = read_tokenizer(GGUF.open(tiny_gguf()))
    ids = ours.encode("<|im_start|>hello<|im_end|>")
    assert (ids[0], ids[-1]) == (1, 2)
    assert ours.decode(ids) == "hello"
    assert ours.stop == (0, 2)  # the file's eos, and the known end of text beside it
    assert ours.bos is None
    with_bos = tiny_gguf(set={"tokenizer.ggml.add_bos_token": True}, name="bos.gguf")
    assert read_tokenizer(GGUF.open(with_bos)).bos == 1


def test_ids_outside_the_vocabulary_are_refused(tiny_gguf: Callable[..., Path]):
    ours = read_tokenizer(GGUF.open(tiny_gguf()))
    for token in (-1, len(ours.tokens)):
        with pytest.raises(UsageError, match="outside the vocabulary"):
            ours.decode([token])


def test_text_the_vocabulary_cannot_spell_is_refused_not_dropped(tiny_gguf: Callable[..., Path]):
    words = [c for c in sorted(byte_alphabet()) if c != "z"]
    changes = {
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [1] * 255,
        "tokenizer.ggml.merges": ["a b"],
    }
    with pytest.raises(InputError, match="joins 'a' and 'b', but 'ab'"):
        read_tokenizer(GGUF.open(tiny_gguf(set=changes)))
    changes["tokenizer.ggml.tokens"] = [*words[:-1], "ab"]
    ours = read_tokenizer(GGUF.open(tiny_gguf(set=changes, name="b.gguf")))
    with pytest.raises(UsageError, match="cannot spell 'z'"):
        ours.encode("abz")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokenizer.ggml.model": "rwkv"}, "tokenizer.ggml.model: no kind of tokenizer named 'rwk"),
        ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model: this key is missing"),
        ({"tokenizer.ggml.pre": "smollmm"}, "'smollmm'. Did you mean 'smollm'"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens: this key is missing"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "should be a list of texts"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "should have 268 numbers, it has 2"),
        ({"tokenizer.ggml.token_type": [9] * 268}, "whole numbers from 0 to 6"),
        ({"tokenizer.ggml.token_type": [1.0] * 268}, "whole numbers from 0 to 6"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges: this key is missing"),
        ({"tokenizer.ggml.merges": ["he"]}, "entry 0, 'he', is not two tokens and a space"),
        ({"tokenizer.ggml.merges": ["h e y"]}, "entry 0, 'h e y'"),
        ({"tokenizer.ggml.merges": ["q q"]}, "'qq' is not in the vocabulary"),
        ({"tokenizer.ggml.eos_token_id": 268}, "eos_token_id: 268 is out of range"),
        ({"tokenizer.ggml.add_bos_token": 3}, "add_bos_token: should be true or false"),
        ({"tokenizer.ggml.model": "llama"}, "neither an unknown token nor one for each byte"),
        (
            {"tokenizer.ggml.model": "llama", "tokenizer.ggml.merges": None},
            "tokenizer.ggml.scores: this key is missing",
        ),
        (
            {
                "tokenizer.ggml.model": "llama",
                "tokenizer.ggml.merges": None,
                "tokenizer.ggml.scores": [float("nan")] * 268,
            },
            "not a finite number",
        ),
        (
            {"tokenizer.ggml.model": "llama", "tokenizer.ggml.token_type": [2, *[6] * 267]},
            "is not like <0x0A>",
        ),
    ],
)
def test_a_tokenizer_that_makes_no_sense_is_refused(
    tiny_gguf: Callable[..., Path], changes: dict[str, Any], expected: str
):
    with pytest.raises(InputError) as caught:
        read_tokenizer(GGUF.open(tiny_gguf(set=changes)))
    assert expected in str(caught.value)
    assert "tiny.gguf" in str(caught.value)
