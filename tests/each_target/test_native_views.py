"""`cpu:native`: results and operands that are parts of a buffer."""

import jax.numpy as jnp
import numpy as np
import pytest

from anychip.compilers.native import NativeTarget
from anychip.compilers.native.target import plan_step
from anychip.compilers.xla import XlaTarget
from anychip.core import Argument, CompileOptions, dtype
from anychip.frontends.trace import to_module


def agree(function, shape, results, element="f32"):
    arguments = [Argument("x", shape, element)]
    names = [f"r{i}" for i in range(results)]
    module = to_module(function, arguments, name="parts", result_names=names)
    options = CompileOptions(threads=2)
    numbers = np.random.default_rng(0).standard_normal(shape, np.float32)
    x = (100 * numbers).astype(dtype(element).numpy)
    want = XlaTarget().compile(module, options).run(x)
    got = NativeTarget().compile(module, options).run(x)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "parts",
    [
        lambda y: (y[:1], y),
        lambda y: (y[:1], y * 2.0),
        lambda y: (y[1:], y[:1]),
        lambda y: (y, y[5:9], y.reshape(-1)[:640]),
    ],
    ids=["first and whole", "first, then used", "rest and first", "whole and parts"],
)
def test_a_result_that_is_some_rows_of_a_buffer_is_no_larger_than_that(parts):
    agree(lambda x: parts(x + 1.0), (300, 640), len(parts(np.zeros((300, 640)))))


def test_threads_meet_before_rows_of_another_shape_are_read():
    def function(x):
        y = jnp.tanh(x)  # 12 rows of 64
        return jnp.tanh(y[:3].reshape(12, 16)), jnp.tanh(y)

    module = to_module(
        function, [Argument("x", (12, 64), "f32")], name="parts", result_names=["a", "b"]
    )
    plan = plan_step(module, threads=2)
    kinds = [task.kernel.units for task in plan.tasks]
    assert kinds == [12, 12, 12]
    assert plan.barriers == {1}


@pytest.mark.parametrize(
    "moved",
    [
        lambda x: x.T,
        lambda x: x.T.reshape(-1),
        lambda x: x[:, ::3],
        lambda x: x.reshape(3, 4, 64).transpose(2, 0, 1) + 1,
        lambda x: x.T.reshape(24, 32) + x.reshape(-1)[:32],
    ],
    ids=["transposed", "copied", "every third", "then added", "copied, then added"],
)
@pytest.mark.parametrize("element", ["f32", "i32"])
def test_numbers_of_a_row_that_are_apart_are_gathered(moved, element):
    agree(lambda x: (moved(x),), (12, 64), 1, element)
