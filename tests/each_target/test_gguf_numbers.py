"""GGUF models on cpu:xla against a forward pass in plain numpy that shares no code with anychip.

The reference reads the file with the `gguf` package, dequantises everything to float32 and computes
every position at once. Accepted: 1e-3 of the largest logit.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quick_xla import QuickXla

from anychip.core import CompileOptions, Executable, LanguageModel, dtype
from anychip.frontends.gguf import load_gguf
from anychip.frontends.llm.precision import PRECISIONS
from anychip.llm import Runner, Sampling, Stop, chat_ids, compile_runner, prompt_ids

TOLERANCE = 1e-3
PROMPT = "The capital of France is"


class Reference:
    """A Llama-family decoder, straight from the papers: numpy, float32, no cache."""

    def __init__(self, path: Path):
        import gguf

        reader = gguf.GGUFReader(path)
        fields = {  # the words of a vocabulary, one by one, take seconds
            key: field.contents()
            for key, field in reader.fields.items()
            if not key.startswith("tokenizer.")
        }
        self.arch = fields["general.architecture"]
        self.facts = {
            key.removeprefix(self.arch + "."): value
            for key, value in fields.items()
            if key.startswith(self.arch + ".")
        }
        self.weights = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}

    def logits(self, tokens: list[int]) -> np.ndarray:
        """f32[len(tokens), vocabulary]."""
        x = self.weights["token_embd.weight"][tokens]
        for layer in range(self.facts["block_count"]):
            w = {
                name.removeprefix(f"blk.{layer}."): value
                for name, value in self.weights.items()
                if name.startswith(f"blk.{layer}.")
            }
            x = x + self._attention(w, self._norm(x, w["attn_norm.weight"]))
            x = x + self._feed_forward(w, self._norm(x, w["ffn_norm.weight"]))
        head = self.weights.get("output.weight", self.weights["token_embd.weight"])
        return self._norm(x, self.weights["output_norm.weight"]) @ head.T

    def _norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        square = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(square + self.facts["attention.layer_norm_rms_epsilon"]) * weight

    def _attention(self, w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        count, heads = len(x), self.facts["attention.head_count"]
        groups = heads // self.facts["attention.head_count_kv"]

        def project(name: str) -> np.ndarray:
            y = x @ w[f"attn_{name}.weight"].T + w.get(f"attn_{name}.bias", np.float32(0))
            y = y.reshape(count, -1, w["attn_q.weight"].shape[0] // heads).transpose(1, 0, 2)
            norm = w.get(f"attn_{name}_norm.weight")
            return y if norm is None else self._norm(y, norm)

        q, k, v = self._rotate(project("q")), self._rotate(project("k")), project("v")
        k, v = np.repeat(k, groups, axis=0), np.repeat(v, groups, axis=0)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(np.float32(q.shape[-1]))
        scores = np.where(np.tril(np.ones((count, count), bool)), scores, -np.inf)
        odds = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = odds / odds.sum(axis=-1, keepdims=True) @ v
        return mixed.transpose(1, 0, 2).reshape(count, -1) @ w["attn_output.weight"].T

    def _rotate(self, x: np.ndarray) -> np.ndarray:
        dim = self.facts.get("rope.dimension_count", x.shape[-1])
        turns = self.facts.get("rope.freq_base", 10000.0) ** -(np.arange(0, dim, 2) / dim)
        turns = turns / self.weights.get("rope_freqs.weight", 1.0)
        if self.facts.get("rope.scaling.type") == "linear":
            turns = turns / self.facts["rope.scaling.factor"]
        angle = np.arange(x.shape[1])[:, None] * turns
        sin, cos = np.sin(angle).astype(np.float32), np.cos(angle).astype(np.float32)
        neighbours = self.arch == "llama"
        pairs = (slice(0, dim, 2), slice(1, dim, 2))
        if not neighbours:
            pairs = (slice(0, dim // 2), slice(dim // 2, dim))
        a, b = x[..., pairs[0]], x[..., pairs[1]]
        out = x.copy()
        out[..., pairs[0]], out[..., pairs[1]] = a * cos - b * sin, a * sin + b * cos
        return out

    def _feed_forward(self, w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        def gated(x: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
            middle = x @ gate.T
            return (middle / (1 + np.exp(-middle)) * (x @ up.T)) @ down.T

        names = ("ffn_gate", "ffn_up", "ffn_down")
        if "ffn_gate_inp.weight" not in w:
            return gated(x, *(w[f"{name}.weight"] for name in names))
        scores = np.exp(x @ w["ffn_gate_inp.weight"].T)
        out = np.zeros_like(x)
        for row, score in enumerate(scores):
            best = np.argsort(-score)[: self.facts["expert_used_count"]]
            for expert in best:
                part = gated(x[row], *(w[f"{name}_exps.weight"][expert] for name in names))
                out[row] += score[expert] / score[best].sum() * part
        return out


@pytest.fixture(scope="module")
def target() -> QuickXla:
    return QuickXla()


def _step(executable: Executable, tokens: list[int]) -> np.ndarray:
    """Logits f32[vocabulary] after exactly these tokens, from an empty cache."""
    signature = executable.signature
    inputs: dict[str, Any] = {
        a.name: np.zeros([int(d) for d in a.shape], dtype(a.dtype).numpy)
        for a in signature.named("state")
    }
    inputs |= {"tokens": np.array([tokens], np.int32), "start": np.zeros(1, np.int32)}
    results = executable.run(*(inputs[a.name] for a in signature.arguments if a.role != "weight"))
    names = [r.name for r in signature.results]
    return np.asarray(results[names.index("logits")])[0]


def _prefill(model: LanguageModel, target: QuickXla, tokens: list[int], name: str) -> np.ndarray:
    module = model.prefill(1, len(tokens), 64, PRECISIONS[name])
    return _step(target.compile(module, CompileOptions()), tokens)


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


ROPE_FACTORS = np.linspace(1, 8, 32, dtype=np.float32) * 16  # the maker divides by 16
HEAD = np.random.default_rng(1).standard_normal((268, 256), np.float32)
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama 3.1": {"tensors": {"rope_freqs.weight": ROPE_FACTORS, "output.weight": HEAD}},
    "linear scaling of half a head": {
        "set": {
            "llama.rope.scaling.type": "linear",
            "llama.rope.scaling.factor": 4.0,
            "llama.rope.dimension_count": 32,
        }
    },
    "mixtral": {"experts": 4},
    "qwen2": {"arch": "qwen2"},
    "qwen3": {"arch": "qwen3"},
    "qwen3moe": {"arch": "qwen3moe", "experts": 4},
}
TOKENS = [5, 80, 200, 7, 7, 130, 42, 99, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_matches_the_reference(
    tiny_gguf: Callable[..., Path], target: QuickXla, kind: str
):
    path = tiny_gguf(**KINDS[kind])
    expected = Reference(path).logits(TOKENS)[-1]
    assert _error(_prefill(load_gguf(path), target, TOKENS, "f32"), expected) < TOLERANCE


FORMATS = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_K", "q6_K", "f16", "bf16", "f32"]


@pytest.mark.parametrize("first", ["q4_0", "q6_K", "bf16"])
def test_every_stored_format_matches_the_reference(
    tiny_gguf: Callable[..., Path], target: QuickXla, first: str
):
    """Each of the fifteen matrices has the next format; `first` is that of the embedding."""
    turned = FORMATS[FORMATS.index(first) :] + FORMATS[: FORMATS.index(first)]
    path = tiny_gguf(format=turned)
    model = load_gguf(path)
    stored = {w.stored_as for w in model.bind(PRECISIONS["stored"]).values()}
    assert stored == set(FORMATS)
    expected = Reference(path).logits(TOKENS)[-1]
    assert _error(_prefill(model, target, TOKENS, "stored"), expected) < TOLERANCE


@pytest.fixture(scope="module")
def real(smollm2: Path) -> LanguageModel:
    return load_gguf(smollm2)


@pytest.fixture(scope="module")
def reference(smollm2: Path) -> Reference:
    return Reference(smollm2)


@pytest.fixture(scope="module")
def runner(real: LanguageModel, target: QuickXla) -> Runner:
    return compile_runner(real, target, prompt_tokens=17, max_new=24, precision=PRECISIONS["f32"])


def test_the_real_models_logits_match_the_reference(
    real: LanguageModel, runner: Runner, reference: Reference
):
    text = "The capital of France is Paris. The capital of Italy, a country of Europe, is"
    tokens = prompt_ids(real, text)[-16:]  # as many as the prefill takes at once
    assert runner.prefill is not None
    found, expected = _step(runner.prefill, tokens), reference.logits(tokens)[-1]
    assert _error(found, expected) < TOLERANCE
    assert found.argmax() == expected.argmax()
    assert real.tokenizer.decode([int(found.argmax())]) == " Rome"


def test_the_real_models_stored_blocks_match_the_reference(
    real: LanguageModel, target: QuickXla, reference: Reference
):
    tokens = prompt_ids(real, PROMPT)
    expected = reference.logits(tokens)[-1]
    assert _error(_prefill(real, target, tokens, "stored"), expected) < TOLERANCE


def test_the_real_model_answers_as_the_reference_does(
    real: LanguageModel, runner: Runner, reference: Reference
):
    """Padded prefill, decode with the cache, and one forward pass over all agree on every token."""
    ids = prompt_ids(real, PROMPT)
    pieces = list(runner.generate(ids, max_new=10, stop=Stop()))
    assert "".join(p.text for p in pieces).startswith(" Paris")
    answer = [p.token for p in pieces]
    expected = reference.logits(ids + answer).argmax(axis=-1)
    assert expected[len(ids) - 1 : -1].tolist() == answer
    stepwise = replace(runner, prefill=None).generate(ids, max_new=10, stop=Stop())
    assert [p.token for p in stepwise] == answer


def test_the_real_model_draws_alike_from_equal_seeds_and_ends_its_turn(
    real: LanguageModel, runner: Runner
):
    ids = chat_ids(real, [{"role": "user", "content": "Say hello."}])
    drawn = Sampling(temperature=0.8, top_k=40, top_p=0.9, seed=3)
    first = list(runner.generate(ids, max_new=24, sampling=drawn))
    again = list(runner.generate(ids, max_new=24, sampling=drawn))
    assert [p.token for p in first] == [p.token for p in again]
    assert first[-1].finish in ("stop", "length", "context")


_THEIRS = """
import json, sys
from tokenizers import pre_tokenizers
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    convert_gguf_tokenizer, get_gguf_tokenizer)
path, texts = json.load(sys.stdin)
architecture, metadata, _ = get_gguf_tokenizer(path)
tokenizer, _ = convert_gguf_tokenizer(architecture, metadata)
# The pre-tokenizer SmolLM2 publishes; transformers does not know the name GGUF gives it.
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Digits(individual_digits=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False),
])
print(json.dumps([tokenizer.encode(text, add_special_tokens=False).ids for text in texts]))
"""


def test_the_real_vocabulary_gives_the_ids_of_transformers(smollm2: Path, real: LanguageModel):
    texts = [
        PROMPT,
        "I'll pay $1234.50 on 2026-03-09,  DON'T ask;\n\n\tdef f(x): return x**2  # ok",
        "naïve café: 日本語のテキスト, русский язык, 🙂👩‍👧 ½ and ﬁ",
        "<|im_start|>user\nhi<|im_end|>\n",
        "   leading and trailing   ",
    ]
    done = subprocess.run(
        [sys.executable, "-c", _THEIRS],
        input=json.dumps([str(smollm2), texts]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert [real.tokenizer.encode(text) for text in texts] == json.loads(done.stdout)
    for text in texts:
        assert real.tokenizer.decode(real.tokenizer.encode(text), control=True) == text
