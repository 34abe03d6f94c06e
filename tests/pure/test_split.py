"""Cutting a module where a target says no: pieces verify, compose, and are as few as can be."""

from __future__ import annotations

import numpy as np
import pytest

from anychip.core import Module, UsageError
from anychip.ops.interp import evaluate
from anychip.ops.view import OpView
from anychip.passes.split import Division, split

DIAMOND = """
module @diamond {
  func.func public @main(%x: tensor<4x8xf32> loc("x"), %y: tensor<4x8xf32> loc("y"))
      -> (tensor<4x8xf32>, tensor<4x8xf32>, tensor<4x8xf32>) {
    %half = stablehlo.constant dense<0.5> : tensor<4x8xf32>
    %0 = stablehlo.multiply %x, %half : tensor<4x8xf32>
    %1 = stablehlo.exponential %0 : tensor<4x8xf32> loc("left/exp")
    %2 = stablehlo.add %y, %half : tensor<4x8xf32>
    %3 = stablehlo.exponential %2 : tensor<4x8xf32> loc("right/exp")
    %4 = stablehlo.add %1, %3 : tensor<4x8xf32>
    return %4, %x, %half : tensor<4x8xf32>, tensor<4x8xf32>, tensor<4x8xf32>
  }
}
"""

CALLS = """
module @calls {
  func.func public @main(%x: tensor<4x8xf32> loc("x"), %n: tensor<i32> loc("n"))
      -> tensor<4x8xf32> {
    %0 = stablehlo.composite "test.act" %x {decomposition = @act}
      : (tensor<4x8xf32>) -> tensor<4x8xf32> loc("layer/act")
    %one = stablehlo.constant dense<1> : tensor<i32>
    %1:2 = stablehlo.while(%i = %n, %v = %0) : tensor<i32>, tensor<4x8xf32>
      cond {
        %c = stablehlo.compare LT, %i, %one : (tensor<i32>, tensor<i32>) -> tensor<i1>
        stablehlo.return %c : tensor<i1>
      } do {
        %a = stablehlo.add %i, %one : tensor<i32>
        %b = stablehlo.add %v, %x : tensor<4x8xf32>
        stablehlo.return %a, %b : tensor<i32>, tensor<4x8xf32>
      }
    %2 = func.call @twice(%1#1) : (tensor<4x8xf32>) -> tensor<4x8xf32>
    return %2 : tensor<4x8xf32>
  }
  func.func private @act(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
    %0 = stablehlo.tanh %x : tensor<4x8xf32>
    %1 = stablehlo.multiply %0, %x : tensor<4x8xf32>
    return %1 : tensor<4x8xf32>
  }
  func.func private @twice(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
    %0 = stablehlo.add %x, %x : tensor<4x8xf32>
    return %0 : tensor<4x8xf32>
  }
}
"""


def _lacking(*names: str):
    def unable(op: OpView) -> str:
        title = str(op.attributes["name"]) if op.name == "stablehlo.composite" else op.name
        return "the test says so" if title in names else ""

    return unable


def _composed(
    module: Module, division: Division, inputs: dict[str, np.ndarray]
) -> list[np.ndarray]:
    values = dict(inputs)
    for piece in division.pieces:
        results = evaluate(
            piece.module, *(values[a.name] for a in piece.module.signature.arguments)
        )
        values.update(zip(piece.gives, (np.asarray(r) for r in results), strict=True))
    return [values[name] for name in division.results]


def _inputs(module: Module) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        a.name: np.zeros(a.shape, np.int32) if a.dtype == "i32" else rng.random(a.shape, np.float32)
        for a in module.signature.arguments
    }


@pytest.mark.parametrize(
    ("text", "lacks", "sides"),
    [
        (DIAMOND, (), [True]),
        (DIAMOND, ("stablehlo.exponential",), [True, False, True]),
        (DIAMOND, ("stablehlo.multiply",), [True, False, True]),
        (CALLS, ("stablehlo.tanh",), [False, True]),
        (CALLS, ("test.act",), [False, True]),
        (CALLS, ("stablehlo.compare",), [True, False, True]),
        (CALLS, ("stablehlo.add",), [True, False]),
    ],
)
def test_pieces_compose_to_the_module(text, lacks, sides):
    module = Module.from_mlir(text)
    division = split(module, _lacking(*lacks))
    assert [piece.is_on_target for piece in division.pieces] == sides
    inputs = _inputs(module)
    wanted = evaluate(module, *inputs.values())
    for got, want in zip(_composed(module, division, inputs), wanted, strict=True):
        np.testing.assert_array_equal(got, np.asarray(want))


def test_no_refused_op_is_left_on_the_target_and_none_is_lost():
    module = Module.from_mlir(DIAMOND)
    division = split(module, _lacking("stablehlo.exponential"))
    on_target = "".join(p.module.text() for p in division.pieces if p.is_on_target)
    off_target = "".join(p.module.text() for p in division.pieces if not p.is_on_target)
    assert "exponential" not in on_target
    assert off_target.count("stablehlo.exponential") == 2
    assert "left/exp" in off_target or "left" in division.pieces[1].module.text(locations=True)


def test_a_whole_composite_stays_whole_where_nothing_in_it_is_refused():
    division = split(Module.from_mlir(CALLS), _lacking("stablehlo.compare"))
    assert 'composite "test.act"' in division.pieces[0].module.text()


def test_symbolic_sizes_are_refused():
    text = """
module @open { func.func public @main(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %0 = stablehlo.tanh %x : tensor<?x4xf32> return %0 : tensor<?x4xf32> } }
"""
    with pytest.raises(UsageError, match="symbolic dimensions"):
        split(Module.from_mlir(text), _lacking())
