"""Arguments spread over a mesh by what products do with them; what does not divide stays."""

import json

import pytest

from anychip.compilers.spread import sharding, spread
from anychip.core import Module, UsageError
from anychip.core.signature import Argument, Result, Signature


@pytest.mark.parametrize(
    ("axes", "mesh", "text"),
    [
        (("", ""), (1, 8), "{replicated}"),
        (("tensor", ""), (1, 8), "{devices=[8,1]<=[1,8]T(1,0)}"),
        (("data", "tensor"), (2, 4), "{devices=[2,4]<=[2,4]}"),
        (("data", ""), (2, 4), "{devices=[2,1,4]<=[2,4] last_tile_dim_replicate}"),
        (("", "tensor"), (2, 4), "{devices=[1,4,2]<=[2,4]T(1,0) last_tile_dim_replicate}"),
    ],
)
def test_axes_are_written_as_hlo_shardings(axes, mesh, text):
    assert sharding(axes, mesh) == text


MLP = """
module @mlp { func.func public @main(%up: tensor<16x64xf32>, %down: tensor<64x16xf32>,
    %bias: tensor<16xf32>, %cache: tensor<2x6x4xf32>, %x: tensor<2x16xf32>)
    -> (tensor<2x16xf32>, tensor<2x6x4xf32>) {
  %0 = stablehlo.dot_general %x, %up, contracting_dims = [1] x [0]
    : (tensor<2x16xf32>, tensor<16x64xf32>) -> tensor<2x64xf32>
  %1 = stablehlo.dot_general %0, %down, contracting_dims = [1] x [0]
    : (tensor<2x64xf32>, tensor<64x16xf32>) -> tensor<2x16xf32>
  return %1, %cache : tensor<2x16xf32>, tensor<2x6x4xf32> } }
"""


@pytest.fixture
def mlp() -> Module:
    arguments = (
        Argument("mlp.up", (16, 64), "f32", "weight"),
        Argument("mlp.down", (64, 16), "f32", "weight"),
        Argument("mlp.bias", (16,), "f32", "weight"),
        Argument("cache", (2, 6, 4), "f32", "state"),
        Argument("x", (2, 16), "f32", "input"),
    )
    results = (Result("y", (2, 16), "f32"), Result("cache_next", (2, 6, 4), "f32", "cache"))
    return Module.from_mlir(MLP, signature=Signature(arguments, results))


def test_products_split_what_they_make_and_projections_back_what_they_sum(mlp):
    made = spread(mlp, "4")
    assert made.devices == 4
    assert made.axes["mlp.up"] == ("", "tensor")
    assert made.axes["mlp.down"] == ("tensor", "")
    assert made.axes["mlp.bias"] == ("",)
    assert made.axes["cache"] == ("", "", "")  # 6 heads do not divide by 4
    assert json.loads(made.to_json())["mesh"] == {"data": 1, "tensor": 4}


def test_sequences_go_over_data_and_heads_over_tensor(mlp):
    made = spread(mlp, "data=2,tensor=3")
    assert made.axes["cache"] == ("data", "tensor", "")
    assert made.axes["x"] == ("data", "")
    assert made.axes["mlp.up"] == ("", "")  # 64 does not divide by 3


def test_the_user_may_know_better(mlp):
    assert spread(mlp, "2", "mlp.up=0").axes["mlp.up"] == ("tensor", "")


@pytest.mark.parametrize(
    ("shards", "split", "said"),
    [
        ("rows=2", "", "is no mesh"),
        ("0", "", "is no mesh"),
        ("tensor=two", "", "not name=number"),
        ("3", "mlp.up=1", "does not divide"),
        ("2", "mlp.sideways=1", "no weight"),
    ],
)
def test_what_cannot_be_meant_is_refused(mlp, shards, split, said):
    with pytest.raises(UsageError, match=said):
        spread(mlp, shards, split)
