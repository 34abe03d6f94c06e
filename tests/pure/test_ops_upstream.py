"""Self-checking programs are rewritten to return both sides, in every spelling of a check."""

import numpy as np
import pytest

from anychip.core import InputError, Module
from anychip.ops.interp import evaluate
from anychip.testing.upstream import UpstreamCase, returning_checks, upstream_cases

CALLED = """module @jit_main attributes {mhlo.num_partitions = 1 : i32} {
  func.func public @main() -> (tensor<2xf32> {jax.result_info = "", mhlo.layout_mode = "default"}) {
    %0 = call @inputs() : () -> tensor<2xf32>
    %1 = call @expected() : () -> tensor<2xf32>
    %2 = stablehlo.sqrt %0 : tensor<2xf32>
    stablehlo.custom_call @check.expect_close(%2, %1) {has_side_effect = true}
      : (tensor<2xf32>, tensor<2xf32>) -> ()
    return %2 : tensor<2xf32>
  }
  func.func private @inputs() -> (tensor<2xf32> {mhlo.layout_mode = "default"}) {
    %cst = stablehlo.constant dense<[4.0, 9.0]> : tensor<2xf32>
    return %cst : tensor<2xf32>
  }
  func.func private @expected() -> (tensor<2xf32> {mhlo.layout_mode = "default"}) {
    %cst = stablehlo.constant dense<[2.0, WRONG]> : tensor<2xf32>
    return %cst : tensor<2xf32>
  }
}
"""

OLD = """func.func @main() -> tensor<i1> {
  %0 = stablehlo.constant dense<[1, 2]> : tensor<2xi32>
  %1 = stablehlo.negate %0 : tensor<2xi32>
  %2 = stablehlo.constant dense<[-1, -2]> : tensor<2xi32>
  %3 = stablehlo.custom_call @check.eq(%1, %2) : (tensor<2xi32>, tensor<2xi32>) -> tensor<i1>
  return %3 : tensor<i1>
}
"""

DIALECT = """// RUN: something
func.func @negate_op_test() {
  %0 = stablehlo.constant dense<[[1, 2],
                                 [3, 4]]> : tensor<2x2xi32>
  %1 = stablehlo.negate %0 : tensor<2x2xi32>
  check.expect_eq_const %1, dense<[[-1, -2],
                                   [-3, -4]]> : tensor<2x2xi32>
  // and the operand is as it was
  check.expect_eq_const %0, dense<[[1, 2], [3, 4]]> : tensor<2x2xi32>
  func.return
}

// -----

func.func @complex_test() {
  %0 = stablehlo.constant dense<(1.0, 2.0)> : tensor<2xcomplex<f64>>
  %1 = stablehlo.negate %0 : tensor<2xcomplex<f64>>
  check.expect_almost_eq_const %1, dense<(-1.0, -2.0)> : tensor<2xcomplex<f64>>, tolerance = 1.0e-12
  func.return
}
"""


GENERIC = """"builtin.module"() <{sym_name = "jit_main"}> ({
  "func.func"() <{function_type = () -> tensor<2xf32>, sym_name = "main"}> ({
    %0 = "stablehlo.constant"() <{value = dense<[4.0, 9.0]> : tensor<2xf32>}> : () -> tensor<2xf32>
    %1 = "stablehlo.constant"() <{value = dense<[2.0, 3.0]> : tensor<2xf32>}> : () -> tensor<2xf32>
    %2 = "stablehlo.sqrt"(%0) : (tensor<2xf32>) -> tensor<2xf32>
    CHECK
    "func.return"(%2) : (tensor<2xf32>) -> ()
  }) : () -> ()
}) : () -> ()
"""


@pytest.mark.parametrize(
    "check",
    [
        '"stablehlo.custom_call"(%2, %1) <{call_target_name = "check.expect_close", '
        "has_side_effect = true}> : (tensor<2xf32>, tensor<2xf32>) -> ()",
        '"check.expect_close"(%2, %1) {max_ulp_difference = 4 : ui64} '
        ": (tensor<2xf32>, tensor<2xf32>) -> ()",
        '"check.expect_eq"(%2, %1) : (tensor<2xf32>, tensor<2xf32>) -> ()',
        '"check.expect_eq_const"(%2) <{value = dense<[2.0, 3.0]> : tensor<2xf32>}> '
        ": (tensor<2xf32>) -> ()",
    ],
)
def test_generic_forms_of_a_check_return_both_sides(check):
    ((got, want),) = sides(GENERIC.replace("CHECK", check))
    assert got.tolist() == want.tolist() == [2, 3]


def sides(text: str) -> list[tuple[np.ndarray, np.ndarray]]:
    rewritten, checks = returning_checks(text)
    results = [np.asarray(r) for r in evaluate(Module.from_mlir(rewritten))]
    assert len(results) == 2 * checks
    return list(zip(results[:checks], results[checks:], strict=True))


@pytest.mark.parametrize("text", [CALLED.replace("WRONG", "3.0"), OLD])
def test_called_checks_return_both_sides(text):
    ((got, want),) = sides(text)
    assert np.array_equal(got, want)


def test_a_wrong_expectation_shows():
    ((got, want),) = sides(CALLED.replace("WRONG", "3.5"))
    assert got.tolist() == [2, 3]
    assert want.tolist() == [2, 3.5]


def test_files_of_several_programs_are_split(tmp_path):
    (tmp_path / "negate.mlir").write_text(DIALECT)
    (tmp_path / "dynamic.mlir").write_text(
        "func.func @main(%a: tensor<2xf32>) {\n  check.expect_eq %a, %a : tensor<2xf32>\n"
        "  func.return\n}\n"
    )
    (tmp_path / "nothing.mlir").write_text("func.func @main() {\n  func.return\n}\n")
    found = list(upstream_cases(tmp_path))
    cases = [c for c in found if isinstance(c, UpstreamCase)]
    assert [(c.name, c.checks) for c in cases] == [("negate#0", 2), ("negate#1", 1)]
    reasons = [str(c) for c in found if isinstance(c, InputError)]
    assert any("takes arguments" in r for r in reasons)
    assert any("checks nothing" in r for r in reasons)
    for one in cases:
        results = evaluate(Module.from_mlir(one.text))
        for got, want in zip(results[: one.checks], results[one.checks :], strict=True):
            assert np.array_equal(got, want)


def test_an_unknown_spelling_is_not_passed_over():
    text = OLD.replace("stablehlo.custom_call @check.eq(%1, %2)", "check.unheard_of(%1, %2)")
    with pytest.raises(InputError, match="unheard_of"):
        returning_checks(text)
