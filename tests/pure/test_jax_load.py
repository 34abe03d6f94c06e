"""JAX functions and Flax-like objects to Modules: names, weights, sizes, state, what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from anychip.core import Module
from anychip.core.errors import UnsupportedError, UsageError
from anychip.frontends.jax import load
from anychip.ops.interp import evaluate
from anychip.ops.walk import walk

PARAMS = {
    "Dense_0": {"kernel": np.full((4, 3), 0.5, np.float32), "bias": np.ones(3, np.float32)},
    "scale": jnp.asarray(2.0, jnp.bfloat16),
}
X = np.arange(8, dtype=np.float32).reshape(2, 4)


class Net:
    """What Flax's linen gives: parameters outside, `apply(params, inputs)`."""

    def apply(self, params: Any, x: Any) -> Any:
        dense = params["Dense_0"]
        with jax.named_scope("head"):
            y = x @ dense["kernel"] + dense["bias"]
        return {"logits": y * params["scale"].astype(jnp.float32), "hidden": (x, y)}


def test_parameters_become_named_weights_and_results_keep_their_path() -> None:
    module = load(Net(), [X], params=PARAMS)
    assert module.name == "Net"
    assert [(a.name, a.role, a.dtype) for a in module.signature.arguments] == [
        ("Dense_0.bias", "weight", "f32"),
        ("Dense_0.kernel", "weight", "f32"),
        ("scale", "weight", "bf16"),
        ("x", "input", "f32"),
    ]
    assert [r.name for r in module.signature.results] == ["hidden.0", "hidden.1", "logits"]
    np.testing.assert_array_equal(
        module.weights["Dense_0.kernel"].array(), PARAMS["Dense_0"]["kernel"]
    )


def test_inputs_of_a_flax_module_are_named_as_its_call_names_them() -> None:
    class Linen(Net):
        def __call__(self, tokens: Any) -> Any:
            raise AssertionError("only apply is traced")

        def apply(self, variables: Any, *args: Any, rngs: Any = None, mutable: bool = False) -> Any:
            return Net.apply(self, variables, *args)

    module = load(Linen(), [X], params=PARAMS, shapes={"tokens": ("batch", None)})
    assert [(a.name, a.shape) for a in module.signature.named("input")] == [
        ("tokens", ("batch", 4))
    ]


def test_numbers_are_those_of_the_function() -> None:
    module = load(Net(), [X], params=PARAMS)
    weights = [module.weights[a.name].array() for a in module.signature.named("weight")]
    got = evaluate(module, *weights, X)
    expected = jax.tree.leaves(Net().apply(PARAMS, X))
    for have, want in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(have), want, rtol=1e-6)


def test_shapes_alone_make_a_module_without_values() -> None:
    params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), PARAMS)
    module = load(Net(), [jax.ShapeDtypeStruct((2, 4), np.float32)], params=params)
    assert module.weights.is_shape_only


def test_every_op_knows_the_users_line() -> None:
    module = load(Net(), [X], params=PARAMS)
    origin = next(s.origin for s in walk(module) if s.op.name == "stablehlo.dot_general")
    assert origin.layer == "head"
    assert "test_jax_load.py:" in origin.source


def test_symbolic_sizes_and_pytrees_of_inputs() -> None:
    def model(batch: dict[str, Any], start: Any) -> Any:
        return batch["tokens"] + start, jnp.concatenate([batch["tokens"]] * 2)

    module = load(
        model,
        [{"tokens": np.ones((3, 4), np.int32)}, np.int32(1)],
        shapes={"batch.tokens": ("n", None)},
    )
    assert [(a.name, a.shape) for a in module.signature.arguments] == [
        ("batch.tokens", ("n", 4)),
        ("start", ()),
    ]
    assert [(r.name, r.shape) for r in module.signature.results] == [
        ("result0", ("n", 4)),
        ("result1", ("2*n", 4)),
    ]


def test_inputs_by_keyword() -> None:
    module = load(lambda *, a, b: a - b, {"b": X, "a": X})
    assert sorted(a.name for a in module.signature.arguments) == ["a", "b"]
    got = evaluate(module, *(X if a.name == "a" else X + 1 for a in module.signature.arguments))
    np.testing.assert_array_equal(np.asarray(got[0]), np.full_like(X, -1))


def test_symbolic_choice_asks_for_guards() -> None:
    def model(x: Any) -> Any:
        return x[:2] if x.shape[0] > 3 else x[:1]

    with pytest.raises(UnsupportedError, match="guards="):
        load(model, [X], shapes={"x": ("n", 4)})
    module = load(model, [X], shapes={"x": ("n", 4)}, guards=["n >= 8"])
    assert module.signature.results[0].shape == (2, 4)


def test_updated_inputs_are_state() -> None:
    def step(cache: Any, new: Any) -> Any:
        return {"cache_next": jax.lax.dynamic_update_slice(cache, new, (0, 0)), "y": new * 2}

    module = load(step, [np.zeros((8, 4), np.float32), X], updates={"cache_next": "cache"})
    assert [a.role for a in module.signature.arguments] == ["state", "input"]
    assert module.signature.results[0].updates == "cache"


def test_arrays_a_function_closes_over_become_weights() -> None:
    table = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    module = load(lambda i: jnp.asarray(table)[i], [np.array([3, 5], np.int32)])
    (weight,) = module.weights.values()
    np.testing.assert_array_equal(weight.array(), table)
    assert "dense<" not in module.text(elide_over=8).replace("dense<0", "").replace("dense<64", "")


def test_sixty_four_bits_follow_jax() -> None:
    assert load(lambda x: x, [np.arange(3)]).signature.results[0].dtype == "i32"
    with jax.enable_x64(True):
        assert load(lambda x: x, [np.arange(3)]).signature.results[0].dtype == "i64"


def test_custom_calls_are_listed_with_places_and_remedies() -> None:
    def model(x: Any) -> Any:
        with jax.named_scope("first"):
            x = jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        with jax.named_scope("second"):
            return jax.pure_callback(np.cos, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    with pytest.raises(UnsupportedError, match="callback has no place") as caught:
        load(model, [X])
    rows = caught.value.report
    assert len({row.origin.source for row in rows}) == 2
    assert all("test_jax_load.py:" in row.origin.source for row in rows)


def exported() -> export.Exported:
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("b, 4"), np.float32)
    function = jax.jit(lambda p, x, *, bias: {"y": x @ p["w"] + bias})
    return export.export(function)(
        {"w": jax.ShapeDtypeStruct((4, 3), np.float32)},
        shape,
        bias=jax.ShapeDtypeStruct((3,), np.float32),
    )


def test_exported_functions_keep_their_symbols() -> None:
    module = load(exported())
    assert isinstance(module, Module)
    assert [(a.name, a.shape) for a in module.signature.arguments] == [
        ("arg0.w", (4, 3)),
        ("arg1", ("b", 4)),
        ("bias", (3,)),
    ]
    assert [(r.name, r.shape) for r in module.signature.results] == [("y", ("b", 3))]
    got = evaluate(module.specialise({"b": 2}), PARAMS["Dense_0"]["kernel"], X, np.ones(3, "f"))
    np.testing.assert_allclose(np.asarray(got[0]), X @ PARAMS["Dense_0"]["kernel"] + 1)


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((lambda x: x,), {}, "needs example_inputs"),
        ((3, [X]), {}, "not callable"),
        ((lambda x: x, [X]), {"shapes": {"z": (1,)}}, "no input named 'z'"),
        ((lambda x: x, [X]), {"shapes": {"x": ("n",)}}, r"has shape \(2, 4\)"),
        ((lambda x: x, [jax.random.key(0)]), {}, "key_data"),
        ((lambda x: x, [X]), {"updates": {"result": "y"}}, "no input named 'y'"),
    ],
)
def test_wrong_calls_are_usage_errors(
    arguments: tuple[Any, ...], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        load(*arguments, **options)


def test_exported_takes_no_other_options() -> None:
    with pytest.raises(UsageError, match="no other options"):
        load(exported(), [X])


def test_what_asks_for_a_traced_value_is_explained_with_the_users_line() -> None:
    def branch(x: Any) -> Any:
        return x if x.sum() > 0 else -x

    for model in (branch, lambda x: x[x > 0], lambda x: np.asarray(x)):
        with pytest.raises(
            UnsupportedError, match=r"test_jax_load\.py:\d+\): .*jnp\.where"
        ) as caught:
            load(model, [X])
        assert "test_jax_load.py" in caught.value.report[0].origin.source


def test_an_apply_without_parameters_is_told_from_a_function() -> None:
    with pytest.raises(UsageError, match=r"Net\.apply takes parameters first"):
        load(Net(), [X])


def test_flax_modules_of_both_kinds_have_named_weights_and_a_symbolic_batch() -> None:
    pytest.importorskip("flax")
    from flax import linen, nnx

    class Linen(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return linen.Dense(3)(linen.relu(linen.Dense(5)(x)))

    class Nnx(nnx.Module):
        def __init__(self):
            self.inner = nnx.Linear(4, 5, rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(5, rngs=nnx.Rngs(1))
            self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(2))

        def __call__(self, x: Any) -> Any:
            return self.drop(self.norm(self.inner(x)))

    variables = Linen().init(jax.random.PRNGKey(0), X)
    held, other = Nnx(), Nnx()
    held.eval()
    batch = {"x": ("batch", None)}
    linen_module = load(Linen(), [X], params=variables, shapes=batch)
    nnx_module = load(held, [X], shapes=batch)
    assert "params.Dense_0.kernel" in linen_module.weights
    assert {"inner.kernel", "norm.mean"} <= set(nnx_module.weights)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    for module, wanted in (
        (linen_module, Linen().apply(variables, x)),
        (nnx_module, held(x)),
    ):
        weights = [module.weights[a.name].array() for a in module.signature.named("weight")]
        (got,) = evaluate(module.specialise({"batch": 3}), *weights, x)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match=r"call \.eval\(\) on it first"):
        load(other, [X])
