"""What a TPU core lacks is said to be emulated, and why; no compiler is needed to say so."""

from __future__ import annotations

import pytest

from anychip.compilers.ledger import ledger
from anychip.compilers.libtpu.executable import emulated
from anychip.core import Module


@pytest.mark.parametrize(
    ("op", "dtype", "why"),
    [
        ("dot_general", "f32", "bf16"),
        ("dot_general", "bf16", ""),
        ("add", "i64", "pairs"),
        ("add", "f32", ""),
    ],
)
def test_what_the_chip_lacks_is_said_to_be_emulated(op, dtype, why):
    kind = f"tensor<64x64x{dtype}>"
    how = "%a, %b, contracting_dims = [1] x [0] : " if op == "dot_general" else "%a, %b : "
    types = f"({kind}, {kind}) -> {kind}" if op == "dot_general" else kind
    module = Module.from_mlir(f"""
module @one {{ func.func public @main(%a: {kind}, %b: {kind}) -> {kind} {{
  %0 = stablehlo.{op} {how}{types} return %0 : {kind} }} }}
""")
    (row,) = ledger(module, emulated).rows
    assert row.fate == ("emulated" if why else "native")
    assert why in row.why
