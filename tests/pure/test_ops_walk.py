"""walk: every executed op once, with its count, absolute origin and the argument it reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anychip.core import Module
from anychip.core.origin import scope
from anychip.core.signature import Argument, Result, Signature
from anychip.ops import Work, program, total, walk, work_inside
from anychip.ops.trips import trip_count


def module(function, *shapes, roles=(), names=()) -> Module:
    """A function lowered by JAX, with argument names and roles of our own."""
    arrays = [jax.ShapeDtypeStruct(s, np.float32) for s in shapes]
    lowered = jax.jit(function, keep_unused=True).lower(*arrays)
    outs = jax.tree.leaves(jax.eval_shape(function, *arrays))
    roles = roles or ("input",) * len(shapes)
    names = names or tuple(f"x{i}" for i in range(len(shapes)))
    arguments = tuple(
        Argument(n, tuple(s), "f32", r) for n, s, r in zip(names, shapes, roles, strict=True)
    )
    results = tuple(Result(f"y{i}", o.shape, "f32") for i, o in enumerate(outs))
    return Module.from_mlir(
        lowered.compiler_ir("stablehlo"), signature=Signature(arguments, results)
    )


@jax.jit
def layer(x, w):
    with jax.named_scope("mlp"):
        return jnp.tanh(x @ w)


def stacked(x, *ws):
    for i, w in enumerate(ws):
        with jax.named_scope(scope(f"layers.{i}")):
            x = layer(x, w)
    return x


def test_shared_function_is_visited_for_each_call_with_its_own_origin_and_weight():
    made = module(
        stacked,
        (2, 8),
        *[(8, 8)] * 3,
        roles=("input", *["weight"] * 3),
        names=("x", "layers.0.w", "layers.1.w", "layers.2.w"),
    )
    assert len(program(made).functions) == 2
    dots = [s for s in walk(made) if s.op.name == "stablehlo.dot_general"]
    assert [s.origin.layer for s in dots] == [f"layers.{i}/mlp" for i in range(3)]
    assert [s.roots[1].argument.name for s in dots] == [f"layers.{i}.w" for i in range(3)]
    assert dots[0].roots[0].argument.name == "x"
    assert dots[1].roots[0] is None
    assert total(made) == sum((s.work for s in walk(made)), Work())
    assert total(made).flops == 3 * 2 * 2 * 8 * 8


def test_deep_module_is_read_once_per_function():
    ws = [(8, 8)] * 126
    made = module(stacked, (2, 8), *ws)
    steps = list(walk(made))
    ops = {id(s.op) for s in steps}
    assert len(steps) == 126 * 3  # call, dot_general, tanh
    assert len(ops) == 126 + 2  # the calls differ, the body is one


def test_views_of_a_weight_keep_its_name_and_say_what_was_done():
    def f(x, w):
        return x @ jnp.broadcast_to(
            w.T.astype(jnp.bfloat16).astype(jnp.float32)[None, :, 1:], (3, 4, 5)
        )

    made = module(f, (3, 2, 4), (6, 4), roles=("input", "weight"), names=("x", "w"))
    (dot,) = [s for s in walk(made) if s.op.name == "stablehlo.dot_general"]
    root = dot.roots[1]
    assert root is not None
    assert (root.argument.name, root.role) == ("w", "weight")
    assert {"stablehlo.transpose", "stablehlo.convert", "stablehlo.slice"} <= set(root.via)
    assert not root.is_updated


def test_updated_cache_is_still_the_state():
    def f(cache, new):
        cache = jax.lax.dynamic_update_slice(cache, new, (1, 0))
        return jnp.sum(cache * 2, axis=1), cache

    made = module(f, (8, 4), (1, 4), roles=("state", "input"), names=("k", "new"))
    (multiply,) = [s for s in walk(made) if s.op.name == "stablehlo.multiply"]
    assert multiply.roots[0].argument.name == "k"
    assert multiply.roots[0].is_updated


def test_a_computed_value_has_no_root():
    made = module(lambda x: jnp.tanh(x) * x, (3,))
    (multiply,) = [s for s in walk(made) if s.op.name == "stablehlo.multiply"]
    assert [r and r.argument.name for r in multiply.roots] == [None, "x0"]


@pytest.mark.parametrize(
    ("function", "trips"),
    [
        (lambda x: jax.lax.fori_loop(0, 10, lambda i, a: a * x, x), 10),
        (lambda x: jax.lax.fori_loop(3, 5, lambda i, a: a * x, x), 2),
        (lambda x: jax.lax.scan(lambda c, _: (c * x, None), x, None, length=7)[0], 7),
        (lambda x: jax.lax.scan(lambda c, _: (c * x, None), x, None, 5, reverse=True)[0], 5),
    ],
)
def test_loops_with_evident_length_are_counted(function, trips):
    products = [s for s in walk(module(function, (3,))) if s.op.name == "stablehlo.multiply"]
    assert [(s.count, s.is_counted) for s in products] == [(trips, True)]


def test_nested_loops_multiply():
    def f(x):
        inner = lambda i, a: jax.lax.fori_loop(0, 4, lambda j, b: b * x, a)  # noqa: E731
        return jax.lax.fori_loop(0, 3, inner, x)

    (product,) = [s for s in walk(module(f, (3,))) if s.op.name == "stablehlo.multiply"]
    assert product.count == 12


def test_loop_that_depends_on_data_is_counted_once_and_flagged():
    def f(x):
        return jax.lax.while_loop(lambda a: jnp.sum(a) < 100, lambda a: a * 2, x)

    made = module(f, (3,))
    (product,) = [s for s in walk(made) if s.op.name == "stablehlo.multiply"]
    assert (product.count, product.is_counted) == (1, False)


@pytest.mark.parametrize(
    ("start", "direction", "bound", "step", "want"),
    [
        (0, "LT", 10, 3, 4),
        (0, "LE", 10, 5, 3),
        (10, "GT", 0, -2, 5),
        (10, "GE", 0, -5, 3),
        (0, "NE", 6, 2, 3),
        (0, "NE", 5, 2, None),
        (0, "LT", 10, 0, None),
        (5, "LT", 0, 1, 0),
    ],
)
def test_trip_counts_of_every_comparison(start, direction, bound, step, want):
    text = f"""func.func @main() -> tensor<i32> {{
      %start = stablehlo.constant dense<{start}> : tensor<i32>
      %bound = stablehlo.constant dense<{bound}> : tensor<i32>
      %r = stablehlo.while(%i = %start) : tensor<i32>
      cond {{
        %c = stablehlo.compare {direction}, %i, %bound : (tensor<i32>, tensor<i32>) -> tensor<i1>
        stablehlo.return %c : tensor<i1>
      }} do {{
        %s = stablehlo.constant dense<{step}> : tensor<i32>
        %n = stablehlo.add %s, %i : tensor<i32>
        stablehlo.return %n : tensor<i32>
      }}
      return %r : tensor<i32>}}"""
    start_op, bound_op, loop = program(Module.from_mlir(text)).main.ops
    known = {o.results[0]: o.attributes["value"] for o in (start_op, bound_op)}
    assert trip_count(loop, known) == want


def test_weights_of_a_scanned_stack_keep_their_root_inside_the_loop():
    def f(x, ws):
        return jax.lax.scan(lambda c, w: (c @ w, None), x, ws)[0]

    made = module(f, (2, 4), (6, 4, 4), roles=("input", "weight"), names=("x", "ws"))
    (dot,) = [s for s in walk(made) if s.op.name == "stablehlo.dot_general"]
    assert dot.count == 6
    assert dot.roots[1].argument.name == "ws"
    assert "stablehlo.dynamic_slice" in dot.roots[1].via
    assert dot.roots[0] is None  # the carry is only at first the input


def test_branches_are_each_counted_once_and_flagged():
    def f(x):
        return jax.lax.cond(x[0] > 0, lambda: x * 2, lambda: x + 1)

    steps = {s.op.name: s for s in walk(module(f, (3,)))}
    assert not steps["stablehlo.multiply"].is_counted
    assert not steps["stablehlo.add"].is_counted
    assert steps["stablehlo.case"].is_counted


def test_composite_is_one_step_or_many_as_the_caller_likes():
    def body(x, w):
        return jnp.tanh(x @ w)

    def f(x, w):
        return jax.lax.composite(body, "anychip.test")(x, w) + 1

    made = module(f, (2, 4), (4, 4), roles=("input", "weight"), names=("x", "w"))
    inside = {s.op.name for s in walk(made)}
    outside = {s.op.name for s in walk(made, lambda op: op.name != "stablehlo.composite")}
    assert inside - outside == {"stablehlo.dot_general", "stablehlo.tanh"}
    (step,) = [s for s in walk(made) if s.op.name == "stablehlo.composite"]
    assert step.roots[1].argument.name == "w"
    assert step.work == Work()
    assert work_inside(step) == Work(2 * 2 * 4 * 4, 4 * (8 + 16), 4 * 8, 8)


def test_scalar_regions_are_part_of_their_op():
    names = [s.op.name for s in walk(module(lambda x: jnp.sum(x), (3,)))]
    assert names.count("stablehlo.add") == 0
    assert "stablehlo.reduce" in names
