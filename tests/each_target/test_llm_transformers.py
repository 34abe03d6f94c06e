"""Our builders against Hugging Face transformers: tiny models of each family, same weights, f32.

Compiled for cpu:xla, prefill and decode with cache; logits to 1e-4 of their largest magnitude.
"""

import warnings

import numpy as np
import pytest
from quick_xla import QuickXla

from anychip.core import CompileOptions, Weights
from anychip.frontends.llm import MLA, PRECISIONS, MoE, Rope, TransformerConfig
from anychip.frontends.llm.mla import is_absorbed
from anychip.frontends.llm.transformer import build_step
from anychip.frontends.llm.weights import cache_specs, weight_specs

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

BATCH, PIECE, STEPS, CONTEXT = 2, 5, 6, 16
SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
}
OURS = {
    "layers": 3,
    "hidden": 32,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "ffn": 48,
    "vocabulary": 97,
    "context": 64,
    "norm_eps": 1e-6,
    "rope": Rope(theta=10000.0),
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 8.0, "beta_slow": 1.0}

FAMILIES = {
    "llama": (
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "original_max_position_embeddings": 32,
                **LLAMA3,
            }
        },
        {"rope": Rope(theta=10000.0, scaling="llama3", factor=8.0, original_context=32)},
    ),
    "mistral": (
        {"sliding_window": 4},
        {"window": 4},
    ),
    "qwen3": (
        {"head_dim": 16, "tie_word_embeddings": True},
        {"head_dim": 16, "qk_norm": True, "tied_embeddings": True},
    ),
    "mixtral": (
        {"num_local_experts": 5, "num_experts_per_tok": 2, "rms_norm_eps": 1e-6},
        {"moe": MoE(experts=5, active=2, ffn=48), "ffn": 0, "rope": Rope(theta=1e6)},
    ),
    "qwen3_moe": (
        {
            "head_dim": 8,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
        },
        {"qk_norm": True, "moe": MoE(experts=5, active=2, ffn=24), "ffn": 0},
    ),
    "gpt_oss": (
        {
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 4,
            "rms_norm_eps": 1e-6,
            "swiglu_limit": 1.0,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "truncate": False,
                **YARN,
            },
        },
        {
            "qkv_bias": True,
            "output_bias": True,
            "sinks": True,
            "window": 4,
            "global_every": 2,
            "activation": "clamped_silu",
            "activation_limit": 1.0,
            "ffn": 0,
            "moe": MoE(experts=4, active=2, ffn=48, router_bias=True, expert_bias=True),
            "rope": Rope(
                theta=10000.0,
                scaling="yarn",
                factor=4.0,
                original_context=16,
                beta_fast=8.0,
                truncate=False,
            ),
        },
    ),
    "deepseek_v3": (
        {
            "num_key_value_heads": 4,
            "moe_intermediate_size": 24,
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "num_experts_per_tok": 2,
            "n_group": 4,
            "topk_group": 2,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 2.5,
            "norm_topk_prob": True,
            "q_lora_rank": 16,
            "kv_lora_rank": 12,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 6,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                **YARN,
            },
        },
        {
            "kv_heads": 4,
            "mla": MLA(kv_rank=12, nope_dim=8, rope_dim=4, value_dim=6, q_rank=16),
            "moe": MoE(
                experts=8,
                active=2,
                ffn=24,
                shared_ffn=48,
                first_dense=1,
                scoring="sigmoid",
                route_scale=2.5,
                groups=4,
                active_groups=2,
                score_correction=True,
            ),
            "rope": Rope(
                theta=10000.0,
                interleaved=True,
                scaling="yarn",
                factor=4.0,
                original_context=16,
                beta_fast=8.0,
                mscale=1.0,
                mscale_all_dim=1.0,
            ),
        },
    ),
    "gemma3_text": (
        {
            "head_dim": 8,
            "sliding_window": 4,
            "query_pre_attn_scalar": 16,
            "final_logit_softcapping": 3.0,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            },
        },
        {
            "activation": "gelu_tanh",
            "norm_offset": 1.0,
            "post_norms": True,
            "qk_norm": True,
            "attention_scale": 0.25,
            "logit_softcap": 3.0,
            "embedding_scale": 32**0.5,
            "tied_embeddings": True,
            "window": 4,
            "global_every": 2,
            "rope": Rope(theta=1e6, scaling="linear", factor=8.0),
            "window_rope": Rope(theta=10000.0),
        },
    ),
}
OUTSIDE = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "attn.q_down": "self_attn.q_a_proj",
    "attn.q_down_norm": "self_attn.q_a_layernorm",
    "attn.q_up": "self_attn.q_b_proj",
    "attn.kv_down": "self_attn.kv_a_proj_with_mqa",
    "attn.kv_norm": "self_attn.kv_a_layernorm",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
    "moe.shared.gate": "mlp.shared_experts.gate_proj",
    "moe.shared.up": "mlp.shared_experts.up_proj",
    "moe.shared.down": "mlp.shared_experts.down_proj",
    "moe.router": "mlp.gate",
}
RENAMED = {
    "gemma3_text": {
        "attn_post_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "ffn_post_norm": "post_feedforward_layernorm",
    },
    "gpt_oss": {"moe.router": "mlp.router"},
}


@pytest.fixture(scope="module")
def reference():
    """Makes a random transformers model: family → model."""
    placeholders = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):  # torchvision wants ops that the CPU build of torch lacks
        if not hasattr(torch.ops.torchvision, name):
            placeholders.define(f"{name}() -> ()")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoConfig, AutoModelForCausalLM

    def make(family):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family][0]})
            model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if "norm" in name:  # so that a forgotten norm or offset shows
                    tensor.add_(torch.randn_like(tensor) * 0.3)
                else:
                    tensor.copy_(torch.randn_like(tensor) * 0.3)
        return model

    yield make
    del placeholders  # the ops live as long as this does


def tensor(family, state, name):
    """One of our weights out of a transformers state dict."""
    if name in OUTSIDE:
        return state[f"{OUTSIDE[name]}.weight"]
    _, layer, short = name.split(".", 2)
    at = f"model.layers.{layer}."
    names = {**NAMES, **RENAMED.get(family, {})}
    if short in names:
        return state[f"{at}{names[short]}.weight"]
    if short.endswith(".bias") and short.removesuffix(".bias") in names:
        return state[f"{at}{names[short.removesuffix('.bias')]}.bias"]
    if short == "attn.sinks":
        return state[f"{at}self_attn.sinks"]
    if short == "moe.router.correction":
        return state[f"{at}mlp.gate.e_score_correction_bias"]
    if short in ("attn.k_up", "attn.v_up"):
        mla = FAMILIES[family][1]["mla"]
        both = state[f"{at}self_attn.kv_b_proj.weight"]
        both = both.reshape(OURS["heads"], mla.nope_dim + mla.value_dim, mla.kv_rank)
        keys, values = both[:, : mla.nope_dim], both[:, mla.nope_dim :]
        return keys.swapaxes(1, 2) if short == "attn.k_up" else values
    return experts(family, state, at, short)


def experts(family, state, at, short):
    part, _, bias = short.removeprefix("moe.").partition(".")
    if part == "down":
        down = state[f"{at}mlp.experts.down_proj{'_bias' if bias else ''}"]
        return down.swapaxes(1, 2) if family == "gpt_oss" and not bias else down
    both = state[f"{at}mlp.experts.gate_up_proj{'_bias' if bias else ''}"]
    if family == "gpt_oss":  # columns alternate: gate, up, gate, up
        mine = both[..., 0 if part == "gate" else 1 :: 2]
        return mine if bias else mine.swapaxes(1, 2)
    half = both.shape[1] // 2
    return both[:, :half] if part == "gate" else both[:, half:]


def our_model(family, model):
    """Config and weights of our side."""
    config = TransformerConfig(family=family, **{**OURS, **FAMILIES[family][1]})
    state = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    specs = weight_specs(config, PRECISIONS["f32"])
    arrays = {s.name: np.ascontiguousarray(tensor(family, state, s.name)) for s in specs}
    return config, Weights.from_arrays(arrays)


def compiled(config, weights, length):
    module = build_step(
        config,
        name="tiny",
        batch=BATCH,
        length=length,
        context=CONTEXT,
        precision=PRECISIONS["f32"],
        weights=weights,
    )
    return QuickXla().compile(module.with_weights(weights), CompileOptions())


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens.astype(np.int64)), use_cache=False).logits.numpy()


def empty_state(config):
    specs = cache_specs(config, BATCH, CONTEXT, PRECISIONS["f32"])
    return [np.zeros(s.shape, np.float32) for s in specs]


def relative(logits, expected):
    return np.abs(np.asarray(logits) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("family", FAMILIES)
def test_prefill_and_six_decode_steps_equal_transformers(family, reference):
    model = reference(family)
    config, weights = our_model(family, model)
    prefill, decode = compiled(config, weights, PIECE), compiled(config, weights, 1)
    shape = (BATCH, 2 * PIECE + STEPS)
    tokens = np.random.default_rng(1).integers(0, config.vocabulary, shape).astype(np.int32)
    theirs, state, at = logits_of(model, tokens), empty_state(config), 0
    # The second prefill goes on from the caches of the first; both are longer than the windows.
    for executable, length in ((prefill, PIECE), (prefill, PIECE), *[(decode, 1)] * STEPS):
        start = np.full(BATCH, at, np.int32)
        logits, *state = executable.run(*state, tokens[:, at : at + length], start)
        at += length
        worst = relative(logits, theirs[:, at - 1])
        assert worst < 1e-4, f"{family}, after {at} tokens: {worst:.2e}"


def test_latent_attention_expands_keys_and_values_for_a_long_prefill(reference):
    model = reference("deepseek_v3")
    config, weights = our_model("deepseek_v3", model)
    assert not is_absorbed(config.mla, CONTEXT, CONTEXT)
    assert is_absorbed(config.mla, 1, CONTEXT)
    tokens = np.random.default_rng(1).integers(0, 97, (BATCH, CONTEXT)).astype(np.int32)
    start = np.zeros(BATCH, np.int32)
    logits, *_ = compiled(config, weights, CONTEXT).run(*empty_state(config), tokens, start)
    assert relative(logits, logits_of(model, tokens)[:, -1]) < 1e-4


def test_sequences_of_a_batch_may_stand_at_different_positions(reference):
    model = reference("gpt_oss")
    config, weights = our_model("gpt_oss", model)
    decode = compiled(config, weights, 1)
    tokens = np.random.default_rng(2).integers(0, 97, (BATCH, 9)).astype(np.int32)
    theirs, state = logits_of(model, tokens), empty_state(config)
    lag = 3  # the second sequence starts three steps later, over what the first steps left
    for step in range(9):
        start = np.array([step, max(step - lag, 0)], np.int32)
        fed = np.array([[tokens[0, start[0]]], [tokens[1, start[1]]]], np.int32)
        logits, *state = decode.run(*state, fed, start)
        expected = np.stack([theirs[0, start[0]], theirs[1, start[1]]])
        assert relative(logits, expected) < 1e-4


@pytest.mark.parametrize(
    ("rope", "theirs"),
    [
        (
            Rope(theta=5e5, scaling="llama3", factor=8.0, original_context=8192),
            {"rope_type": "llama3", "original_max_position_embeddings": 8192, **LLAMA3},
        ),
        (
            Rope(
                theta=150000.0, scaling="yarn", factor=32.0, original_context=4096, truncate=False
            ),
            {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}
            | {"truncate": False},
        ),
        (
            Rope(theta=1e4, scaling="yarn", factor=40.0, original_context=4096),
            {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096},
        ),
        (Rope(theta=1e6, scaling="linear", factor=8.0), {"rope_type": "linear", "factor": 8.0}),
    ],
)
def test_published_rope_scalings_give_the_frequencies_of_transformers(rope, theirs, reference):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {"rope_theta": rope.theta, **theirs}
    config = LlamaConfig(head_dim=64, max_position_embeddings=131072, rope_parameters=parameters)
    frequencies, amplitude = ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config)
    np.testing.assert_allclose(rope.inverse_frequencies(64), frequencies.numpy(), rtol=2e-6)
    assert rope.attention_factor(latent=False) == pytest.approx(amplitude**2)
