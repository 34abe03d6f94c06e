"""Two targets held against each other: instrumented modules, errors, and what a text says."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_xla import QuickXla

import anychip
from anychip.core import CompileOptions, InputError, Module, UsageError, Weight, Weights
from anychip.debug import diff_language, diff_module, instrument, made_up
from anychip.debug.errors import Distance
from anychip.debug.language import LanguageOutput
from anychip.ops.interp import evaluate


@jax.jit
def layer(x, w):
    with jax.named_scope("fc"):
        x = x @ w
    with jax.named_scope("act"):
        return jnp.tanh(x)


def model(x, w):
    for i in range(3):
        with jax.named_scope(f"layers.{i}"):
            x = layer(x, w)
    return x, jnp.argmax(x, axis=-1)


X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)


def module() -> Module:
    return Module.from_mlir(jax.jit(model).lower(X, W).compiler_ir(), name="mlp")


@dataclass(frozen=True)
class Plain:
    """A target that evaluates; `wrong` multiplies every result of `op` in layers named `at`."""

    name: str = "plain:interp"
    runs: bool = True
    toolchain: str = "test"
    op: str = ""
    at: str = ""
    wrong: float = 1.0

    def compile(self, module, options):
        return Evaluated(module, self)


class Evaluated:
    def __init__(self, module, target):
        self.signature, self.coverage, self.artifacts = module.signature, None, {}
        self._module, self._target = module, target

    def run(self, *inputs):
        def after(op, origin, operands, results):
            if op.name == self._target.op and origin.layer.startswith(self._target.at):
                return tuple(r * np.float32(self._target.wrong) for r in results)
            return None

        given = iter(inputs)
        arrays = [
            self._module.weights[a.name].array() if a.role == "weight" else next(given)
            for a in self.signature.arguments
        ]
        return evaluate(self._module, *arrays, after=after)

    def trace(self, *inputs):
        raise AssertionError("a comparison runs its targets; it asks for no trace")


def test_an_instrumented_module_gives_its_results_and_then_its_layers():
    made, probes = instrument(module())
    assert [p.origin.layer for p in probes] == [
        f"layers.{i}/{part}" for i in range(3) for part in ("fc", "act")
    ]
    own = evaluate(module(), X, W)
    both = evaluate(made, X, W)
    assert len(both) == len(own) + 6
    for mine, same in zip(own, both, strict=False):
        np.testing.assert_array_equal(mine, same)
    x = X
    for i in range(3):
        np.testing.assert_allclose(both[2 + 2 * i], x @ W, rtol=1e-4, atol=1e-5)
        x = np.tanh(x @ W)
        np.testing.assert_allclose(both[3 + 2 * i], x, rtol=1e-4, atol=1e-5)


def test_equal_targets_have_no_divergence_and_no_noise():
    found = diff_module(module(), Plain(), Plain("other:interp"), [X, W])
    assert found.first_divergence is None
    assert all(one.max_abs == one.rel == 0 and one.sqnr_db is None for one in found.layers)
    assert [one.top1_agreement for one in found.outputs] == [1.0, None]


def test_the_first_wrong_layer_is_named_with_its_source():
    bad = Plain("bad:interp", op="stablehlo.tanh", at="layers.1", wrong=1.01)
    found = diff_module(module(), Plain(), bad, [X, W])
    first = found.first_divergence
    assert first is not None
    assert (first.layer, first.op) == ("layers.1/act", "stablehlo.tanh")
    assert first.rel == pytest.approx(0.01, rel=1e-3)
    assert first.sqnr_db == pytest.approx(40.0, abs=0.1)
    assert [one.rel > 0 for one in found.layers] == [False] * 3 + [True] * 3
    assert "test_diff.py" in first.source


def test_json_has_the_agreed_shape_and_no_infinity():
    bad = Plain("bad:interp", op="stablehlo.tanh", at="layers.1", wrong=math.inf)
    document = diff_module(module(), Plain(), bad, [X, W]).to_json()
    text = json.dumps(document, allow_nan=False)
    assert {"a", "b", "layers", "first_divergence", "output"} <= set(json.loads(text))
    assert {"layer", "source", "max_abs", "rel", "sqnr_db"} <= set(document["layers"][0])


def test_without_layers_the_program_is_left_as_it_is():
    found = diff_module(module(), Plain(), Plain("b:interp"), [X, W], layers=False)
    assert found.layers == ()
    assert len(found.outputs) == 2


def test_a_target_that_does_not_run_is_refused():
    with pytest.raises(UsageError, match="does not run here"):
        diff_module(module(), Plain(), Plain("c:interp", runs=False), [X, W])


def test_distances_add_up_over_runs():
    random = np.random.default_rng(2)
    a = random.normal(size=(3, 50))
    b = a + random.normal(size=(3, 50)) * 1e-3
    whole, parts = Distance(), Distance()
    whole.add(a, b)
    for x, y in zip(a, b, strict=True):
        parts.add(x, y)
    assert parts.rel == pytest.approx(whole.rel) == np.linalg.norm(a - b) / np.linalg.norm(a)
    assert parts.max_abs == whole.max_abs == np.abs(a - b).max()
    nan = Distance()
    nan.add(np.array([np.nan, 1.0]), np.array([np.nan, 1.0]))
    assert nan.rel == 0
    nan.add(np.array([1.0]), np.array([np.nan]))
    assert nan.rel == nan.max_abs == math.inf


def test_perplexity_and_agreement_are_what_their_definitions_say():
    random = np.random.default_rng(3)
    tokens = random.integers(0, 11, 9)
    a = random.normal(size=(9, 11)).astype(np.float32)
    b = a + random.normal(size=(9, 11)).astype(np.float32) * 0.3
    odds = [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (a, b)]
    nll = [-np.log(p[np.arange(8), tokens[1:]]) for p in odds]
    found = LanguageOutput.empty().with_window(tokens, a, b)
    assert found.positions == 8
    assert found.perplexity_a == pytest.approx(np.exp(nll[0].mean()), rel=1e-5)
    assert found.perplexity_b == pytest.approx(np.exp(nll[1].mean()), rel=1e-5)
    assert found.top1_agreement == (a[:8].argmax(-1) == b[:8].argmax(-1)).mean()
    ordered = np.sort(a[:8], axis=-1)
    assert found.margin == pytest.approx((ordered[:, -1] - ordered[:, -2]).mean(), rel=1e-5)
    kl = (odds[0] * np.log(odds[0] / odds[1])).sum(-1)[:8].mean()
    assert found.divergence == pytest.approx(kl, rel=1e-4)
    twice = found.with_window(tokens, a, b)
    assert twice.positions == 16
    assert twice.perplexity_b == pytest.approx(found.perplexity_b)
    assert twice.logit_rms == pytest.approx(found.logit_rms)


def tiny_model():
    from anychip.frontends.llm.config import TransformerConfig
    from anychip.frontends.llm.model import language_model
    from anychip.frontends.llm.rope import Rope
    from anychip.frontends.llm.weights import weight_specs

    config = TransformerConfig(
        family="test",
        layers=2,
        hidden=32,
        heads=2,
        kv_heads=1,
        head_dim=16,
        ffn=64,
        vocabulary=48,
        context=64,
        rope=Rope(theta=1e4),
        norm_eps=1e-5,
    )

    def bind(precision):
        random = np.random.default_rng(0)
        values = [
            (a, (random.normal(size=a.shape) * 0.2).astype(np.float32))
            for spec in weight_specs(config, precision)
            for a in spec.arguments
        ]
        return Weights(
            tuple(Weight(a.name, a.shape, a.dtype, read=lambda v=v: v) for a, v in values)
        )

    return language_model(config, name="tiny", source="test", bind=bind)


def test_a_language_model_is_scored_at_every_position():
    from anychip.frontends.llm import PRECISIONS

    model, f32 = tiny_model(), PRECISIONS["f32"]
    tokens = np.arange(20) * 7 % 48
    bad = Plain("bad:interp", op="stablehlo.dot_general", at="layers.1", wrong=1.1)
    found = diff_language(model, Plain(), bad, tokens, precision=f32, window=8)
    assert found.language is not None
    assert found.language.positions == 2 * 7
    assert found.first_divergence is not None
    assert found.first_divergence.layer.startswith("layers.1")
    assert found.language.perplexity_a != found.language.perplexity_b
    short = diff_language(model, Plain(), bad, tokens[:7], precision=f32)
    assert short.language is not None
    assert short.language.positions == 6
    with pytest.raises(UsageError, match="shorter window"):
        diff_language(model, Plain(), bad, tokens[:7], precision=f32, window=8)


def test_logits_of_every_position_are_those_of_prefixes():
    from anychip.frontends.llm import PRECISIONS

    model, f32 = tiny_model(), PRECISIONS["f32"]
    weights = model.bind(f32)
    tokens = (np.arange(6, dtype=np.int32) * 5 % 48)[None]

    def logits(module, tokens):
        inputs = made_up(module.with_weights(weights), given={"tokens": tokens})
        inputs = [x if x.dtype == np.int32 else np.zeros_like(x) for x in inputs]
        executable = QuickXla().compile(module.with_weights(weights), CompileOptions())
        return np.asarray(executable.run(*inputs)[0])

    every = logits(model.score(1, 6, f32), tokens)
    assert every.shape == (1, 6, 48)
    for length in (1, 4, 6):
        last = logits(model.prefill(1, length, 6, f32), tokens[:, :length])
        np.testing.assert_allclose(every[:, length - 1], last, rtol=1e-4, atol=1e-5)


def test_the_library_call_refuses_what_does_not_apply():
    with pytest.raises(UsageError, match="no language model"):
        anychip.diff(module(), "cpu:xla", "cpu:xla", text="hello")
    with pytest.raises(UsageError, match="takes 2 inputs, got 3"):
        anychip.diff(module(), "cpu:xla", "cpu:xla", [X, W, X])
    with pytest.raises(UsageError, match="arg9"):
        anychip.diff(module(), "cpu:xla", "cpu:xla", {"arg9": X})
    bare = replace(module(), weights=Weights((Weight("w", (2, 2), "f32"),)))
    with pytest.raises(InputError, match="shape only"):
        diff_module(bare, Plain(), Plain("b:interp"), [X, W])
