"""A decode step must not copy its KV cache: at long contexts that costs more than reading it."""

from __future__ import annotations

import re

import anychip
from anychip.core import CompileOptions, discover
from anychip.frontends.llm import PRECISIONS


def test_no_copy_in_the_optimised_program_has_the_shape_of_the_cache():
    model = anychip.load("smollm2-135m")
    module = model.decode(1, 320, PRECISIONS["f32"])
    shapes = {tuple(a.shape) for a in module.signature.named("state")}
    assert shapes == {(1, 3, 320, 64)}
    hlo = str(discover().target("cpu:xla").compile(module, CompileOptions()).artifacts["hlo"])
    assert "f32[1,3,320,64]" in hlo
    assert not re.findall(r"= f32\[1,3,320,64\]\S* copy\(", hlo)
