"""Steps kept between runs: what is known is not built again, what does not fit is built anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anychip.compilers.cache import Cache
from anychip.compilers.native import NativeTarget, keep
from anychip.core import CompileOptions, PagedShape, Recalls
from anychip.frontends.llm import PRECISIONS

SHAPE = PagedShape(tokens=2, rows=1, sequences=1, pages=2, page_tokens=16, table=1)
OPTIONS = CompileOptions(threads=2)


@pytest.fixture
def recipe(tiny):
    return tiny().step_recipe(SHAPE, PRECISIONS["f32"])


def never():
    raise AssertionError("built again")


def logits(executable) -> np.ndarray:
    given = []
    for argument in executable.signature.arguments:
        if argument.role == "weight":
            continue
        kind = {"f32": np.float32, "bf16": "bfloat16", "i32": np.int32}[argument.dtype]
        given.append(np.zeros(argument.shape, kind))
    return np.asarray(executable.run(*given)[0])


def test_a_second_process_builds_nothing_and_computes_the_same(recipe, tmp_path):
    first = NativeTarget(cache=Cache(tmp_path))
    assert isinstance(first, Recalls)
    made = first.recall(recipe, OPTIONS)
    kept = NativeTarget(cache=Cache(tmp_path)).recall(replace(recipe, build=never), OPTIONS)
    assert (logits(kept) == logits(made)).all()
    assert kept.plan.text() == made.plan.text()
    assert kept.coverage == made.coverage
    assert "kept" in kept.artifacts["seconds"]


def test_what_the_code_lacks_is_made_when_looked_at(recipe, tmp_path):
    made = NativeTarget(cache=Cache(tmp_path)).recall(recipe, OPTIONS)
    kept = NativeTarget(cache=Cache(tmp_path)).recall(recipe, OPTIONS)
    assert set(kept.artifacts) == set(made.artifacts)
    assert kept.artifacts["llvm_ir"] == made.artifacts["llvm_ir"]
    assert "step" in kept.artifacts["assembly"]


@pytest.mark.parametrize("change", ["recipe", "threads", "code", "cpu"])
def test_another_key_is_built_anew(recipe, tmp_path, monkeypatch, change):
    target = NativeTarget(cache=Cache(tmp_path))
    target.recall(recipe, OPTIONS)
    asked, options = replace(recipe, build=never), OPTIONS
    if change == "recipe":
        asked = replace(asked, key="another")
    if change == "threads":
        options = CompileOptions(threads=1)
    if change == "code":
        monkeypatch.setattr(keep, "own_code", lambda: "changed")
    if change == "cpu":
        monkeypatch.setattr(keep, "cpu_features", lambda: "another CPU")
    with pytest.raises(AssertionError, match="built again"):
        target.recall(asked, options)


def test_a_damaged_entry_is_built_anew(recipe, tmp_path):
    target = NativeTarget(cache=Cache(tmp_path))
    made = target.recall(recipe, OPTIONS)
    (entry,) = (path for _, _, path in Cache(tmp_path).entries())
    entry.write_bytes(entry.read_bytes()[:-9])
    again = NativeTarget(cache=Cache(tmp_path)).recall(recipe, OPTIONS)
    assert (logits(again) == logits(made)).all()
    assert entry.stat().st_size > 100
