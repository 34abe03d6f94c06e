"""A seeded sample of the official ONNX node tests, every op at least once; the rest by the tool."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SAMPLE, SHARDS = 200, 4

EXPLAINED = (
    "test_ai_onnx_ml_label_encoder_",  # maps strings
    "test_bernoulli",  # draws random numbers
    "test_equal_string",
    "test_image_decoder_",
    "test_regex_full_match_",
    "test_string_",
    "test_strnorm",
)
"""Cases no chip can run: strings, image files, noise that is anew in every run."""


def _tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "onnx_cases.py"
    spec = importlib.util.spec_from_file_location("onnx_cases_tool", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return _tool()


def _operators(case: Any) -> set[str]:
    from onnx import ModelProto

    return {f"{n.domain}.{n.op_type}" for n in ModelProto.FromString(case.model).graph.node}


def _sample(tool: ModuleType) -> list[Any]:
    """One case for each op, then seeded ones up to SAMPLE."""
    cases = [c for c in tool.official_cases() if not tool.is_training(c)]
    random.Random(11).shuffle(cases)
    chosen, seen = [], set()
    for case in cases:
        if not _operators(case) <= seen:
            seen |= _operators(case)
            chosen.append(case)
    rest = [c for c in cases if c not in chosen]
    return chosen + rest[: max(0, SAMPLE - len(chosen))]


@pytest.mark.parametrize("shard", range(SHARDS))
def test_official_cases_pass_or_are_explained(tool: ModuleType, shard: int) -> None:
    for case in _sample(tool)[shard::SHARDS]:
        outcome = tool.judge(case)
        if case.name.startswith(EXPLAINED):
            assert outcome.state in ("explained", "pass"), outcome
        else:
            assert outcome.state == "pass", outcome


def test_a_wrong_answer_is_called_wrong(tool: ModuleType) -> None:
    import dataclasses

    (case,) = [c for c in tool.official_cases() if c.name == "test_relu"]
    assert tool.judge(case).state == "pass"
    off = dataclasses.replace(case, outputs=(case.outputs[0] + 0.01,))
    assert tool.judge(off).state == "wrong"
    wide = dataclasses.replace(case, outputs=(case.outputs[0].astype("float64"),))
    assert tool.judge(wide).state == "wrong"
