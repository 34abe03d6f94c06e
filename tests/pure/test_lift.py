"""Patterns are found however they are spelled, mean what the composites mean, and change no bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anychip.core import Module, dtype
from anychip.frontends.load import load_any
from anychip.ops.composites import COMPOSITES, composite_of
from anychip.ops.interp import evaluate
from anychip.ops.view import program
from anychip.passes.lift import lift
from anychip.testing.tolerance import mismatch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 3, 8)).astype(np.float32)
SCALE, BIAS = RANDOM.standard_normal((2, 8)).astype(np.float32)
Q = RANDOM.standard_normal((2, 2, 5, 8)).astype(np.float32)
K, V = RANDOM.standard_normal((2, 2, 2, 7, 8)).astype(np.float32)
MASK = np.where(RANDOM.random((2, 1, 5, 7)) < 0.7, 0, -1e9).astype(np.float32)


def spelled(function, *inputs):
    return load_any(function, inputs, home=None, options={}), inputs


def onnx_norm(x, scale, bias):
    y = x - jnp.mean(x, -1, keepdims=True)
    return y / jnp.sqrt(jnp.mean(jnp.power(y, 2.0), -1, keepdims=True) + 1e-5) * scale + bias


def own_norm(x, scale, bias):
    y = x - x.mean(-1, keepdims=True)
    again = x - x.mean(-1, keepdims=True)
    return bias + scale * (y * jax.lax.rsqrt((again * again).mean(-1, keepdims=True) + 1e-6))


def llama_norm(x, scale):
    return scale * (x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6))


def erf_gelu(x):
    return x * 0.5 * (1.0 + jax.lax.erf(x / np.float32(2**0.5)))


def tanh_gelu(x):
    return 0.5 * x * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * jnp.power(x, 3.0))))


def attend(q, k, v, mask):
    logits = jnp.einsum("bhqd,bhkd->bhqk", q, k) / np.float32(8**0.5) + mask
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(logits, -1), v)


def scaled_first(q, k, v):
    logits = jnp.matmul(q * 0.3, jnp.swapaxes(k, 2, 3))
    return jnp.matmul(jax.nn.softmax(logits, -1), v)


ROT = RANDOM.standard_normal((2, 3, 5, 8)).astype(np.float32)
AT = np.array([[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]], np.int32)
FREQUENCIES = np.array([1.0, 0.3, 0.1, 0.03], np.float32)
W8 = RANDOM.integers(-127, 128, (4, 8)).astype(np.int8)
STEPS = RANDOM.uniform(0.01, 0.1, 4).astype(np.float32)


def rotated(x, at, frequencies):
    """As transformers: cosines twice as wide as the frequencies, x turned by a quarter."""
    angle = at[:, :, None].astype(jnp.float32) * frequencies[None, None, :]
    twice = jnp.concatenate([angle, angle], -1)
    cos, sin = jnp.cos(twice)[:, None] * 1.0, jnp.sin(twice)[:, None] * 1.0
    half = x.shape[-1] // 2
    return x * cos + jnp.concatenate([-x[..., half:], x[..., :half]], -1) * sin


def in_halves(x, at, frequencies):
    angle = at[:, None, :, None].astype(jnp.float32) * frequencies
    cos, sin, half = jnp.cos(angle), jnp.sin(angle), frequencies.shape[0]
    a, b = x[..., :half], x[..., half : 2 * half]
    parts = [a * cos - b * sin, a * sin + b * cos, x[..., 2 * half :]]
    return jnp.concatenate(parts[: 2 + (2 * half < x.shape[-1])], -1)


def dequantised(x, w, scale):
    return x @ (w.astype(jnp.float32) * scale[:, None]).T


SPELLINGS = {
    "rotary embedding of transformers": ("rope", rotated, ROT, AT, FREQUENCIES),
    "rotary embedding, one row of positions": ("rope", rotated, ROT, AT[:1], FREQUENCIES),
    "rotary embedding in halves": ("rope", in_halves, ROT, AT, FREQUENCIES),
    "rotary embedding of some of the width": ("rope", in_halves, ROT, AT, FREQUENCIES[:3]),
    "dequantised weights": ("scaled_matmul", dequantised, X, W8, STEPS),
    "scaled product": (
        "scaled_matmul",
        lambda x, w, scale: jnp.einsum("abk,nk->abn", x, w.astype(jnp.float32)) * scale,
        *(X, W8, STEPS),
    ),
    "softmax": ("softmax", jax.nn.softmax, X),
    "softmax of another axis": ("softmax", lambda x: jax.nn.softmax(x, axis=1), X),
    "softmax, bare": (
        "softmax",
        lambda x: (
            jnp.exp(x - x.max(-1, keepdims=True))
            / jnp.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)
        ),
        X,
    ),
    "layer norm of ONNX": ("layer_norm", onnx_norm, X, SCALE, BIAS),
    "layer norm whose mean is taken twice": ("layer_norm", own_norm, X, SCALE, BIAS),
    "RMS norm": ("rms_norm", llama_norm, X, SCALE),
    "RMS norm, bare": ("rms_norm", lambda x: llama_norm(x, jnp.float32(1.0)), X),
    "GELU": ("gelu", lambda x: jax.nn.gelu(x, approximate=False), X),
    "GELU by erf": ("gelu", erf_gelu, X),
    "GELU by tanh": ("gelu", jax.nn.gelu, X),
    "GELU by tanh and power": ("gelu", tanh_gelu, X),
    "SiLU": ("silu", jax.nn.silu, X),
    "SiLU by logistic": ("silu", lambda x: jax.lax.logistic(x) * x, X),
    "attention": ("attention", attend, Q, K, V, MASK),
    "attention scaled first": ("attention", scaled_first, Q, K, V),
}


def composites(module):
    return [op for op in program(module).main.ops if op.name == "stablehlo.composite"]


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_spelling_is_found_and_means_the_composite(name):
    want, function, *inputs = SPELLINGS[name]
    module, inputs = spelled(function, *inputs)
    lifted, found = lift(module)
    assert [one.name for one in found][-1] == want
    (op,) = composites(lifted)
    # what was found is outlined as it was
    before, after = evaluate(module, *inputs), evaluate(lifted, *inputs)
    assert mismatch([np.asarray(after[0])], [np.asarray(before[0])], 8) is None
    # and the composite's own meaning agrees with it, on other numbers
    entry = composite_of(op)
    fresh = [numbers(s) for s in op.inputs]
    meaning = entry.body(*fresh, **op.attributes["composite_attributes"])
    outlined = body(lifted, op)
    assert mismatch([np.asarray(outlined(*fresh))], [np.asarray(meaning)], 64) is None


def numbers(spec):
    if spec.dtype in ("f32", "f64"):
        return RANDOM.standard_normal(spec.sizes).astype(np.float32)
    return RANDOM.integers(0, 50, spec.sizes).astype(dtype(spec.dtype).numpy)


def body(module, op):
    """The composite's decomposition as a function of arrays."""
    text = module.text()
    start = text.index(f"func.func private @{op.callee}(")
    end = text.index("\n  }", start) + 4
    others = "".join(
        text[at : text.index("\n  }", at) + 4]
        for at in (i for i in range(len(text)) if text.startswith("func.func private @", i))
        if at != start
    )
    main = text[start:end].replace(f"private @{op.callee}(", "public @main(")
    alone = Module.from_mlir(f"module {{\n{main}\n{others}\n}}")
    return lambda *arrays: evaluate(alone, *arrays)[0]


NEAR = {
    "a softmax with another sum": lambda x: jnp.exp(x - x.max(-1, keepdims=True)) / jnp.sum(x),
    "a norm by one less": lambda x: (
        (x - x.mean(-1, keepdims=True))
        * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True, ddof=1) + 1e-5)
    ),
    "a norm over all": lambda x: (x - x.mean()) * jax.lax.rsqrt(jnp.var(x) + 1e-5),
    "half a GELU": lambda x: 0.4 * x * (1 + jax.lax.erf(x * np.float32(0.5**0.5))),
    "a GELU of something else": lambda x: 0.5 * x * (1 + jax.lax.erf(x * np.float32(0.6))),
    "a gate of something else": lambda x: x * jax.lax.logistic(2.0 * x),
    "a softmax read halfway": lambda x: (jax.nn.softmax(x), jnp.exp(x - x.max(-1, keepdims=True))),
}


@pytest.mark.parametrize("name", NEAR)
def test_what_only_looks_alike_is_left(name):
    module, inputs = spelled(NEAR[name], X)
    lifted, found = lift(module)
    if name != "a softmax read halfway":  # which may be two softmaxes' worth of ops, not one
        assert found == (), found
    for got, want in zip(evaluate(lifted, *inputs), evaluate(module, *inputs), strict=True):
        assert mismatch([np.asarray(got)], [np.asarray(want)], 8) is None


def test_queries_and_keys_share_their_angles():
    def both(q, k, at, frequencies):
        return rotated(q, at, frequencies), rotated(k + 1, at, frequencies)

    module, inputs = spelled(both, ROT, ROT[:, :1], AT, FREQUENCIES)
    lifted, found = lift(module)
    assert [one.name for one in found] == ["rope", "rope"]
    assert not [op for op in program(lifted).main.ops if op.name == "stablehlo.cosine"]
    for got, want in zip(evaluate(lifted, *inputs), evaluate(module, *inputs), strict=True):
        assert mismatch([np.asarray(got)], [np.asarray(want)], 8) is None


def test_every_lifted_name_is_a_composite():
    from anychip.passes.lift import PATTERNS

    assert {f"anychip.{name}" for group in PATTERNS for name, _ in group} <= {*COMPOSITES}
