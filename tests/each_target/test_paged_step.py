"""Steps over pages give the numbers of prefill and decode: every kind of layer that has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from quick_xla import QuickXla

from anychip.core import CompileOptions, InputError, PagedShape, UsageError, dtype
from anychip.frontends.llm import MLA, PRECISIONS, MoE

CONTEXT = 64
KINDS = {
    "plain": {},
    "window": {"window": 5, "global_every": 2},
    "sinks": {"sinks": True, "qk_norm": True, "tied_embeddings": True, "window": 4},
    "experts": {"moe": MoE(experts=5, active=2, ffn=48), "ffn": 0},
}
SHAPES = {
    "cpu:xla": PagedShape(tokens=12, rows=3, sequences=3, pages=9, page_tokens=4, table=4),
    "cpu:native": PagedShape(tokens=40, rows=3, sequences=3, pages=9, page_tokens=16, table=4),
}


def run(executable, state, **inputs):
    values = {**state, **inputs}
    arguments = [a for a in executable.signature.arguments if a.role != "weight"]
    outputs = executable.run(*(values[a.name] for a in arguments))
    named = {
        r.updates or r.name: o for r, o in zip(executable.signature.results, outputs, strict=True)
    }
    logits = np.array(named.pop("logits"))
    return logits, named


def blank(module):
    return {
        a.name: np.zeros([int(d) for d in a.shape], dtype(a.dtype).numpy)
        for a in module.signature.named("state")
    }


def unpaged(model, target, precision, tokens, count, context=CONTEXT):
    """Logits f32[count, vocabulary] after each of the last `count` tokens."""
    module = model.decode(1, context, precision).with_weights(model.bind(precision))
    executable, state, out = target.compile(module, CompileOptions()), blank(module), []
    for at, token in enumerate(tokens):
        logits, state = run(
            executable,
            state,
            tokens=np.array([[token]], np.int32),
            start=np.array([at], np.int32),
        )
        out.append(logits[0])
    return np.array(out[-count:])


def paged(model, target, precision, sequences, threads=None):
    """The last logits of each sequence, their tokens spread over two steps and scattered pages."""
    shape = SHAPES[target.name]
    module = model.step(shape, precision).with_weights(model.bind(precision))
    executable = target.compile(module, CompileOptions(threads=threads))
    state = blank(module)
    table = np.array([[7, 2, 5, 8], [1, 0, 8, 8], [8, 8, 8, 8]], np.int32)
    first = [(s, p) for s, tokens in enumerate(sequences) for p in range(len(tokens) - 2)]
    second = [(s, len(t) - 2) for s, t in enumerate(sequences)]
    last = [(s, len(t) - 1) for s, t in enumerate(sequences)]
    for cells in (first, [*second, *last]):
        padded = [(2, 0)] * (shape.tokens - len(cells)) + cells
        ids = [sequences[s][p] if s < len(sequences) else 0 for s, p in padded]
        logits, state = run(
            executable,
            state,
            tokens=np.array(ids, np.int32),
            places=np.array(padded, np.int32).T.copy(),
            table=table,
        )
    return logits[-len(sequences) :]


@pytest.mark.parametrize("kind", KINDS)
def test_paged_steps_equal_prefill_and_decode(kind, tiny):
    model, target, precision = tiny(**KINDS[kind]), QuickXla("cpu:xla"), PRECISIONS["f32"]
    sequences = [[5, 9, 2, 44, 17, 3, 8, 90], [60, 1, 33, 5]]
    got = paged(model, target, precision, sequences)
    for row, tokens in zip(got, sequences, strict=True):
        (want,) = unpaged(model, target, precision, tokens, 1)
        assert np.abs(row - want).max() <= 1e-5 * np.abs(want).max()
        assert np.argmax(row) == np.argmax(want)


def test_latent_attention_has_no_paged_step(tiny):
    model = tiny(kv_heads=4, mla=MLA(kv_rank=12, nope_dim=8, rope_dim=4, value_dim=6, q_rank=16))
    assert model.step is None


@pytest.mark.parametrize(("kind", "threads"), [("plain", 1), ("window", 3)])
def test_native_kernels_over_pages_equal_xla(kind, threads, tiny):
    pytest.importorskip("llvmlite")
    from anychip.compilers.native import NativeTarget

    model, precision = tiny(**KINDS[kind]), PRECISIONS["f32"]
    sequences = [[5, 9, 2, 44, 17, 3, 8, 90] * 4 + [1, 2], [60, 1, 33, 5]]
    got = paged(model, NativeTarget(), precision, sequences, threads)
    for row, tokens in zip(got, sequences, strict=True):
        (want,) = unpaged(model, QuickXla("cpu:xla"), precision, tokens, 1)
        assert np.abs(row - want).max() <= 1e-4 * np.abs(want).max()


def test_a_cache_of_eight_bits_gives_nearly_the_same(tiny):
    """A q8_0 number is off by at most 1/254 of its block's largest."""
    pytest.importorskip("llvmlite")
    from anychip.compilers.native import NativeTarget

    model, precision = tiny(head_dim=32), replace(PRECISIONS["f32"], cache="q8_0")
    sequences = [[5, 9, 2, 44, 17, 3, 8, 90, 1, 2], [60, 1, 33, 5]]
    state = model.step_state(SHAPES["cpu:native"], precision)
    whole = model.step_state(SHAPES["cpu:native"], PRECISIONS["f32"])
    assert sum(a.nbytes for a in state) * 128 == sum(a.nbytes for a in whole) * 34
    native, xla = (
        paged(model, target, precision, sequences, 2)
        for target in (NativeTarget(), QuickXla("cpu:xla"))
    )
    for ours, other, tokens in zip(native, xla, sequences, strict=True):
        (want,) = unpaged(model, QuickXla("cpu:xla"), PRECISIONS["f32"], tokens, 1)
        assert 0 < np.abs(ours - want).max() <= 0.02 * np.abs(want).max()
        assert 0 < np.abs(other - want).max() <= 0.02 * np.abs(want).max()


def test_caches_that_cannot_be_are_refused(tiny):
    held, shape = PRECISIONS["f32"], SHAPES["cpu:native"]
    with pytest.raises(UsageError, match="or q8_0"):
        tiny().step_state(shape, replace(held, cache="q4_0"))
    with pytest.raises(UsageError, match="steps over pages"):
        tiny().decode(1, 64, replace(held, cache="q8_0"))
    with pytest.raises(InputError, match="block of 32"):
        tiny(head_dim=16).step_state(shape, replace(held, cache="q8_0"))


def test_perplexity_is_its_definition(tiny):
    """Over two pieces of a text: one odd for each token but the first."""
    from anychip.llm.perplexity import perplexity

    model, precision = tiny(context=128), PRECISIONS["f32"]
    tokens = [int(t) for t in np.random.default_rng(3).integers(0, 97, 70)]
    logits = unpaged(model, QuickXla("cpu:xla"), precision, tokens[:-1], 69, context=128)
    odds = np.exp(logits.astype(np.float64))
    odds = (odds / odds.sum(axis=1, keepdims=True))[np.arange(69), tokens[1:]]
    got = perplexity(model, QuickXla("cpu:xla"), precision, tokens)
    assert got == pytest.approx(float(np.exp(-np.log(odds).mean())), rel=1e-4)
