"""Lowering: which ops become one kernel, and what each kernel reads, writes and computes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from anychip.core import Argument, InputError, Module
from anychip.frontends.llm import PRECISIONS
from anychip.frontends.trace import to_module
from anychip.ops.walk import walk, work_inside
from anychip.twin import Lowered, lower


def _module(fn, *arguments: Argument, results=("y",), updates=None) -> Module:
    return to_module(fn, arguments, name="m", result_names=results, updates=updates or {})


def _only_block(lowered: Lowered):
    assert len(lowered.blocks) == 1
    return lowered.blocks[0]


def test_an_elementwise_chain_joins_the_matmul_before_it():
    module = _module(
        lambda x, w, b: jnp.tanh(x @ w + b) * 2,
        Argument("x", (8, 16), "f32"),
        Argument("w", (16, 32), "f32", "weight"),
        Argument("b", (32,), "f32", "weight"),
    )
    (kernel,) = _only_block(lower(module))
    assert kernel.unit == "matmul"
    assert kernel.amounts.flops == 2 * 8 * 16 * 32
    assert kernel.amounts.weight_bytes == (16 * 32 + 32) * 4
    assert kernel.amounts.read_bytes == 8 * 16 * 4
    assert kernel.amounts.written_bytes == 8 * 32 * 4
    assert kernel.amounts.transcendentals == 8 * 32


def test_matmuls_of_one_value_are_one_kernel():
    module = _module(
        lambda x, a, b: (x @ a) * (x @ b),
        Argument("x", (8, 16), "f32"),
        Argument("a", (16, 32), "f32", "weight"),
        Argument("b", (16, 32), "f32", "weight"),
    )
    (kernel,) = _only_block(lower(module))
    assert kernel.amounts.weight_bytes == 2 * 16 * 32 * 4
    assert kernel.amounts.written_bytes == 8 * 32 * 4


def test_values_between_kernels_are_written_once_and_read_by_each_reader():
    module = _module(
        lambda x, a, b: jax.nn.softmax(x @ a, axis=-1) @ b,
        Argument("x", (8, 16), "f32"),
        Argument("a", (16, 32), "f32", "weight"),
        Argument("b", (32, 4), "f32", "weight"),
    )
    kernels = _only_block(lower(module))
    assert [k.unit for k in kernels] == ["matmul", "vector", "vector", "matmul"]
    middle = 8 * 32 * 4
    assert kernels[0].amounts.written_bytes == middle
    assert kernels[1].amounts.read_bytes == middle  # the row's maximum, then x - maximum and exp


def test_a_cache_update_is_written_in_place_and_costs_its_rows():
    def step(x, w, cache, start):
        rows = (x @ w).reshape(1, 1, 1, 32)
        return jax.lax.dynamic_update_slice(cache, rows, (0, 0, start[0], 0))

    module = _module(
        step,
        Argument("x", (1, 16), "f32"),
        Argument("w", (16, 32), "f32", "weight"),
        Argument("k", (1, 1, 1024, 32), "f32", "state"),
        Argument("start", (1,), "i32"),
        results=("k",),
        updates={"k": "k"},
    )
    lowered = lower(module)
    assert lowered.total("state_written_bytes") == 32 * 4
    assert lowered.total("state_read_bytes") == 0
    assert lowered.state_bytes == 1024 * 32 * 4


def test_looking_up_rows_reads_the_rows_only():
    module = _module(
        lambda table, ids: table[ids],
        Argument("table", (1000, 16), "f32", "weight"),
        Argument("ids", (3,), "i32"),
    )
    assert lower(module).total("weight_bytes") == 3 * 16 * 4


def test_equal_layers_are_lowered_once_and_counted(small_model):
    for layers in (4, 24):
        lowered = lower(small_model(layers=layers).decode(1, 64, PRECISIONS["bf16"]))
        assert lowered.layers == layers
        repeated = [count for _, count in lowered.counted() if count > 1]
        assert set(repeated) == {layers}
        assert len(repeated) == 7  # norm, qkv, attention, output, norm, gate and up, down
        assert len(lowered.schedule) == layers + 2


@pytest.mark.parametrize("experts", [0, 8])
@pytest.mark.parametrize("precision", ["bf16", "fp8", "q4_0"])
def test_kernels_do_the_work_of_the_module(small_model, experts: int, precision: str):
    module = small_model(experts=experts).decode(2, 128, PRECISIONS[precision])
    lowered = lower(module)
    matmul = 0
    for step in walk(module, enter=lambda op: op.name != "stablehlo.composite"):
        if step.op.name in ("stablehlo.dot_general", "stablehlo.composite"):
            is_pointwise = step.op.name == "stablehlo.composite" and not any(
                part in str(step.op.attributes["name"]) for part in ("matmul", "attention")
            )
            matmul += 0 if is_pointwise else _flops(step) * step.count
    assert lowered.total("flops") == matmul
    touched = sum(a.nbytes for a in module.signature.named("weight"))
    rows = 2 * module.signature.arguments[0].shape[1] * 2
    table = module.signature.arguments[0].nbytes
    assert lowered.total("weight_bytes") == touched - table + rows


def _flops(step) -> int:
    from anychip.ops.composites import composite_of

    known = composite_of(step.op)
    return (known.work(step.op) if known else work_inside(step)).flops


def test_tensor_parallelism_is_read_off_the_data_flow(small_model):
    kernels = {
        (k.origin.layer.split("/")[0], k.name, i): k
        for i, (k, _) in enumerate(lower(small_model().decode(1, 64, PRECISIONS["bf16"])).counted())
    }
    reduced = [k for k in kernels.values() if k.amounts.reduce_bytes]
    assert [k.amounts.reduce_bytes for k in reduced] == [512 * 2] * 3  # embedding, output, down
    norms = [k for k in kernels.values() if k.name == "anychip.rms_norm"]
    assert not any(k.is_split for k in norms)
    attention = next(k for k in kernels.values() if "attention" in k.name)
    assert attention.is_split
    assert attention.state_splits == 4


def test_a_latent_projection_and_a_router_are_repeated_on_every_chip(small_model):
    lowered = lower(small_model(experts=8, latent=True).decode(1, 64, PRECISIONS["bf16"]))
    whole = {
        round(k.amounts.weight_bytes / 2 / 512)
        for k, _ in lowered.counted()
        if k.unit == "matmul" and not k.is_split
    }
    assert 8 in whole  # the router: 8 experts x 512
    assert 128 + 96 in whole  # query and key-value down-projections, one kernel
    assert 0 < lowered.replicated_weight_bytes < lowered.weight_bytes / 2


def test_a_loop_counts_its_trips():
    module = _module(
        lambda x, w: jax.lax.fori_loop(0, 5, lambda i, y: jnp.tanh(y @ w), x),
        Argument("x", (8, 16), "f32"),
        Argument("w", (16, 16), "f32", "weight"),
    )
    assert lower(module).total("flops") == 5 * 2 * 8 * 16 * 16


def test_symbolic_sizes_are_refused():
    module = _module(
        lambda x, w: x @ w,
        Argument("x", ("batch", 16), "f32"),
        Argument("w", (16, 16), "f32", "weight"),
    )
    with pytest.raises(InputError, match="specialise"):
        lower(module)


def test_lowering_twice_gives_the_same(small_model):
    module = small_model(experts=8).decode(2, 64, PRECISIONS["bf16"])
    assert lower(module) == lower(module)
