"""evaluate() against XLA on whole functions as JAX exports them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from anychip.core import Module
from anychip.ops.interp import evaluate
from anychip.testing.tolerance import mismatch


def mlp(x, w1, b1, w2):
    return jax.nn.softmax(jax.nn.gelu(x @ w1 + b1) @ w2)


def conv_net(x, k1, k2, w):
    dims = ("NHWC", "HWIO", "NHWC")
    x = jax.nn.relu(lax.conv_general_dilated(x, k1, (1, 1), "SAME", dimension_numbers=dims))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = lax.conv_general_dilated(
        x, k2, (2, 2), "SAME", dimension_numbers=dims, feature_group_count=4
    )
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    x = (x - mean) * lax.rsqrt(var + 1e-5)
    return x.reshape(x.shape[0], -1) @ w


def transformer_layer(x, wq, wk, wv, wo, scale, mask):
    def heads(y):
        return y.reshape(*y.shape[:2], 4, -1).swapaxes(1, 2)

    normal = x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale
    q, k, v = heads(normal @ wq), heads(normal @ wk), heads(normal @ wv)
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / np.float32(np.sqrt(q.shape[-1]))
    weights = jax.nn.softmax(jnp.where(mask > 0, scores, -1e9))
    mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, v).swapaxes(1, 2).reshape(x.shape)
    return x + mixed @ wo


def power_iteration(a, x):
    def body(state):
        i, x, _ = state
        y = a @ x
        return i + 1, y / jnp.linalg.norm(y), jnp.vdot(x, y)

    return lax.while_loop(lambda s: s[0] < 20, body, (0, x, jnp.float32(0)))


def shuffle(x, table, updates):
    order = jnp.argsort(x[:, 0])
    values, places = lax.top_k(x, 3)
    rows = table[places[:, 0]]
    grown = table.at[places].add(updates)
    keys, payload = lax.sort_key_val(-x[:, 1], jnp.arange(x.shape[0]))
    both = lax.sort((jnp.round(x[:, 2]), x[:, 3]), num_keys=2)
    windows = jnp.take_along_axis(x, lax.sort(places, dimension=1), axis=1)
    best = jnp.argmax(x, axis=1)
    sums = jax.ops.segment_sum(x[:, 0], best, num_segments=8)
    return order, values, places, rows, grown, keys, payload, both, windows, best, sums


def many_ops(x, y):
    folded = lax.scan(lambda c, v: (c * 0.5 + v, c), x[0], x)
    chosen = lax.switch(jnp.int32(2), [jnp.sin, jnp.cos, jnp.tanh], x)
    maps = jax.vmap(lambda a, b: lax.cond(a[0] > 0, lambda: a + b, lambda: a - b))(x, y)
    cumulative = lax.cumsum(x, axis=1), lax.cummax(y, axis=0), lax.cumlogsumexp(x, axis=1)
    pieces = jnp.roll(x, 2, axis=1), jnp.flip(y), jnp.pad(x, ((1, 0), (0, 2)), mode="reflect")
    functions = lax.erf(x), lax.lgamma(jnp.abs(y) + 1), jnp.arctan2(x, y), lax.erf_inv(x * 0.1)
    narrow = x.astype(jnp.bfloat16) @ y.T.astype(jnp.bfloat16)
    spectrum = jnp.abs(jnp.fft.rfft(x))
    noise = jax.random.normal(jax.random.key(3), (4, 5))
    grads = jax.grad(lambda v: jnp.sum(jax.nn.silu(v) ** 2))(x)
    return folded, chosen, maps, cumulative, pieces, functions, narrow, spectrum, noise, grads


def pool_gradient(x):
    pool = lambda v: lax.reduce_window(  # noqa: E731
        v, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
    )
    return jax.grad(lambda v: jnp.sum(pool(v) ** 2))(x)


def experts(x, w, sizes):
    return lax.ragged_dot(x, w, sizes)


FUNCTIONS = {
    "mlp": (mlp, [(5, 8), (8, 16), (16,), (16, 4)]),
    "conv_net": (conv_net, [(2, 8, 8, 3), (3, 3, 3, 8), (3, 3, 2, 8), (32, 10)]),
    "transformer_layer": (
        transformer_layer,
        [(2, 6, 32), *[(32, 32)] * 4, (32,), (6, 6)],
    ),
    "power_iteration": (power_iteration, [(8, 8), (8,)]),
    "shuffle": (shuffle, [(9, 6), (6, 4), (9, 3, 4)]),
    "many_ops": (many_ops, [(4, 8), (4, 8)]),
    "pool_gradient": (pool_gradient, [(1, 7, 7, 2)]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("is_traced", [False, True], ids=["op by op", "traced"])
def test_evaluate_equals_xla(name, is_traced):
    function, shapes = FUNCTIONS[name]
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(s).astype(np.float32) for s in shapes]
    check(function, arrays, is_traced)


def test_evaluate_equals_xla_on_grouped_experts():
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(s).astype(np.float32) for s in ((10, 8), (3, 8, 4))]
    check(experts, [*arrays, np.array([2, 0, 6], np.int32)], True)


def check(function, arrays, is_traced):
    compiled = jax.jit(function, keep_unused=True)
    exported = jax.export.export(compiled)(*arrays)
    module = Module.from_mlir(exported.mlir_module_serialized and exported.mlir_module())
    want = [np.asarray(x) for x in jax.tree.leaves(compiled(*arrays))]
    run = jax.jit(lambda *a: evaluate(module, *a)) if is_traced else lambda *a: evaluate(module, *a)
    got = [np.asarray(x) for x in run(*arrays)]
    assert mismatch(got, want, reduced=64) is None


def test_jax_sorts_are_recognised_and_not_merged():
    from anychip.ops import walk
    from anychip.ops.sort import lexicographic

    def sorts(x, n, flags):
        return (
            lax.sort(x),
            lax.sort((n, x), num_keys=2),
            lax.sort((x, n), num_keys=1),
            lax.sort(flags),
            jnp.argsort(x, descending=True),
        )

    specs = [jax.ShapeDtypeStruct((9,), t) for t in (np.float32, np.int32, np.bool_)]
    module = Module.from_mlir(jax.jit(sorts).lower(*specs).compiler_ir())
    found = [s.op for s in walk(module) if s.op.name == "stablehlo.sort"]
    assert len(found) == 5
    keys = [lexicographic(op.regions[0]) for op in found]
    assert [[k.operand for k in ks or ()] for ks in keys] == [[0], [0, 1], [0], [0], [0]]


def test_sort_puts_nans_last_and_zeros_together_as_jax_does():
    x = np.array([np.nan, 0.0, 2.0, -0.0, -np.inf, np.nan, -1.0], np.float32)
    places = np.arange(7, dtype=np.int32)
    check(lambda x, i: lax.sort((x, i), num_keys=1), [x, places], False)


BY_SIZE = """func.func @main(%x: tensor<3xNxi32>, %n: tensor<3xNxi32>)
    -> (tensor<3xNxi32>, tensor<3xNxi32>) {
  %r:2 = "stablehlo.sort"(%x, %n) <{dimension = 1 : i64, is_stable = true}> ({
  ^bb0(%a: tensor<i32>, %b: tensor<i32>, %i: tensor<i32>, %j: tensor<i32>):
    %0 = stablehlo.abs %a : tensor<i32>
    %1 = stablehlo.abs %b : tensor<i32>
    %2 = stablehlo.compare LT, %0, %1 : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %2 : tensor<i1>
  }) : (tensor<3xNxi32>, tensor<3xNxi32>) -> (tensor<3xNxi32>, tensor<3xNxi32>)
  return %r#0, %r#1 : tensor<3xNxi32>, tensor<3xNxi32>}"""


@pytest.mark.parametrize("length", [2, 3, 31, 64, 200])
def test_any_comparator_sorts_stably(length):
    random = np.random.default_rng(length)
    x = random.integers(-9, 10, (3, length)).astype(np.int32)
    places = np.tile(np.arange(length, dtype=np.int32), (3, 1))
    module = Module.from_mlir(BY_SIZE.replace("N", str(length)))
    values, order = (np.asarray(r) for r in jax.jit(lambda *a: evaluate(module, *a))(x, places))
    want = np.argsort(np.abs(x), axis=1, kind="stable")
    assert np.array_equal(order, want)
    assert np.array_equal(values, np.take_along_axis(x, want, 1))
