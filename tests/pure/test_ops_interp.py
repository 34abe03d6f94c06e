"""evaluate: hooks, origins, control flow, 64-bit types, and errors that list everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anychip.core import Module, UnsupportedError, UsageError
from anychip.ops import walk
from anychip.ops.interp import evaluate


def lowered(function, *arrays) -> Module:
    return Module.from_mlir(jax.jit(function, keep_unused=True).lower(*arrays).compiler_ir())


X = np.arange(6, dtype=np.float32).reshape(2, 3)


@jax.jit
def layer(x):
    with jax.named_scope("mlp"):
        return jnp.tanh(x)


def model(x):
    for i in range(2):
        with jax.named_scope(f"layers.{i}"):
            x = layer(x)
    return jax.lax.fori_loop(0, 3, lambda i, a: a * 2, x)


def test_hooks_see_every_op_with_its_origin():
    seen = []
    evaluate(
        lowered(model, X),
        X,
        after=lambda op, origin, operands, results: seen.append((op.name, str(origin.layer))),
    )
    steps = [(s.op.name, s.origin.layer) for s in walk(lowered(model, X))]
    assert {n for n, _ in seen} == {n for n, _ in steps}
    assert ("stablehlo.tanh", "layers.0/mlp") in seen
    assert ("stablehlo.tanh", "layers.1/mlp") in seen
    assert [n for n, _ in seen].count("stablehlo.multiply") == 3  # each iteration


def test_hooks_see_exactly_what_walk_says():
    counted: dict[str, int] = {}
    made = lowered(model, X)
    evaluate(made, X, after=lambda op, *_: counted.update({op.name: counted.get(op.name, 0) + 1}))
    said: dict[str, int] = {}
    for step in walk(made):
        said[step.op.name] = said.get(step.op.name, 0) + step.count
    assert counted == said


def test_before_hook_claims_an_op_and_after_hook_replaces_results():
    made = lowered(lambda x: jnp.tanh(x) + 1, X)

    def claim(op, origin, operands):
        return (jnp.zeros_like(operands[0]),) if op.name == "stablehlo.tanh" else None

    def double(op, origin, operands, results):
        return (results[0] * 2,) if op.name == "stablehlo.add" else None

    (y,) = evaluate(made, X, before=claim, after=double)
    assert (np.asarray(y) == 2).all()


def test_a_claimed_composite_is_not_entered():
    def f(x):
        return jax.lax.composite(lambda v: jnp.tanh(v), "anychip.test")(x)

    entered = []

    def claim(op, origin, operands):
        entered.append(op.name)
        return operands if op.name == "stablehlo.composite" else None

    (y,) = evaluate(lowered(f, X), X, before=claim)
    assert np.array_equal(y, X)
    assert entered == ["stablehlo.composite"]
    assert np.allclose(evaluate(lowered(f, X), X)[0], np.tanh(X))


def test_it_can_be_traced_with_and_without_hooks():
    made = lowered(model, X)
    want = np.tanh(np.tanh(X)) * 8
    assert np.allclose(jax.jit(lambda x: evaluate(made, x))(X)[0], want)
    seen = []
    hooked = jax.jit(lambda x: evaluate(made, x, after=lambda op, *_: seen.append(op.name)))
    assert np.allclose(hooked(X)[0], want)
    assert "stablehlo.multiply" in seen


LOOP = """func.func @main(%n: tensor<i32>, %x: tensor<f32>) -> tensor<f32> {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %r:2 = stablehlo.while(%i = %n, %y = %x) : tensor<i32>, tensor<f32>
  cond {
    %c = stablehlo.compare GT, %i, %zero : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %one = stablehlo.constant dense<1> : tensor<i32>
    %next = stablehlo.subtract %i, %one : tensor<i32>
    %z = stablehlo.add %y, %x : tensor<f32>
    stablehlo.return %next, %z : tensor<i32>, tensor<f32>
  }
  return %r#1 : tensor<f32>}"""


@pytest.mark.parametrize("hook", [None, lambda *_: None])
def test_loop_whose_length_is_data(hook):
    made = Module.from_mlir(LOOP)
    for n in (0, 1, 4):
        (y,) = evaluate(made, np.int32(n), np.float32(2), after=hook)
        assert float(y) == 2 + 2 * n


def test_hooks_see_only_the_branch_taken():
    def f(x):
        return jax.lax.cond(x[0, 1] > 0, lambda: jnp.tanh(x), lambda: jnp.exp(x))

    seen = []
    evaluate(lowered(f, X), X, after=lambda op, *_: seen.append(op.name))
    assert "stablehlo.tanh" in seen
    assert "stablehlo.exponential" not in seen


WIDE = """func.func @main(%a: tensor<2xi64>, %b: tensor<2xf64>) -> (tensor<2xi64>, tensor<2xf64>) {
  %0 = stablehlo.add %a, %a : tensor<2xi64>
  %c = stablehlo.constant dense<1.0e-300> : tensor<2xf64>
  %1 = stablehlo.multiply %b, %c : tensor<2xf64>
  return %0, %1 : tensor<2xi64>, tensor<2xf64>}"""


def test_64_bit_types_are_honoured_without_the_global_switch():
    assert not jax.config.jax_enable_x64
    a, b = np.array([2**40, -1]), np.array([1.5, 2.0])
    i, f = evaluate(Module.from_mlir(WIDE), a, b)
    assert i.dtype == np.int64
    assert np.asarray(i).tolist() == [2**41, -2]
    assert np.asarray(f).tolist() == [1.5e-300, 2e-300]
    assert not jax.config.jax_enable_x64


def test_a_jit_that_would_cut_64_bits_is_told_so():
    made = Module.from_mlir(WIDE)
    with pytest.raises(UsageError, match=r"jax\.enable_x64\(True\)"):
        jax.jit(lambda a, b: evaluate(made, a, b))(np.array([1, 2], np.int32), np.zeros(2))
    with jax.enable_x64(True):
        i, _ = jax.jit(lambda a, b: evaluate(made, a, b))(np.array([2**40, 1]), np.zeros(2))
    assert int(i[0]) == 2**41


UNSUPPORTED = """func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
  %0 = stablehlo.custom_call @secret(%x) : (tensor<2xf32>) -> tensor<2xf32>
  %1 = stablehlo.custom_call @secret(%0) : (tensor<2xf32>) -> tensor<2xf32>
  %2 = call @inner(%1) : (tensor<2xf32>) -> tensor<2xf32>
  return %2 : tensor<2xf32>}
func.func private @inner(%x: tensor<2xf32>) -> tensor<2xf32> {
  %t = stablehlo.create_token : !stablehlo.token
  %r:2 = "stablehlo.infeed"(%t) : (!stablehlo.token) -> (tensor<2xf32>, !stablehlo.token)
  return %r#0 : tensor<2xf32>}"""


def test_unsupported_ops_are_all_listed_with_place_and_count():
    with pytest.raises(UnsupportedError) as caught:
        evaluate(Module.from_mlir(UNSUPPORTED), np.zeros(2, np.float32))
    message = str(caught.value)
    assert "2 × stablehlo.custom_call, first at" in message
    assert "@secret has no portable meaning" in message
    assert "1 × stablehlo.infeed" in message
    assert "before" in message


def test_a_hook_may_claim_what_has_no_meaning():
    def claim(op, origin, operands):
        if op.name == "stablehlo.custom_call":
            return operands
        return (jnp.ones(2, np.float32), ()) if op.name == "stablehlo.infeed" else None

    (y,) = evaluate(Module.from_mlir(UNSUPPORTED), np.zeros(2, np.float32), before=claim)
    assert np.asarray(y).tolist() == [1, 1]


def test_a_hook_that_breaks_the_type_is_blamed():
    with pytest.raises(UsageError, match=r"the after hook gave float32\[1\]"):
        evaluate(lowered(jnp.tanh, X), X, after=lambda *_: (jnp.ones(1, np.float32),))
    with pytest.raises(UsageError, match="the before hook gave 2 results"):
        evaluate(lowered(jnp.tanh, X), X, before=lambda op, origin, operands: (X, X))


@pytest.mark.parametrize(
    "arrays",
    [(), (X, X), (X[0],), (X.astype(np.int32),)],
    ids=["missing", "too many", "shape", "type"],
)
def test_arrays_that_do_not_fit_the_signature_are_refused(arrays):
    with pytest.raises(UsageError, match=r"takes 1 arguments|should be f32\[2, 3\]"):
        evaluate(lowered(lambda x: x + 1, X), *arrays)


DYNAMIC = """func.func @main(%x: tensor<?xf32>) -> tensor<?x?xf32> {
  %n = stablehlo.get_dimension_size %x, dim = 0 : (tensor<?xf32>) -> tensor<i32>
  %n1 = stablehlo.reshape %n : (tensor<i32>) -> tensor<1xi32>
  %two = stablehlo.constant dense<2> : tensor<1xi32>
  %shape = stablehlo.concatenate %two, %n1, dim = 0
    : (tensor<1xi32>, tensor<1xi32>) -> tensor<2xi32>
  %y = stablehlo.dynamic_broadcast_in_dim %x, %shape, dims = [1]
    : (tensor<?xf32>, tensor<2xi32>) -> tensor<?x?xf32>
  return %y : tensor<?x?xf32>}"""


def test_dynamic_shapes_work_on_concrete_arrays_and_say_so_under_jit():
    made = Module.from_mlir(DYNAMIC)
    for n in (0, 1, 3):
        assert evaluate(made, np.ones(n, np.float32))[0].shape == (2, n)
    with pytest.raises(UnsupportedError, match="specialise"):
        jax.jit(lambda x: evaluate(made, x))(np.ones(3, np.float32))


def test_intermediate_values_are_let_go_after_their_last_use():
    import gc
    import weakref

    def f(x):
        for _ in range(5):
            x = jnp.tanh(x)
        return x

    alive: list[weakref.ref] = []
    most = 0

    def count(op, origin, operands, results):
        nonlocal most
        alive.extend(weakref.ref(r) for r in results)
        del operands, results
        gc.collect()
        most = max(most, sum(r() is not None for r in alive))

    evaluate(lowered(f, X), X, after=count)
    assert len(alive) == 5
    assert most <= 2
