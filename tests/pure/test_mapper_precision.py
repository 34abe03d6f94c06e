"""Precision: what a chip is deployed with, and what a model brings along."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anychip.core import Fact, UsageError
from anychip.frontends.llm import PRECISIONS
from anychip.mapper.precision import choices


def _first(model, spec, wanted: str = "auto"):
    return next(iter(choices(wanted, model, spec, PRECISIONS)))[0].name


def _rates(**rates: float):
    return {
        name: Fact(value=rate, source="assumed: guess" if name == "i8" else "test")
        for name, rate in rates.items()
    }


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({"bf16": 1, "f8E4M3FN": 2, "i8": 2}, "fp8"),
        ({"bf16": 1, "i8": 2}, "int8"),
        ({"bf16": 1, "i8": 1}, "bf16"),  # a guessed rate does not win a tie
        ({"bf16": 1, "nvfp4": 4}, "bf16"),  # fewer than eight bits is not a default
        ({"mxint8": 2, "mxint4": 8}, "mxint8"),
        ({"f16": 1}, "f16"),
    ],
)
def test_auto_takes_the_fastest_format_of_eight_bits(hand_chip, small_model, rates, expected):
    assert _first(small_model(), hand_chip(matmul_flops_per_s=_rates(**rates))) == expected


def test_a_four_bit_model_keeps_its_weights(hand_chip, small_model):
    model = replace(small_model(), native_precision=PRECISIONS["mxfp4-experts"])
    assert _first(model, hand_chip()) == "mxfp4-experts"


def test_a_file_keeps_the_format_most_of_it_is_stored_in(hand_chip, tiny_gguf):
    from anychip.frontends.load import load_any

    model = load_any(tiny_gguf(format="q4_1"), None, home=None, options={})
    assert _first(model, hand_chip()) == "q4_1"


def test_narrower_weights_are_tried_only_when_nothing_fits(hand_chip, small_model):
    names = [p.name for p, _ in choices("auto", small_model(), hand_chip(), PRECISIONS)]
    assert names == ["fp8", "q4_0"]
    assert [p.name for p, _ in choices("bf16", small_model(), hand_chip(), PRECISIONS)] == ["bf16"]


def test_an_unknown_precision_lists_the_known(hand_chip, small_model):
    with pytest.raises(UsageError, match="no precision named 'fp7'"):
        _first(small_model(), hand_chip(), "fp7")
