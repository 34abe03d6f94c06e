"""The token loop, on a toy model written in numpy: its next token is a hash of all before it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from anychip.core import (
    Argument,
    CompileOptions,
    Coverage,
    Facts,
    LanguageModel,
    Module,
    Precision,
    Result,
    Signature,
    UsageError,
    Weights,
)
from anychip.llm.generate import Piece, chat_ids, compile_runner, generate, prompt_ids
from anychip.llm.text import Stop

VOCABULARY, CONTEXT = 64, 128


def _next(tokens: Sequence[int]) -> int:
    value = 7
    for token in tokens:
        value = (value * 31 + token + 1) % 1009
    return value % VOCABULARY


def _expected(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(_next(tokens))
    return tokens[len(prompt) :]


@dataclass
class Toy:
    """An Executable whose cache is the tokens themselves, kept in a ring of `window` places."""

    length: int
    window: int = CONTEXT
    calls: list[tuple[int, int]] = field(default_factory=list)
    artifacts: dict[str, str | bytes] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)

    @property
    def signature(self) -> Signature:
        cache = (1, 1, self.window, 1)
        return Signature(
            (
                Argument("w", (1,), "f32", "weight"),
                Argument("layers.0.k", cache, "i32", "state"),
                Argument("start", (1,), "i32"),
                Argument("tokens", (1, self.length), "i32"),
            ),
            (
                Result("k", cache, "i32", updates="layers.0.k"),
                Result("logits", (1, VOCABULARY), "f32"),
            ),
        )

    def run(self, *inputs: Any) -> Sequence[Any]:
        cache, start, tokens = (np.array(one) for one in inputs)
        self.calls.append((int(start[0]), self.length))
        for offset, token in enumerate(tokens[0]):
            cache[0, 0, (start[0] + offset) % self.window, 0] = token
        last = start[0] + self.length - 1
        seen = [
            int(cache[0, 0, p % self.window, 0])
            for p in range(max(0, last - self.window + 1), last + 1)
        ]
        logits = np.zeros((1, VOCABULARY), np.float32)
        logits[0, _next(seen)] = 1.0
        inputs[0][:] = -1  # donated: whoever reads it again reads nonsense
        return cache, logits

    def trace(self, *inputs: Any):
        raise NotImplementedError


class Letters:
    """A tokenizer of one letter a token."""

    bos: int | None = None
    stop: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        return [ord(c) - 64 for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(64 + i) for i in ids)

    def stream(self):
        return self

    def push(self, token: int) -> str:
        return self.decode([token])

    def flush(self) -> str:
        return ""


PRECISION = Precision(name="f32", weights="f32", activations="f32", cache="f32", matmul="f32")


def _model(tokenizer: Any = None) -> LanguageModel:
    facts = Facts(
        layers=1,
        hidden=1,
        vocabulary=VOCABULARY,
        context=CONTEXT,
        parameters=1,
        active_parameters=1,
    )

    def none(*_: Any) -> Any:
        raise AssertionError("the toy has no modules")

    return LanguageModel(
        name="toy",
        facts=facts,
        native_precision=PRECISION,
        prefill=none,
        decode=none,
        bind=none,
        source="",
        tokenizer=tokenizer,
    )


def _run(prompt: list[int], **options: Any) -> list[Piece]:
    options = {"context": CONTEXT, "max_new": 8, "stop": Stop()} | options
    model = options.pop("model", _model())
    prefill, decode = options.pop("prefill", Toy(16)), options.pop("decode", Toy(1))
    return list(generate(model, prefill, decode, prompt, **options))


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 18, 33, 34, 100, 120])
def test_padding_changes_no_token(count: int):
    prompt = [(i * 5 + 3) % VOCABULARY for i in range(count)]
    prefill, decode = Toy(16), Toy(1)
    pieces = _run(prompt, prefill=prefill, decode=decode)
    assert [p.token for p in pieces] == _expected(prompt, 8)
    assert len(prefill.calls) == -(-(count - 1) // 16)
    assert len(decode.calls) == 8


def test_a_window_cache_is_never_padded():
    prompt = [(i * 5 + 3) % VOCABULARY for i in range(40)]
    prefill, decode = Toy(16, window=24), Toy(1, window=24)
    pieces = _run(prompt, prefill=prefill, decode=decode, max_new=3)
    tokens = list(prompt)
    for piece in pieces:
        assert piece.token == _next(tokens[-24:])
        tokens.append(piece.token)
    assert prefill.calls == [(0, 16), (16, 16)]
    assert len(decode.calls) == 7 + 3


def test_without_prefill_tokens_are_decoded_one_by_one():
    assert [p.token for p in _run([1, 2, 3], prefill=None)] == _expected([1, 2, 3], 8)


def test_prefill_never_writes_past_the_cache():
    prompt = [1] * 126
    prefill = Toy(50)
    assert [p.token for p in _run(prompt, prefill=prefill, max_new=1)] == _expected(prompt, 1)
    assert prefill.calls == [(0, 50), (50, 50)]


def test_generation_ends_when_the_cache_is_full():
    pieces = _run([1] * 126)
    assert [p.finish for p in pieces] == ["", "", "context"]


def test_a_prompt_longer_than_the_context_is_refused_with_numbers():
    with pytest.raises(UsageError, match=r"129 tokens.*context of 128.*by 1"):
        generate(_model(), Toy(16), Toy(1), [1] * 129, context=CONTEXT, max_new=1)


@pytest.mark.parametrize(
    ("prompt", "max_new", "why"),
    [([], 1, "no tokens"), ([64], 1, "outside"), ([-1], 1, "outside"), ([1], 0, "max_new is 0")],
)
def test_bad_calls_are_refused_before_anything_runs(prompt: list[int], max_new: int, why: str):
    with pytest.raises(UsageError, match=why):
        generate(_model(), Toy(16), Toy(1), prompt, context=CONTEXT, max_new=max_new)


def test_stop_ids_end_and_their_text_is_not_given_out():
    expected = _expected([1, 2], 8)
    pieces = _run([1, 2], model=_model(Letters()), stop=Stop((expected[3],)))
    assert [p.token for p in pieces] == expected[:4]
    assert pieces[-1].finish == "stop"
    assert "".join(p.text for p in pieces) == Letters().decode(expected[:3])


def test_stop_texts_are_held_back_until_they_are_sure():
    expected = _expected([1, 2], 8)
    text = Letters().decode(expected)
    pieces = _run([1, 2], model=_model(Letters()), stop=Stop((), (text[3:6], "never")))
    assert [p.token for p in pieces] == expected[:6]
    assert [p.text for p in pieces] == [text[0], text[1], text[2], "", "", ""]
    assert pieces[-1].finish == "stop"


def test_a_stop_text_that_does_not_come_is_given_out_in_the_end():
    expected = _expected([1, 2], 4)
    text = Letters().decode(expected)
    pieces = _run([1, 2], model=_model(Letters()), max_new=4, stop=Stop((), (text[2:] + "x",)))
    assert "".join(p.text for p in pieces) == text
    assert pieces[-1].finish == "length"


def test_without_stop_the_models_own_stop_tokens_count():
    letters = Letters()
    letters.stop = (_expected([1, 2], 2)[1],)
    assert len(_run([1, 2], model=_model(letters), stop=None)) == 2


def test_seconds_count_from_the_call():
    ticks = itertools.count(100.0)
    pieces = _run([1], max_new=3, clock=lambda: next(ticks))
    assert [p.seconds for p in pieces] == [1.0, 2.0, 3.0]


def test_an_empty_prompt_starts_with_bos_or_is_refused():
    letters = Letters()
    with pytest.raises(UsageError, match="the prompt is empty"):
        prompt_ids(_model(letters), "")
    letters.bos = 5
    assert prompt_ids(_model(letters), "") == [5]
    assert prompt_ids(_model(letters), "A") == [5, 1]
    assert prompt_ids(_model(letters), "EA") == [5, 1]


def test_a_model_without_tokenizer_or_template_says_so():
    with pytest.raises(UsageError, match="no tokenizer"):
        prompt_ids(_model(), "x")
    with pytest.raises(UsageError, match="no chat template"):
        chat_ids(_model(Letters()), [])
    with pytest.raises(UsageError, match="no tokenizer"):
        _run([1], stop=Stop((), ("x",)))


@dataclass
class Recorder:
    """A Target that remembers what it was asked to compile."""

    name: str = "toy:toy"
    runs: bool = True
    toolchain: str = "none"
    lengths: list[int] = field(default_factory=list)

    def compile(self, module: Module, options: CompileOptions) -> Any:
        tokens = module.signature.named("input")[0]
        self.lengths.append(int(tokens.shape[1]))
        return Toy(self.lengths[-1])


def _buildable(asked: list[tuple[int, int]]) -> LanguageModel:
    def build(batch: int, length: int, context: int, precision: Precision) -> Module:
        asked.append((length, context))
        return Module.from_mlir(
            f"func.func @main(%t: tensor<1x{length}xi32>) -> tensor<1x{length}xi32> "
            f"{{ return %t : tensor<1x{length}xi32> }}"
        )

    base = _model()
    return LanguageModel(
        name=base.name,
        facts=base.facts,
        native_precision=PRECISION,
        prefill=build,
        decode=lambda batch, context, precision: build(batch, 1, context, precision),
        bind=lambda precision: Weights(),
        source="",
    )


def test_prompts_of_like_lengths_share_compiled_shapes():
    shapes = set()
    for count in range(18, 60):
        asked: list[tuple[int, int]] = []
        target = Recorder()
        compile_runner(_buildable(asked), target, prompt_tokens=count, max_new=4)
        assert target.lengths == [1, 64]
        shapes.update(asked)
    assert shapes == {(1, 64), (64, 64)}


def test_the_context_never_exceeds_the_models():
    asked: list[tuple[int, int]] = []
    runner = compile_runner(_buildable(asked), Recorder(), prompt_tokens=100, max_new=1000)
    assert runner.context == CONTEXT
    with pytest.raises(UsageError, match="200 tokens, toy has a context of 128"):
        compile_runner(_buildable(asked), Recorder(), prompt_tokens=200, max_new=1)


def test_a_one_token_prompt_needs_no_prefill():
    target = Recorder()
    assert compile_runner(_buildable([]), target, prompt_tokens=1, max_new=4).prefill is None
    assert target.lengths == [1]
