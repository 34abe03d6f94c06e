"""Damaged StableHLO files, each read in a child: they load or end in one of our errors."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from anychip.core import ir
from anychip.core.errors import InputError, UnsupportedError
from anychip.frontends.stablehlo import from_source

TEXT = """func.func @main(%x: tensor<2x3xf32>, %w: tensor<3x4xf32>) -> tensor<2x4xf32> {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0]
    : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
  %1 = stablehlo.tanh %0 : tensor<2x4xf32>
  return %1 : tensor<2x4xf32>
}"""


def damaged(data: bytes, seed: int) -> bytes:
    draw, out = random.Random(seed), bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = draw.randrange(len(out))
        kind = draw.randrange(4)
        if kind == 0:
            out[at] = draw.randrange(256)
        elif kind == 1:
            out[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del out[at : at + draw.randrange(1, 12)]
        else:
            out[at:at] = draw.randbytes(draw.randrange(1, 8))
    return bytes(out)


@pytest.mark.parametrize(("form", "count"), [("text", 400), ("bytecode", 25), ("portable", 25)])
def test_damaged_files_load_or_end_in_our_errors(form: str, count: int) -> None:
    source = TEXT.encode()
    if form != "text":
        source = ir.to_bytecode(ir.parse(TEXT))
    if form == "portable":
        source = ir.to_portable(source)
    from_source(source)
    outcomes: Counter[str] = Counter()
    for seed in range(count):
        try:
            from_source(damaged(source, seed), path="m")
            outcomes["loaded"] += 1
        except (InputError, UnsupportedError) as error:
            outcomes[type(error).__name__] += 1
    assert outcomes["InputError"] > count / 4
