"""core/signature.py: guards say for which sizes a symbolic program holds."""

import pytest

from anychip.core import Argument, InputError, Signature, UnsupportedError
from anychip.core.target import OpCoverage


def signature(*guards: str) -> Signature:
    return Signature((Argument("x", ("batch", "length"), "f32"),), (), guards)


def test_only_broken_guards_are_named():
    bounded = signature("batch <= 8", "mod(length, 4) == 0", "length - 2*batch >= 0")
    assert bounded.violated({"batch": 8, "length": 16}) == ()
    assert bounded.violated({"batch": 9, "length": 18}) == ("batch <= 8", "mod(length, 4) == 0")


def test_guards_survive_the_round_trip_through_json():
    bounded = signature("batch <= 8")
    assert Signature.from_json(bounded.to_json()) == bounded


@pytest.mark.parametrize("text", ["batch <=", "__import__('os')", "batch.real >= 1", "other >= 1"])
def test_a_guard_that_is_no_comparison_is_refused(text: str):
    with pytest.raises(InputError, match="guard"):
        signature(text).violated({"batch": 1, "length": 1})


def test_an_unsupported_error_carries_all_rows_of_its_report():
    rows = [OpCoverage(op=name, fate="unsupported") for name in ("a", "b")]
    assert UnsupportedError("no", report=rows).report == tuple(rows)
