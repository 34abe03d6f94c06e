"""frontends/trace.py: JAX functions become Modules with the signature that was asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anychip.core import Argument, UsageError
from anychip.core.origin import parse, scope
from anychip.frontends.trace import to_module


def run(module, *arrays):
    """Compile with XLA and run: the module's own bytecode, not the traced function."""
    from jax._src.interpreters import mlir as jax_mlir
    from jax._src.lib import xla_client as xc

    backend = jax.devices("cpu")[0].client
    with module.opened() as parsed:
        devices = xc.DeviceList(tuple(jax.devices("cpu")[:1]))
        loaded = backend.compile_and_load(jax_mlir.module_to_bytecode(parsed), devices)
    outs = loaded.execute_sharded([jax.device_put(a) for a in arrays])
    return [np.asarray(o[0]) for o in outs.disassemble_into_single_device_arrays()]


def test_roles_names_and_types_are_kept():
    module = to_module(
        lambda w, x: {"b": x @ w, "a": x.sum()},
        [Argument("w", (3, 2), "f32", "weight"), Argument("x", (4, 3), "f32")],
        name="linear",
        result_names=["total", "y"],
    )
    assert [a.role for a in module.signature.arguments] == ["weight", "input"]
    assert [(r.name, r.shape) for r in module.signature.results] == [("total", ()), ("y", (4, 2))]
    x, w = np.ones((4, 3), np.float32), np.full((3, 2), 2.0, np.float32)
    total, y = run(module, w, x)
    np.testing.assert_array_equal(y, x @ w)
    assert total == 12


def test_state_is_aliased_to_the_result_that_updates_it_even_out_of_order():
    module = to_module(
        lambda a, b: (b + 2, a + 1),
        [Argument("a", (2,), "f32", "state"), Argument("b", (2,), "f32", "state")],
        name="swap",
        result_names=["next_b", "next_a"],
        updates={"next_a": "a", "next_b": "b"},
    )
    text = module.text()
    assert "%arg0: tensor<2xf32> {tf.aliasing_output = 1 : i32}" in text
    assert "%arg1: tensor<2xf32> {tf.aliasing_output = 0 : i32}" in text
    b, a = run(module, np.zeros(2, np.float32), np.ones(2, np.float32))
    np.testing.assert_array_equal([b, a], [[3, 3], [1, 1]])


def test_symbolic_dimensions_share_names_and_specialise():
    module = to_module(
        lambda x, y: (jax.nn.softmax(x @ y), x.reshape(-1)),
        [Argument("x", ("batch", 4), "f32"), Argument("y", (4, "n"), "f32")],
        name="sym",
        result_names=["p", "flat"],
    )
    assert module.signature.symbols == ("batch", "n")
    assert module.signature.results[1].shape == ("4*batch",)
    assert "shape_assertion" not in module.text()
    fixed = module.specialise({"batch": 2, "n": 3})
    x, y = np.random.default_rng(0).normal(size=(2, 2, 4)).astype(np.float32)
    y = np.concatenate([y, y])[:, :3].copy()
    p, flat = run(fixed, x, y)
    np.testing.assert_allclose(p, jax.nn.softmax(x @ y), rtol=1e-6)
    np.testing.assert_array_equal(flat, x.reshape(-1))


def test_locations_keep_scopes_and_leave_out_the_caller():
    def fn(x):
        with jax.named_scope(scope("layers.3", 1)):
            return jnp.sin(x)

    x = [Argument("x", (2,), "f32")]
    quiet = to_module(fn, x, name="f", result_names=["y"], sources=["m.py:1", "m.py:7"])
    assert __file__ not in quiet.text(locations=True)
    assert __file__ in to_module(fn, x, name="f", result_names=["y"], call_sites=True).text(
        locations=True
    )
    with quiet.opened() as parsed:
        body = parsed.body.operations[0].operation.regions[0].blocks[0]
        origin = parse(str(body.operations[0].location), quiet.sources)
    assert (origin.layer, origin.source) == ("layers.3", "m.py:7")


def test_an_inner_jit_stays_one_function():
    @jax.jit
    def layer(x, w):
        return jnp.tanh(x @ w)

    def fn(x, *ws):
        for i, w in enumerate(ws):
            with jax.named_scope(scope(f"layers.{i}")):
                x = layer(x, w)
        return x

    arguments = [Argument("x", (2, 2), "f32")]
    arguments += [Argument(f"w{i}", (2, 2), "f32", "weight") for i in range(5)]
    module = to_module(fn, arguments, name="deep", result_names=["y"])
    assert module.text().count("func.func private") == 1
    assert module.text().count("call @layer") == 5


def test_unfit_requests_are_named():
    x = Argument("x", (2,), "f32")
    state = Argument("s", (2,), "f32", "state")
    with pytest.raises(UsageError, match="returns 1 arrays, 2 are named"):
        to_module(jnp.sin, [x], name="f", result_names=["a", "b"])
    with pytest.raises(UsageError, match="no result updates the state argument 's'"):
        to_module(jnp.sin, [state], name="f", result_names=["a"])
    with pytest.raises(UsageError, match="cannot update s"):
        to_module(jnp.sum, [state], name="f", result_names=["a"], updates={"a": "s"})
    with pytest.raises(UsageError, match="x64=True"):
        to_module(jnp.sin, [Argument("x", (2,), "f64")], name="f", result_names=["a"])
    with pytest.raises(UsageError, match="only a name can be symbolic"):
        to_module(jnp.sin, [Argument("x", ("2*n",), "f32")], name="f", result_names=["a"])


def test_sixty_four_bit_types_survive_when_asked_for():
    arguments = [Argument("x", (2,), "i64")]
    module = to_module(lambda x: x + 1, arguments, name="f", result_names=["y"], x64=True)
    assert module.signature.results[0].dtype == "i64"
