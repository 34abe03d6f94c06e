"""Folders of the families our builders know: their paged steps against transformers, and weights
quantised on load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from quick_xla import QuickXla

from anychip.core import CompileOptions, PagedShape, Precision, UnsupportedError
from anychip.frontends.hf import load_hf
from anychip.frontends.hf.folder import import_transformers
from anychip.llm.paged import PagedSteps, Row

pytestmark = [
    pytest.mark.filterwarnings("ignore:torchvision does not fit"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SIZES = {
    **{"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 32},
}
FAMILIES = {
    "llama": {"rope_parameters": LLAMA3, "attention_bias": True},
    "mistral": {"sliding_window": 4},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 4, "query_pre_attn_scalar": 20},
    "gemma3_text": {"head_dim": 16, "sliding_window": 4, "num_hidden_layers": 6},
    "phi3": {"partial_rotary_factor": 0.5},
}
SHAPE = PagedShape(tokens=8, rows=8, sequences=2, pages=5, page_tokens=4, table=4)
TOKENS = [5, 17, 30, 8, 40, 41, 3, 9]


def saved(path: Path, family: str) -> Path:
    import_transformers()
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES.get(family, {})})
    model = AutoModelForCausalLM.from_config(config).to(torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(path)
    return path


def logits_of(model, precision) -> np.ndarray:
    """f32[8, 96]: behind each of TOKENS, by one paged step."""
    steps = PagedSteps(model, QuickXla("cpu:xla"), SHAPE, precision, CompileOptions())
    table = np.array([[2, 0, 1, 3], [4, 4, 4, 4]], np.int32)
    return steps.run([Row(token, 0, at) for at, token in enumerate(TOKENS)], 8, table)


@pytest.mark.parametrize("family", FAMILIES)
def test_paged_steps_follow_transformers(family, tmp_path):
    from transformers import AutoModelForCausalLM

    model = load_hf(saved(tmp_path, family))
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        want = reference(input_ids=torch.tensor([TOKENS])).logits[0].numpy()
    got = logits_of(model, model.native_precision)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_weights_are_quantised_when_they_are_loaded(tmp_path):
    model = load_hf(saved(tmp_path, "qwen3"))
    whole = logits_of(model, model.native_precision)
    errors = []
    for form in ("q8_0", "q4_0"):
        held = Precision(name=form, weights=form, activations="f32", cache="f32", matmul="f32")
        weights = model.bind(held)
        assert weights["layers.0.attn.q"].dtype == "ui8"
        errors.append(np.abs(logits_of(model, held) - whole).max() / np.abs(whole).max())
    assert 0 < errors[0] < errors[1] < 0.5
    assert errors[0] < 0.02
    read_only = Precision(name="q4_K", weights="q4_K", activations="f32", cache="f32", matmul="f32")
    with pytest.raises(UnsupportedError, match="q4_K"):
        model.bind(read_only)


def test_an_architecture_builders_do_not_know_has_no_paged_steps(tmp_path):
    assert load_hf(saved(tmp_path, "gpt_neox")).step is None
