"""ops/composites.py: bodies say what they claim, attributes survive, work is counted truthfully."""

import jax
import numpy as np
import pytest

from anychip.core import Argument, UsageError, dtype
from anychip.frontends.trace import to_module
from anychip.ops.composites import (
    COMPOSITES,
    cached_attention,
    composite_of,
    expected_experts,
    grouped_matmul,
    quantized_matmul,
    rms_norm,
    softmax,
)
from anychip.ops.view import program

EXAMPLES = [
    pytest.param(one, example, id=f"{one.name}-{index}")
    for one in COMPOSITES.values()
    for index, example in enumerate(one.examples)
]
STEP = {"f32": 2.0**-22, "bf16": 2.0**-8, "ui8": 0.0}  # bytes of blocks are exact


def module_of(composite, arrays, attributes):
    arguments = [
        Argument(f"a{i}", tuple(a.shape), dtype(a.dtype).name) for i, a in enumerate(arrays)
    ]
    return to_module(
        lambda *xs: composite(*xs, **attributes),
        arguments,
        name=composite.name,
        result_names=["y"],
    )


def op_of(composite, specs, **attributes):
    """The composite's op for arguments given as ("bf16", shape) pairs."""
    arguments = [Argument(f"a{i}", shape, name) for i, (name, shape) in enumerate(specs)]
    module = to_module(
        lambda *xs: composite(*xs, **attributes), arguments, name="one", result_names=["y"]
    )
    return next(op for op in program(module).main.ops if op.name == "stablehlo.composite")


@pytest.mark.parametrize(("one", "example"), EXAMPLES)
def test_body_equals_its_independent_statement(one, example):
    arrays = example.arrays()
    got = jax.jit(lambda *xs: one(*xs, **example.attributes))(*arrays)
    expected = example.expected(arrays)
    low = dtype(arrays[0].dtype).name
    step = STEP[low] * max(1.0, example.reduced**0.5)
    if example.attributes.get("activation"):
        step = max(step, 2e-3)  # a value on the edge of two codes may fall either way
    worst = np.abs(np.asarray(got, np.float64) - expected).max()
    assert worst <= step * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("one", COMPOSITES.values(), ids=lambda one: one.name)
def test_every_composite_keeps_name_attributes_and_a_body_in_the_module(one):
    example = one.examples[0]
    module = module_of(one, example.arrays(), example.attributes)
    functions = program(module).functions
    ops = [op for op in functions["main"].ops if op.name == "stablehlo.composite"]
    assert [op.attributes["name"] for op in ops] == [one.full_name]
    assert ops[0].attributes["composite_attributes"] == {**one.defaults, **example.attributes}
    assert composite_of(ops[0]) is one
    assert functions[ops[0].callee].ops
    work = one.work(ops[0])
    assert work.read_bytes > 0
    assert work.written_bytes > 0
    assert one.unit == "move" or work.flops > 0


def test_low_precision_sums_are_made_in_f32():
    x = np.full((1, 4096), 1.0, "float32").astype(dtype("bf16").numpy)
    np.testing.assert_array_equal(np.asarray(softmax(x), np.float32) * 4096, 1)
    big = (np.ones((1, 4096), np.float32) * 200).astype(dtype("f16").numpy)
    np.testing.assert_array_equal(rms_norm(big, eps=1e-6), 1)  # 200² overflows f16


def test_symbolic_shapes_get_the_plain_body():
    arguments = [Argument("x", ("n", 4), "f32")]
    module = to_module(softmax, arguments, name="s", result_names=["y"])
    assert "stablehlo.composite" not in module.text()
    assert "anychip.softmax" in module.text(locations=True)


def test_misspelt_and_missing_attributes_are_refused():
    x = np.zeros((2, 4), np.float32)
    with pytest.raises(UsageError, match="no attribute 'axes'"):
        softmax(x, axes=1)
    with pytest.raises(UsageError, match="needs the attribute 'eps'"):
        rms_norm(x)


def test_quantized_matmul_reads_packed_bytes():
    blocks = 4096 // 32 * 18
    op = op_of(quantized_matmul, [("bf16", (2, 4096)), ("ui8", (1024, blocks))], format="q4_0")
    work = quantized_matmul.work(op)
    assert work.flops == 2 * 2 * 1024 * 4096
    assert work.read_bytes == 1024 * blocks + 2 * 4096 * 2


def test_cached_attention_reads_the_whole_cache_and_counts_causal_pairs():
    cache = ("bf16", (2, 8, 1024, 128))
    for queries, window, pairs in ((1, 0, 1024), (1, 100, 100), (1024, 0, 1024 * 1025 // 2)):
        op = op_of(
            cached_attention,
            [("bf16", (2, 32, queries, 128)), cache, cache, ("i32", (2,))],
            scale=0.1,
            window=window,
        )
        work = cached_attention.work(op)
        assert work.transcendentals == 2 * 32 * pairs
        assert work.flops == 2 * 32 * pairs * (2 * 256 + 5)
        assert work.read_bytes == 2 * 2 * 8 * 1024 * 128 * 2 + 2 * 32 * queries * 128 * 2 + 8


def test_grouped_matmul_reads_the_experts_tokens_are_expected_to_touch():
    experts, active, tokens = 64, 4, 16
    op = op_of(
        grouped_matmul,
        [("bf16", (tokens * active, 32)), ("bf16", (experts, 16, 32)), ("i32", (experts,))],
        active=active,
    )
    random = np.random.default_rng(0)
    trials = [
        len({e for _ in range(tokens) for e in random.choice(experts, active, replace=False)})
        for _ in range(400)
    ]
    touched = expected_experts(experts, active, tokens)
    assert abs(touched - np.mean(trials)) < 0.5
    work = grouped_matmul.work(op)
    rest = 64 * 32 * 2 + experts * 4
    assert work.read_bytes - rest == round(touched * 16 * 32 * 2)
    assert work.flops == 2 * tokens * active * 16 * 32


def test_one_token_touches_exactly_its_experts():
    assert expected_experts(256, 8, 1) == pytest.approx(8)
