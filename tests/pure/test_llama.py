"""What a GGUF file of the Llama family becomes, and which ones are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anychip.core.errors import InputError
from anychip.frontends.gguf import load_gguf
from anychip.frontends.gguf_file import GGUF
from anychip.frontends.llm.llama import read_config, tensor_name
from anychip.frontends.llm.precision import PRECISIONS
from anychip.frontends.llm.weights import weight_specs

Make = Callable[..., Path]


def _config(path: Path):
    return read_config(GGUF.open(path))


def test_metadata_becomes_a_config(tiny_gguf: Make):
    config = _config(tiny_gguf())
    assert (config.layers, config.hidden, config.ffn) == (2, 256, 512)
    assert (config.heads, config.kv_heads, config.head_dim) == (4, 2, 64)
    assert (config.vocabulary, config.context) == (268, 128)
    assert config.norm_eps == pytest.approx(1e-5)
    assert config.rope.theta == 10000.0
    assert config.rope.interleaved
    assert config.tied_embeddings
    assert not config.qk_norm
    assert not config.qkv_bias


def test_other_architectures_differ_by_what_they_carry(tiny_gguf: Make):
    qwen2 = _config(tiny_gguf(arch="qwen2"))
    assert qwen2.qkv_bias
    assert not qwen2.rope.interleaved
    qwen3 = _config(tiny_gguf(arch="qwen3", set={"qwen3.attention.key_length": 64}))
    assert qwen3.qk_norm
    assert not qwen3.rope.interleaved
    mixtral = _config(tiny_gguf(experts=4))
    assert mixtral.moe is not None
    assert (mixtral.moe.experts, mixtral.moe.active, mixtral.moe.ffn) == (4, 2, 512)


def test_rope_scaling_is_read(tiny_gguf: Make):
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    rope = _config(tiny_gguf(set=linear)).rope
    assert (rope.scaling, rope.factor) == ("linear", 4.0)
    yarn = linear | {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.original_context_length": 32,
    }
    rope = _config(tiny_gguf(set=yarn)).rope
    assert (rope.scaling, rope.factor, rope.original_context) == ("yarn", 4.0, 32)
    factors = np.linspace(1, 8, 32, dtype=np.float32)
    # The tiny file's maker scales tensors by 1/sqrt(hidden) = 1/16.
    rope = _config(tiny_gguf(tensors={"rope_freqs.weight": factors * 16})).rope
    np.testing.assert_allclose(rope.frequency_factors, factors, rtol=1e-6)
    partial = _config(tiny_gguf(set={"llama.rope.dimension_count": 32})).rope
    assert partial.dim == 32


def test_a_separate_head_is_used(tiny_gguf: Make):
    head = np.ones((268, 256), np.float32)
    assert not _config(tiny_gguf(tensors={"output.weight": head})).tied_embeddings


def test_load_carries_name_licence_and_tokenizer(tiny_gguf: Make):
    model = load_gguf(tiny_gguf())
    assert (model.name, model.licence) == ("Tiny", "apache-2.0")
    assert model.facts.vocabulary == 268
    assert model.tokenizer is not None
    assert model.chat is not None
    assert model.chat.render([{"role": "user", "content": "hi"}]).endswith("assistant\n")
    assert load_gguf(tiny_gguf(set={"tokenizer.chat_template": None})).chat is None


def test_loading_reads_no_weight(tiny_gguf: Make, monkeypatch: pytest.MonkeyPatch):
    def never(*_: Any) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(GGUF, "stored", never)
    model = load_gguf(tiny_gguf())
    assert len(model.bind(PRECISIONS["stored"])) == 20


@pytest.mark.parametrize("precision", ["stored", "f32", "bf16", "q8_0", "q4_0", "int8", "fp8"])
def test_bound_weights_are_what_the_specs_say_and_near_the_file(tiny_gguf: Make, precision: str):
    path = tiny_gguf(format="q5_1")
    file, config = GGUF.open(path), _config(path)
    weights = load_gguf(path).bind(PRECISIONS[precision])
    stored = {
        s.name: file.entries[tensor_name(s.name)].format
        for s in weight_specs(config, PRECISIONS["f32"])
    }
    step = {
        "stored": 0,
        "f32": 0,
        "bf16": 2**-8,
        "q8_0": 2**-7,
        "q4_0": 2**-3,
        "int8": 2**-7,
        "fp8": 2**-4,
    }[precision]
    for spec in weight_specs(config, PRECISIONS[precision], stored):
        exact = file.array(file.entries[tensor_name(spec.name)])
        found = _dense(spec, [weights[a.name].array() for a in spec.arguments])
        assert weights[spec.name].shape == spec.arguments[0].shape
        np.testing.assert_allclose(found, exact, rtol=step, atol=step * np.abs(exact).max())


def _dense(spec: Any, arrays: list[np.ndarray]) -> np.ndarray:
    from anychip.core.blocks import BLOCK_FORMATS

    if spec.is_block:
        return BLOCK_FORMATS[spec.format].dequantize(arrays[0])
    wide = arrays[0].astype(np.float32)
    return wide * arrays[1][..., None] if len(arrays) > 1 else wide


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"arch": "mamba"}, "no architecture named 'mamba'"),
    ({"arch": "llam"}, "Did you mean 'llama'"),
    ({"set": {"llama.block_count": None}}, "llama.block_count: this key is missing"),
    ({"set": {"llama.block_count": 0}}, "llama.block_count: 0 is out of range"),
    ({"set": {"llama.block_count": 2**31}}, "llama.block_count: 2147483648 is out of range"),
    ({"set": {"llama.block_count": 3}}, "tensor 'blk.2.attn_norm.weight': is missing"),
    ({"set": {"llama.block_count": 1}}, "tensor 'blk.1.attn_norm.weight': has no place"),
    ({"set": {"llama.block_count": "two"}}, "should be a whole number, it is 'two'"),
    ({"set": {"llama.embedding_length": 512}}, "should be [268, 512] by the file's metadata"),
    ({"set": {"llama.embedding_length": 2**30}}, "embedding_length: 1073741824 is out of range"),
    ({"set": {"llama.attention.head_count": 3}}, "3 heads do not divide a width of 256"),
    ({"set": {"llama.attention.head_count": 0}}, "head_count: 0 is out of range"),
    ({"set": {"llama.attention.head_count": [4, 2]}}, "it is a list of 2"),
    ({"set": {"llama.attention.head_count_kv": 3}}, "does not divide heads"),
    ({"set": {"llama.attention.head_count_kv": 4}}, "should be [256, 256] by the file's metadata"),
    ({"set": {"llama.attention.value_length": 32}}, "differs from the keys' length of 64"),
    ({"set": {"llama.context_length": 0}}, "context_length: 0 is out of range"),
    ({"set": {"llama.context_length": 2**31}}, "context_length: 2147483648 is out of range"),
    ({"set": {"llama.attention.layer_norm_rms_epsilon": -1.0}}, "epsilon: -1.0 is out of range"),
    ({"set": {"llama.attention.layer_norm_rms_epsilon": float("inf")}}, "inf is out of range"),
    ({"set": {"llama.rope.freq_base": 0.5}}, "freq_base: 0.5 is out of range"),
    ({"set": {"llama.rope.freq_base": 1.0}}, "not a base above 1"),
    ({"set": {"llama.rope.dimension_count": 128}}, "dimension_count: 128 is out of range"),
    ({"set": {"llama.rope.dimension_count": 63}}, "cannot rotate 63"),
    ({"set": {"llama.rope.scaling.type": "longrope"}}, "no rope scaling named 'longrope'"),
    ({"set": {"llama.rope.scaling.type": "yarn"}}, "yarn needs it"),
    ({"set": {"llama.feed_forward_length": None}}, "feed_forward_length: this key is missing"),
    ({"set": {"llama.feed_forward_length": 0}}, "feed_forward_length: 0 is out of range"),
    ({"set": {"split.count": 3}}, "split.count: is one part of a split model"),
    ({"set": {"general.quantization_version": 1}}, "convert the model again"),
    ({"set": {"llama.expert_count": 4}}, "expert_used_count: this key is missing"),
    ({"arch": "qwen2", "set": {"qwen2.expert_count": 4}}, "qwen2 with experts is not known"),
    ({"tensors": {"output_norm.weight": None}}, "tensor 'output_norm.weight': is missing"),
    ({"tensors": {"token_embd.weight": None}}, "tensor 'token_embd.weight': is missing"),
    (
        {"tensors": {"blk.1.ffn_up.weight": np.ones((256, 256), np.float32)}},
        "'blk.1.ffn_up.weight': should be [512, 256] by the file's metadata, it is [256, 256]",
    ),
    (
        {"tensors": {"blk.0.ffn_up.bias": np.ones(512, np.float32)}},
        "tensor 'blk.0.ffn_up.bias': has no place in a model of architecture llama",
    ),
    (
        {"tensors": {"rope_freqs.weight": np.ones(3, np.float32)}},
        "should be f32[32], it is f32[3]",
    ),
    (
        {"tensors": {"rope_freqs.weight": np.zeros(32, np.float32)}},
        "factors that are not positive",
    ),
    (
        {
            "set": {
                "tokenizer.ggml.tokens": ["a"] * 9,
                "tokenizer.ggml.token_type": None,
                "tokenizer.ggml.merges": ["x y"],
            }
        },
        "is not in the vocabulary",
    ),
    (
        {"tensors": {"token_embd.weight": np.ones((300, 256), np.float32)}},
        "has 268 tokens for 300 embeddings",
    ),
    ({"set": {"tokenizer.chat_template": "{% if %}"}}, "the chat template fails at line 1"),
]


@pytest.mark.parametrize(("change", "expected"), REFUSED)
def test_a_model_that_cannot_be_is_refused_by_name(
    tiny_gguf: Make, change: dict[str, Any], expected: str
):
    with pytest.raises(InputError) as caught:
        load_gguf(tiny_gguf(**change))
    assert expected in str(caught.value)
    assert "tiny.gguf" in str(caught.value)


def test_weights_of_integers_are_refused(tiny_gguf: Make, tmp_path: Path):
    raw = tiny_gguf(format="f32").read_bytes()
    at = raw.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    (tmp_path / "ints.gguf").write_bytes(raw[:at] + b"\x1a\0\0\0" + raw[at + 4 :])  # 26: i32
    with pytest.raises(InputError, match=r"output_norm\.weight': is i32, which no weight can be"):
        load_gguf(tmp_path / "ints.gguf")
