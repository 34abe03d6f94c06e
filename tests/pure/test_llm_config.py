"""frontends/llm config, rope and weights: facts that contradict each other are refused by name."""

from dataclasses import replace

import numpy as np
import pytest

from anychip.core import InputError, UnsupportedError, UsageError
from anychip.frontends.llm import MLA, PRECISIONS, MoE, Rope, TransformerConfig
from anychip.frontends.llm.mla import is_absorbed
from anychip.frontends.llm.weights import cache_specs, facts, weight_specs

TINY = TransformerConfig(
    family="tiny",
    layers=6,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    ffn=96,
    vocabulary=100,
    context=128,
    rope=Rope(theta=10000.0),
    norm_eps=1e-5,
)
EXPERTS = MoE(experts=8, active=2, ffn=32, first_dense=1)
LATENT = MLA(kv_rank=32, nope_dim=8, rope_dim=4, value_dim=8)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"layers": 0}, "layers"),
        ({"window": -1}, "window"),
        ({"kv_heads": 3}, "kv_heads"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"ffn": 0}, "ffn"),
        ({"ffn": 0, "moe": EXPERTS}, "ffn"),
        ({"activation": "clamped_silu"}, "activation_limit"),
        ({"activation_limit": 7.0}, "activation_limit"),
        ({"global_every": 2}, "window"),
        ({"mla": LATENT, "qk_norm": True}, "mla"),
        ({"rope": Rope(theta=1e4, dim=18)}, r"rope\.dim"),
        ({"moe": replace(EXPERTS, active=9)}, r"moe\.active"),
        ({"moe": replace(EXPERTS, groups=3)}, r"moe\.groups"),
        ({"moe": replace(EXPERTS, groups=4, active_groups=5)}, r"moe\.active_groups"),
    ],
)
def test_contradictions_name_the_field(changes, field):
    with pytest.raises(InputError, match=rf"^{field}: "):
        replace(TINY, **changes)


def test_layers_are_global_window_dense_or_moe_where_the_config_says():
    config = replace(TINY, window=8, global_every=3, window_rope=Rope(theta=99.0), moe=EXPERTS)
    assert [config.kind(i) for i in range(6)] == ["window", "window", "global"] * 2
    assert [config.rope_of(i).theta for i in (0, 2)] == [99.0, 10000.0]
    assert [config.is_moe(i) for i in (0, 1)] == [False, True]
    assert replace(TINY, window=8).kind(5) == "window"
    names = {s.name for s in weight_specs(config, PRECISIONS["f32"])}
    assert {"layers.0.ffn.up", "layers.1.moe.up"} < names
    assert not {"layers.0.moe.up", "layers.1.ffn.up"} & names


def test_facts_count_every_parameter_and_those_of_one_token():
    config = replace(TINY, layers=1, moe=replace(EXPERTS, first_dense=0))
    attention = 64 * (64 + 32 + 32) + 64 * 64
    router, expert, norms, table = 8 * 64, 3 * 32 * 64, 3 * 64, 100 * 64
    counted = facts(config)
    assert counted.parameters == 2 * table + attention + router + 8 * expert + norms
    assert counted.active_parameters == table + attention + router + 2 * expert + norms
    assert facts(replace(config, tied_embeddings=True)).active_parameters == (
        counted.active_parameters
    )


def test_formats_follow_the_kind_of_weight():
    config = replace(TINY, moe=EXPERTS)
    by_name = {s.name: s for s in weight_specs(config, PRECISIONS["mxfp4-experts"])}
    assert by_name["layers.1.moe.up"].format == "mxfp4"
    assert by_name["layers.1.attn.q"].format == by_name["head"].format == "bf16"
    fp8 = {s.name: s for s in weight_specs(config, PRECISIONS["fp8"])}
    assert [a.name for a in fp8["layers.0.attn.q"].arguments] == [
        "layers.0.attn.q",
        "layers.0.attn.q.scale",
    ]
    assert fp8["layers.1.moe.up"].arguments[1].shape == (8, 32)
    assert fp8["embed"].format == "bf16"
    with pytest.raises(UsageError, match="no weight format named 'q3'"):
        weight_specs(TINY, replace(PRECISIONS["bf16"], weights="q3"))
    with pytest.raises(InputError, match=r"layers\.0\.attn_norm: the file has no such tensor"):
        weight_specs(TINY, PRECISIONS["stored"], {"embed": "q8_0"})


def test_caches_are_floats_of_the_contexts_length():
    shapes = [s.shape for s in cache_specs(replace(TINY, window=8), 3, 32, PRECISIONS["f32"])]
    assert shapes == [(3, 2, 8, 16)] * 12
    short = cache_specs(replace(TINY, window=8), 3, 4, PRECISIONS["f32"])
    assert short[0].shape == (3, 2, 4, 16)
    with pytest.raises(UsageError, match="use a float element type"):
        cache_specs(TINY, 1, 8, replace(PRECISIONS["f32"], cache="i8"))


def test_rope_refuses_what_no_model_does():
    with pytest.raises(InputError, match=r"rope\.original_context: yarn needs it"):
        Rope(theta=1e4, scaling="yarn", factor=4.0)
    with pytest.raises(InputError, match="3 factors for 8 frequencies"):
        Rope(theta=1e4, frequency_factors=(1.0, 2.0, 3.0)).inverse_frequencies(16)
    unequal = Rope(theta=1e4, scaling="yarn", factor=4.0, original_context=64, mscale=1.0)
    with pytest.raises(UnsupportedError, match="give equal values"):
        unequal.attention_factor(latent=True)


def test_frequency_factors_are_llama_scalings_other_spelling():
    plain = Rope(theta=5e5).inverse_frequencies(64)
    scaled = Rope(theta=5e5, scaling="llama3", factor=8.0, original_context=8192)
    factors = tuple(float(f) for f in plain / scaled.inverse_frequencies(64))
    again = Rope(theta=5e5, frequency_factors=factors).inverse_frequencies(64)
    np.testing.assert_allclose(again, scaled.inverse_frequencies(64), rtol=1e-6)
    assert factors[0] == pytest.approx(1)
    assert factors[-1] == pytest.approx(8)


def test_deepseek_decodes_absorbed_and_prefills_expanded():
    mla = MLA(kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128, q_rank=1536)
    assert is_absorbed(mla, 1, 4096)
    assert is_absorbed(mla, 4, 4096)
    assert not is_absorbed(mla, 4096, 4096)
