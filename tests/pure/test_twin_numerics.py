"""A twin's numbers: operands rounded as its spec says, sums as wide, weights rounded once."""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

from anychip.core import (
    Argument,
    Chip,
    CompileOptions,
    Fact,
    InputError,
    Limit,
    Module,
    NumericsSpec,
    Rule,
    Signature,
    UnsupportedError,
    UsageError,
    Weight,
    Weights,
    dtype,
    simulates,
)
from anychip.core.signature import Result
from anychip.frontends.llm import PRECISIONS
from anychip.ops.interp import evaluate
from anychip.twin import twin
from anychip.twin.arithmetic import arithmetic
from anychip.twin.numerics import MARK
from anychip.twin.rounding import BLOCKS, round_blocks
from anychip.twin.split import split


def said(**tables) -> NumericsSpec:
    rules = {
        name: {key: Rule(value=value, source="test") for key, value in table.items()}
        for name, table in tables.items()
        if isinstance(table, dict)
    }
    plain = {n: Rule(value=v, source="test") for n, v in tables.items() if isinstance(v, str)}
    facts = {n: Fact(value=v, source="test") for n, v in tables.items() if isinstance(v, int)}
    return NumericsSpec(**rules, **plain, **facts)


def compiled(spec, module, **extra):
    return twin(Chip(lambda: spec, {"twin": twin})).compile(module, CompileOptions(extra=extra))


def module_of(function, *arrays, weights=()) -> Module:
    """A module whose last arguments are weights with these values."""
    everything = (*arrays, *weights)
    lowered = jax.jit(function, keep_unused=True).lower(*everything).compiler_ir()
    names = [f"x{i}" for i in range(len(arrays))] + [f"w{i}" for i in range(len(weights))]
    out = jax.eval_shape(function, *everything)
    signature = Signature(
        tuple(
            Argument(n, a.shape, dtype(a.dtype).name, "weight" if n[0] == "w" else "input")
            for n, a in zip(names, everything, strict=True)
        ),
        (Result("out", out.shape, dtype(out.dtype).name),),
    )
    bound = Weights(
        tuple(
            Weight(f"w{i}", a.shape, dtype(a.dtype).name, read=lambda a=a: a)
            for i, a in enumerate(weights)
        )
    )
    return Module.from_mlir(lowered, signature=signature, weights=bound)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def matmul(x, w):
    return jnp.tanh(x) @ w.T


def test_operands_are_rounded_to_the_chips_format(hand_chip):
    x, w = draw(3, 40), draw(5, 40, seed=1)
    spec = hand_chip(numerics=said(multiply={"f32": "bf16"}))
    (got,) = compiled(spec, module_of(matmul, x, weights=[w])).run(x)
    bf16 = [a.astype(ml_dtypes.bfloat16).astype(np.float64) for a in (np.tanh(x), w)]
    np.testing.assert_allclose(np.asarray(got), bf16[0] @ bf16[1].T, rtol=1e-5, atol=1e-6)


def test_blocks_lie_along_the_sum_of_both_operands(hand_chip):
    x, w = draw(3, 64), draw(5, 64, seed=1)
    (got,) = compiled(hand_chip(), module_of(matmul, x, weights=[w]), matmul="mxint4").run(x)
    both = [np.asarray(round_blocks(jnp.asarray(a), BLOCKS["mxint4"])) for a in (np.tanh(x), w)]
    np.testing.assert_allclose(np.asarray(got), both[0] @ both[1].T, rtol=1e-5, atol=1e-5)


def test_a_format_the_unit_has_changes_nothing(hand_chip):
    x, w = (a.astype(ml_dtypes.bfloat16) for a in (draw(3, 40), draw(5, 40, seed=1)))
    module = module_of(matmul, x, weights=[w])
    made = compiled(hand_chip(), module)
    assert made.arithmetic.format_of("bf16") == "bf16"
    (want,) = evaluate(module, x, w)
    assert np.array_equal(np.asarray(made.run(x)[0]), np.asarray(want))


def test_the_sum_is_rounded_after_every_run_of_products(hand_chip):
    x, w = draw(2, 12), draw(3, 12, seed=1)
    rules = said(multiply={"f32": "f32"}, accumulate={"f32": "e8m4"}, accumulate_count=4)
    made = compiled(hand_chip(numerics=rules), module_of(lambda x, w: x @ w.T, x, weights=[w]))
    want = np.zeros((2, 3), np.float32)
    for k in range(0, 12, 4):
        want = want + (x[:, k : k + 4].astype(np.float64) @ w[:, k : k + 4].T).astype(np.float32)
        step = 2.0 ** (np.floor(np.log2(np.abs(want))) - 4)
        want = (np.rint(want / step) * step).astype(np.float32)
    assert np.array_equal(np.asarray(made.run(x)[0]), want)


def test_narrow_sums_keep_batch_and_free_dimensions_in_place(hand_chip):
    def attend(q, k):
        return jnp.einsum("bhqd,bhkd->bhqk", q, k)

    q, k = draw(2, 3, 4, 8), draw(2, 3, 5, 8, seed=1)
    rules = said(multiply={"f32": "f32"}, accumulate={"f32": "e8m22"}, accumulate_count=8)
    (got,) = compiled(hand_chip(numerics=rules), module_of(attend, q, k)).run(q, k)
    np.testing.assert_allclose(np.asarray(got), attend(q, k), rtol=1e-5, atol=1e-5)


def test_convolutions_take_blocks_along_the_input_features(hand_chip):
    def convolve(x, w):
        dims = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims)

    x, w = draw(1, 5, 5, 32), draw(3, 3, 32, 4, seed=1)
    (got,) = compiled(hand_chip(), module_of(convolve, x, weights=[w]), matmul="mxint8").run(x)
    block = BLOCKS["mxint8"]
    near = [round_blocks(jnp.asarray(a), block) for a in (x, w.transpose(0, 1, 3, 2))]
    want = convolve(near[0], near[1].transpose(0, 1, 3, 2))
    np.testing.assert_allclose(np.asarray(got), want, rtol=1e-4, atol=1e-4)
    assert np.abs(np.asarray(got) - convolve(x, w)).max() > 1e-3


def test_integers_stay_exact(hand_chip):
    x = np.random.default_rng(0).integers(-128, 128, (3, 40)).astype(np.int8)

    def product(x):
        return lax.dot(x, x.T, preferred_element_type=jnp.int32)

    (got,) = compiled(hand_chip(), module_of(product, x), matmul="mxint4").run(x)
    assert np.array_equal(np.asarray(got), x.astype(np.int32) @ x.T.astype(np.int32))


@lru_cache
def tiny_step(length: int):
    from anychip.frontends.llm.config import TransformerConfig
    from anychip.frontends.llm.model import language_model
    from anychip.frontends.llm.rope import Rope

    config = TransformerConfig(
        family="test",
        layers=2,
        hidden=64,
        heads=4,
        kv_heads=2,
        head_dim=32,
        ffn=128,
        vocabulary=96,
        context=64,
        rope=Rope(theta=1e4),
        norm_eps=1e-5,
    )
    model = language_model(config, name="tiny", source="test")
    module = model.prefill(1, length, 32, PRECISIONS["f32"])
    inputs = []
    weights = []
    for index, a in enumerate(module.signature.arguments):
        values = draw(*a.shape, seed=index) * 0.2
        if a.role == "weight":
            weights.append(Weight(a.name, a.shape, a.dtype, read=lambda v=values: v))
        elif a.name == "tokens":
            inputs.append(np.arange(length, dtype=np.int32)[None] + 3)
        elif a.name == "start":
            inputs.append(np.array([5], np.int32))
        else:
            inputs.append(values)
    return module.with_weights(Weights(tuple(weights))), inputs


def plainly(module, inputs):
    given = iter(inputs)
    return evaluate(
        module,
        *(
            module.weights[a.name].array() if a.role == "weight" else next(given)
            for a in module.signature.arguments
        ),
    )


@pytest.mark.parametrize("length", [1, 6])
def test_a_language_model_runs_with_attention_in_the_chips_format(hand_chip, length):
    module, inputs = tiny_step(length)
    exact = np.asarray(plainly(module, inputs)[0])
    wide = said(multiply={"f32": "f32"})
    same = np.asarray(compiled(hand_chip(numerics=wide), module).run(*inputs)[0])
    np.testing.assert_allclose(same, exact, rtol=1e-4, atol=1e-5)
    errors = []
    for format in ("bf16", "mxint8", "mxint4"):
        made = compiled(hand_chip(), module, matmul=format)
        got = np.asarray(made.run(*inputs)[0])
        errors.append(np.abs(got - exact).max() / np.abs(exact).max())
        assert errors[-1] <= made.tolerance
    assert 1e-5 < errors[0] < errors[1] < errors[2]


def test_weights_are_rounded_once_and_activations_in_every_run(hand_chip):
    module, _ = tiny_step(6)
    made = compiled(hand_chip(), module, matmul="mxint8")
    simulation = made._simulation
    with jax.enable_x64(True):
        traced = simulation._traced()
    total = sum(eqn.params.get("name") == MARK for eqn in traced.jaxpr.eqns)
    parts = split(traced, len(simulation._weights), MARK)
    weights = [simulation._weight(i) for i in simulation._weights]
    prepared = parts.prepare(weights)
    matrices = 2 * 7 + 1  # a layer's products with weights, and the head
    assert len(prepared) == matrices
    assert total == 2 * matrices + 2 * 4  # attention rounds q, k, weights and v
    held = {module.signature.arguments[simulation._weights[i]].name for i in parts.needed}
    assert held == {
        "embed",
        "norm",
        *(f"layers.{i}.{n}_norm" for i in (0, 1) for n in ("attn", "ffn")),
    }


def test_it_says_that_its_numbers_are_simulated(hand_chip):
    target = twin(Chip(hand_chip, {"twin": twin}))
    assert target.runs
    assert simulates(target) == "simulated numerics"


def test_errors_say_what_to_do(hand_chip):
    x, w = draw(3, 40), draw(5, 40, seed=1)
    module = module_of(matmul, x, weights=[w])
    made = compiled(hand_chip(), module)
    with pytest.raises(UsageError, match=r"should be f32\[3, 40\], got float32\[2, 40\]"):
        made.run(x[:2])
    with pytest.raises(UsageError, match="takes 1 arrays"):
        made.run()
    bare = Module.from_mlir(module.text(locations=True), signature=module.signature)
    with pytest.raises(InputError, match="no values for weight w0"):
        compiled(hand_chip(), bare).run(x)
    with pytest.raises(UsageError, match="mxint8"):
        compiled(hand_chip(), module, matmul="mxint9")
    limit = Limit(op="stablehlo.tanh", why="no tanh unit")
    with pytest.raises(UnsupportedError, match="no tanh unit"):
        compiled(hand_chip(limits=(limit,)), module).run(x)


def test_what_a_spec_does_not_say_is_assumed_by_name(hand_chip):
    own = arithmetic(hand_chip())
    assert own.format_of("f32") == "bf16"
    assert own.accumulator_of("bf16") == "f32"
    assert own.sources["multiply.default"].startswith("assumed")
    assert own.format_of("f8E4M3FN") == ""


def test_time_and_coverage_speak_of_the_same_format(hand_chip):
    x, w = draw(3, 64), draw(5, 64, seed=1)
    made = compiled(hand_chip(), module_of(matmul, x, weights=[w]), matmul="f8E4M3FN")
    (row,) = [r for r in made.coverage.rows if r.op == "stablehlo.dot_general"]
    assert row.fate == "emulated"
    assert "f32 products are rounded to f8E4M3FN" in row.why
    assert '"format": "f8E4M3FN"' in made.artifacts["kernels.json"]
