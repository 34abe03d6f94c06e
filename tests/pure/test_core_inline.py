"""Calls put in place: what refinement cannot settle as a function, it can where it is called."""

from __future__ import annotations

from anychip.core import Argument, Module, Result, Signature, ir
from anychip.core.inline import inline_calls
from anychip.core.module import find_function

CALLS = """module {
  func.func public @main(%x: tensor<?xf32>) -> tensor<?xf32> {
    %a = stablehlo.constant dense<2> : tensor<i32>
    %b = stablehlo.constant dense<3> : tensor<i32>
    %0 = func.call @repeat(%x, %a) : (tensor<?xf32>, tensor<i32>) -> tensor<?xf32> loc("first#0/j")
    %1 = func.call @repeat(%0, %b) : (tensor<?xf32>, tensor<i32>) -> tensor<?xf32> loc("then#1/j")
    return %1 : tensor<?xf32>
  }
  func.func private @repeat(%x: tensor<?xf32>, %n: tensor<i32>) -> tensor<?xf32> {
    %d = stablehlo.get_dimension_size %x, dim = 0 : (tensor<?xf32>) -> tensor<i32>
    %s = func.call @product(%d, %n) : (tensor<i32>, tensor<i32>) -> tensor<i32>
    %shape = stablehlo.reshape %s : (tensor<i32>) -> tensor<1xi32>
    %zero = stablehlo.constant dense<0.0> : tensor<f32>
    %sum = stablehlo.reduce(%x init: %zero) applies stablehlo.add across dimensions = [0]
      : (tensor<?xf32>, tensor<f32>) -> tensor<f32>
    %y = stablehlo.dynamic_broadcast_in_dim %sum, %shape, dims = []
      : (tensor<f32>, tensor<1xi32>) -> tensor<?xf32> loc("in/broadcast")
    return %y : tensor<?xf32>
  }
  func.func private @product(%a: tensor<i32>, %b: tensor<i32>) -> tensor<i32> {
    %0 = stablehlo.multiply %a, %b : tensor<i32>
    return %0 : tensor<i32>
  }
}"""


def names(parsed) -> list[str]:
    block = find_function(parsed, "main").operation.regions[0].blocks[0]
    return [op.operation.name for op in block.operations]


def test_calls_and_calls_inside_them_are_replaced_by_bodies():
    parsed = ir.parse(CALLS)
    with parsed.context:
        inline_calls(parsed)
        parsed.operation.verify()
        found = names(parsed)
    assert "func.call" not in found
    assert found.count("stablehlo.multiply") == 2
    assert found.count("stablehlo.reduce") == 2


def test_functions_called_with_different_sizes_specialise_and_keep_their_origins():
    from anychip.ops.walk import walk

    signature = Signature((Argument("x", ("n",), "f32"),), (Result("y", ("m",), "f32"),))
    module = Module.from_mlir(CALLS, signature=signature, sources=("m:1", "m:2"))
    fixed = module.specialise({"n": 4})
    assert fixed.signature.results[0].shape == (24,)
    origins = [
        str(step.origin) for step in walk(fixed) if step.op.name.startswith("stablehlo.broadcast")
    ]
    assert origins == ["first/in (m:1)", "then/in (m:2)"]
