"""The same tiny models in every weight format: equal to f32 on the dequantised weights, and close
to f32 on the original ones.
"""

from dataclasses import replace

import numpy as np
import pytest
from quick_xla import QuickXla

from anychip.compilers.cache import Cache
from anychip.core import CompileOptions, Precision, UsageError, Weights, dtype
from anychip.core.blocks import BLOCK_FORMATS
from anychip.frontends.llm import MLA, PRECISIONS, MoE, Rope, TransformerConfig
from anychip.frontends.llm.encode import decode, encode
from anychip.frontends.llm.transformer import build_step
from anychip.frontends.llm.weights import cache_specs, weight_specs
from anychip.ops.composites import composite_of
from anychip.ops.walk import walk

LLAMA = TransformerConfig(
    family="llama",
    layers=2,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=32,
    ffn=128,
    vocabulary=96,
    context=64,
    rope=Rope(theta=10000.0),
    norm_eps=1e-5,
    qkv_bias=True,
)
MIXED = replace(
    LLAMA,
    layers=2,
    kv_heads=4,
    qkv_bias=False,
    mla=MLA(kv_rank=64, nope_dim=32, rope_dim=16, value_dim=32),
    moe=MoE(experts=4, active=2, ffn=64, shared_ffn=64, first_dense=1, scoring="sigmoid"),
)
MODELS = {"llama": LLAMA, "mla-moe": MIXED}
F32 = PRECISIONS["f32"]
READ_ONLY = [name for name, form in BLOCK_FORMATS.items() if form.pack is None]


def random_weights(config):
    """f32 weights by name, at the scale of a trained model."""
    random = np.random.default_rng(5)
    arrays = {}
    for spec in weight_specs(config, F32):
        spread = random.normal(size=spec.shape).astype(np.float32)
        arrays[spec.name] = (
            1 + 0.2 * spread if spec.kind == "norm" else spread / spec.shape[-1] ** 0.5
        )
    return arrays


def held(config, precision, values, stored=None):
    """(weights as the precision's arguments take them, f32 weights that mean the same)."""
    arguments, meant = {}, {}
    for spec in weight_specs(config, precision, stored):
        arrays = encode(spec, values[spec.name])
        arguments |= {a.name: x for a, x in zip(spec.arguments, arrays, strict=True)}
        meant[spec.name] = decode(spec, arrays)
    return Weights.from_arrays(arguments), Weights.from_arrays(meant)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """The f32 programs are compiled once, whatever their weights."""
    return QuickXla(cache=Cache(tmp_path_factory.mktemp("cache")))


def logits(target, config, precision, weights, stored=None):
    """Logits of two sequences of three tokens."""
    sizes = {"batch": 2, "length": 3, "context": 8}
    module = build_step(config, name="tiny", **sizes, precision=precision, stored=stored)
    executable = target.compile(module.with_weights(weights), CompileOptions())
    state = [np.zeros(a.shape, dtype(a.dtype).numpy) for a in cache_specs(config, 2, 8, precision)]
    tokens = np.random.default_rng(6).integers(0, config.vocabulary, (2, 3)).astype(np.int32)
    return np.asarray(executable.run(*state, tokens, np.zeros(2, np.int32))[0])


def distance(a, b):
    """Root mean square of the difference over that of b."""
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


@pytest.mark.parametrize(
    ("model", "form"),
    [
        *(("llama", form) for form in ("f16", "f8E4M3FN", "i8", "q4_0", "q8_0", "nvfp4")),
        *(("mla-moe", form) for form in ("f16", "f8E4M3FN", "mxfp4", "nvfp4")),
    ],
)
def test_a_weight_format_computes_what_its_dequantised_weights_say(target, model, form):
    config = MODELS[model]
    values = random_weights(config)
    precision = Precision(name="w", weights=form, activations="f32", cache="f32", matmul="f32")
    weights, meant = held(config, precision, values)
    got, expected = logits(target, config, precision, weights), logits(target, config, F32, meant)
    assert distance(got, expected) < 2e-5
    assert distance(got, logits(target, config, F32, held(config, F32, values)[0])) > 1e-4


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("bf16", 0.02),
        ("f16", 0.005),
        ("fp8", 0.15),
        ("int8", 0.06),
        ("int8-weights", 0.06),
        ("mxfp8", 0.15),
        ("mxint8", 0.05),
        ("mxfp4", 0.5),
        ("mxint4", 0.5),
        ("nvfp4", 0.5),
        ("mxfp4-experts", 0.15),
        ("q4_0", 0.5),
        ("q4_1", 0.5),
        ("q8_0", 0.04),
    ],
)
def test_every_precision_runs_and_stays_near_f32(target, name, most):
    values = random_weights(MIXED)
    precision = PRECISIONS[name]
    got = logits(target, MIXED, precision, held(MIXED, precision, values)[0])
    expected = logits(target, MIXED, F32, held(MIXED, F32, values)[0])
    assert distance(got, expected) < most
    assert got.dtype == np.float32


def test_stored_takes_each_tensor_as_its_file_has_it(target):
    values = random_weights(LLAMA)
    names = [s.name for s in weight_specs(LLAMA, F32)]
    own = {"embed": "q4_1", "head": "q8_0", "layers.1.attn.v": "q8_0", "layers.0.ffn.up": "bf16"}
    stored = {n: own.get(n, "q4_0" if values[n].ndim == 2 else "f32") for n in names}
    precision = PRECISIONS["stored"]
    weights, meant = held(LLAMA, precision, values, stored)
    got = logits(target, LLAMA, precision, weights, stored)
    assert distance(got, logits(target, LLAMA, F32, meant)) < 2e-5


@pytest.mark.parametrize("form", READ_ONLY)
def test_formats_that_are_only_read_multiply_too(target, form):
    config = replace(LLAMA, layers=1, hidden=256, ffn=256, heads=8)
    block = BLOCK_FORMATS[form]
    random = np.random.default_rng(8)
    arguments, meant, stored = {}, {}, {}
    for spec in weight_specs(config, F32):
        values = random.normal(size=spec.shape).astype(np.float32) / 16
        stored[spec.name] = "f32"
        if spec.kind == "linear":
            raw = random.integers(0, 256, (*spec.shape[:-1], block.row_bytes(256)), dtype=np.uint8)
            halves = {"q6_K": [208], "q5_0": [0]}.get(form, [0, 2])
            shaped = raw.reshape(*spec.shape[:-1], -1, block.nbytes)
            for at in halves:  # small scales: 2^-14 … 2^-10
                shaped[..., at + 1] = shaped[..., at + 1] & 0x0F
            raw = shaped.reshape(raw.shape)
            stored[spec.name], arguments[spec.name] = form, raw
            meant[spec.name] = block.dequantize(raw)
        else:
            arguments[spec.name] = meant[spec.name] = values
    got = logits(target, config, PRECISIONS["stored"], Weights.from_arrays(arguments), stored)
    expected = logits(target, config, F32, Weights.from_arrays(meant))
    assert distance(got, expected) < 2e-5


def test_activations_are_rounded_where_the_precision_multiplies_in_another_format():
    module = build_step(
        MIXED, name="t", batch=1, length=1, context=8, precision=PRECISIONS["mxfp4"]
    )
    attributes = [
        s.op.attributes["composite_attributes"]
        for s in walk(module)
        if composite_of(s.op) and "quantized" in composite_of(s.op).name
    ]
    assert attributes
    assert {(a["format"], a["activation"]) for a in attributes} == {("mxfp4", "mxfp8")}
    odd = replace(PRECISIONS["mxfp4"], matmul="i8")
    with pytest.raises(UsageError, match="multiplies in i8, but"):
        build_step(MIXED, name="t", batch=1, length=1, context=8, precision=odd)
