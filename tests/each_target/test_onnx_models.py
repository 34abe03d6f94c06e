"""Real ONNX models, out of the wheels that ship them, against ONNX Runtime within 1e-4.

A model is skipped only when its wheel is not installed (tests/model-wheels.txt).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RATE = {"sr": np.array(16000)}


@dataclass
class Real:
    """A model file in a wheel, its inputs, and how its sizes are fixed."""

    package: str
    file: str
    inputs: Mapping[str, tuple[int, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    draw: str = "image"

    @property
    def path(self) -> Path:
        found = importlib.util.find_spec(self.package)
        if found is None or not found.submodule_search_locations:
            pytest.skip(f"the wheel of {self.package} is not installed")
        return Path(found.submodule_search_locations[0]) / self.file

    def feeds(self) -> dict[str, np.ndarray]:
        random = np.random.default_rng(3)
        return {name: self._drawn(random, shape) for name, shape in self.inputs.items()}

    def _drawn(self, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        if self.draw == "bytes":
            return random.integers(0, 257, shape).astype(np.int32)
        if self.draw == "sound":
            return (0.1 * random.standard_normal(shape)).astype(np.float32)
        return random.uniform(-1, 1, shape).astype(np.float32)


def voice(file: str, **more: Any) -> Real:
    shapes = {"input": (1, 576), "state": (2, 1, 128)}
    options: dict[str, Any] = {"shapes": shapes, **more}
    return Real("silero_vad", f"data/{file}", shapes, options, "sound")


MODELS = [
    Real("magika", "models/standard_v3_3/model.onnx", {"bytes": (2, 2048)}, draw="bytes"),
    Real("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", {"x": (1, 3, 48, 192)}),
    Real("rapidocr", "models/PP-OCRv6_rec_small.onnx", {"x": (1, 3, 48, 320)}),
    Real(
        "rapidocr",
        "models/PP-OCRv6_det_small.onnx",
        {"x": (1, 3, 160, 192)},
        {"shapes": {"x": (1, 3, 160, 192)}},
    ),
    Real(
        "rapidocr_onnxruntime",
        "models/ch_PP-OCRv4_det_infer.onnx",
        {"x": (1, 3, 96, 128)},
        {"shapes": {"x": (1, 3, 96, 128)}},
    ),
    Real(
        "rapidocr_onnxruntime",
        "models/ch_PP-OCRv4_rec_infer.onnx",
        {"x": (1, 3, 48, 160)},
        {"shapes": {"x": (1, 3, 48, 160)}},
    ),
    voice("silero_vad.onnx", constants=RATE),
    voice("silero_vad_16k_op15.onnx", constants=RATE),
    voice("silero_vad_half.onnx"),
    voice("silero_vad_op18_ifless.onnx", constants=RATE),
    voice("silero_vad_openvino_16k.onnx"),
    Real(
        "silero_vad",
        "data/silero_vad_16k_sequence.onnx",
        {"input": (3, 576), "h": (1, 1, 128), "c": (1, 1, 128)},
        draw="sound",
    ),
]


@pytest.mark.parametrize("real", MODELS, ids=lambda r: r.file.rsplit("/", 1)[-1])
def test_real_model_agrees_with_onnx_runtime(
    real: Real, run_onnx: Callable, run_onnxruntime: Callable
) -> None:
    path, feeds = real.path, real.feeds()
    expected = run_onnxruntime(path, {**feeds, **real.options.get("constants", {})})
    got = run_onnx(path, feeds, **real.options)
    assert len(got) == len(expected)
    worst = 0.0
    for have, want in zip(got, expected, strict=True):
        assert (have.dtype, have.shape) == (want.dtype, want.shape)
        largest = max(1e-2, float(np.max(np.abs(want))))
        worst = max(worst, float(np.max(np.abs(have - want))) / largest)
    print(f"{path.name}: {worst:.1e}")  # pytest -rP shows it
    assert worst <= 1e-4


def test_dynamic_sizes_that_must_agree_ask_to_be_fixed() -> None:
    """The detector adds maps whose sizes agree only for multiples of 32."""
    from anychip.core.errors import UnsupportedError
    from anychip.frontends.onnx import load

    path = next(m for m in MODELS if "det" in m.file).path
    with pytest.raises(UnsupportedError, match=r"Add × 1 .*fix dims=\{'DynamicDimension_0'"):
        load(path)


def test_real_model_keeps_no_second_copy_of_its_weights() -> None:
    from anychip.frontends.onnx import load

    path = next(m for m in MODELS if "rec" in m.file).path
    weights = load(path).weights
    assert sum(w.stored_bytes for w in weights.values()) > 0.9 * path.stat().st_size
    largest = max(weights.values(), key=lambda w: w.nbytes)
    assert not largest.array().flags.owndata
