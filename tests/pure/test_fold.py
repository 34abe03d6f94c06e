"""Folding: batch norms go into kernels, what weights decide becomes a weight, numbers stay."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from anychip.core import Weights
from anychip.frontends.load import load_any
from anychip.ops.interp import evaluate
from anychip.ops.view import program
from anychip.passes.fold import fold
from anychip.testing.tolerance import mismatch

RANDOM = np.random.default_rng(0)


def bound(function, x, **weights):
    """A module whose first argument is the input and whose others are weights."""
    arrays = {n: RANDOM.random(s).astype(np.float32) + 0.5 for n, s in weights.items()}
    module = load_any(function, (x, *arrays.values()), home=None, options={})
    first, *rest = module.signature.arguments
    names = [a.name for a in rest]
    arguments = (first, *(replace(a, role="weight") for a in rest))
    signature = replace(module.signature, arguments=arguments)
    module = replace(module, signature=signature)
    return module.with_weights(Weights.from_arrays(dict(zip(names, arrays.values(), strict=True))))


def results(module, x):
    given = [
        module.weights[a.name].array() if a.role == "weight" else x
        for a in module.signature.arguments
    ]
    return [np.asarray(r) for r in evaluate(module, *given)]


def kinds(module):
    return [op.name.partition(".")[2] for op in program(module).main.ops]


def over_channels(v):
    return v[:, None, None]


def scaled(x, k, s, b):
    y = lax.conv_general_dilated(x, k, (1, 1), "SAME")
    return y * over_channels(s) + over_channels(b)


def textbook(x, k, s, b, m, v):
    y = lax.conv_general_dilated(x, k, (2, 2), "SAME") - over_channels(m)
    return over_channels(s * lax.rsqrt(v + 1e-5)) * y + over_channels(b)


def depthwise(x, k, s, b):
    y = lax.conv_general_dilated(x, k, (1, 1), "SAME", feature_group_count=3)
    return y * over_channels(s) + over_channels(b)


def channels_last(x, k, s, b):
    y = lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y * s + b


X = RANDOM.standard_normal((2, 3, 6, 6)).astype(np.float32)
NORMS = {
    "scaled": (scaled, X, {"k": (4, 3, 3, 3), "s": (4,), "b": (4,)}),
    "textbook": (textbook, X, {"k": (4, 3, 3, 3), "s": (4,), "b": (4,), "m": (4,), "v": (4,)}),
    "depthwise": (depthwise, X, {"k": (6, 1, 3, 3), "s": (6,), "b": (6,)}),
    "channels last": (
        channels_last,
        X.transpose(0, 2, 3, 1),
        {"k": (3, 3, 3, 4), "s": (4,), "b": (4,)},
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_batch_norm_goes_into_its_kernel(name):
    function, x, weights = NORMS[name]
    module = bound(function, x, **weights)
    folded = fold(module)
    assert mismatch(results(folded, x), results(module, x), 64) is None
    left = kinds(folded)
    assert left.count("convolution") == 1
    assert not {"multiply", "rsqrt"} & {*left}, left
    assert folded.weights.nbytes <= module.weights.nbytes


def test_a_kernel_that_others_read_or_that_is_an_input_is_left():
    module = bound(lambda x, s: lax.conv_general_dilated(x, x, (1, 1), "SAME") * s, X, s=(1,))
    assert kinds(fold(module)) == kinds(module)

    def twice(x, k, s):
        y = lax.conv_general_dilated(x, k, (1, 1), "SAME")
        return y * over_channels(s), y

    module = bound(twice, X, k=(4, 3, 3, 3), s=(4,))
    folded = fold(module)
    assert "multiply" in kinds(folded)
    assert mismatch(results(folded, X), results(module, X), 64) is None


def test_what_weights_decide_becomes_a_weight_and_constants_a_constant():
    x = np.ones((2, 4), np.float32)

    def model(x, w, unused):
        one = jnp.asarray(2.0) + jnp.asarray(3.0) * jnp.sum(w[0, :1]) * 0
        return x @ jnp.transpose(w * 2.0) + one

    module = bound(model, x, w=(5, 4), unused=(3,))
    folded = fold(module)
    assert mismatch(results(folded, x), results(module, x), 64) is None
    assert {"dot_general", "add"} <= {*kinds(folded)}
    assert not {"transpose", "multiply", "reduce"} & {*kinds(folded)}
    assert "unused" not in folded.weights


def test_shapes_without_values_fold_nothing():
    function, x, weights = NORMS["scaled"]
    module = replace(bound(function, x, **weights), weights=Weights())
    assert fold(module).bytecode == module.bytecode


def test_a_number_that_constants_decide_stays_a_number():
    x = np.ones((2, 4), np.float32)

    def model(x, w):
        start = lax.add(jnp.asarray(1), lax.mul(jnp.asarray(0), jnp.asarray(5)))
        return lax.dynamic_slice_in_dim(x, start, 2, 1) @ w

    module = bound(model, x, w=(2, 3))
    folded = fold(module)
    assert not {"add", "multiply"} & {*kinds(folded)}, kinds(folded)
    assert mismatch(results(folded, x), results(module, x), 4) is None
