"""How `cpu` is reached: compilers and twins imported when asked for, caches under `home`."""

from __future__ import annotations

import importlib.util

from anychip.chips.cpu.host import host_spec
from anychip.core import Chip, ChipSpec, Target
from anychip.core.config import read
from anychip.core.errors import missing_extra


def read_spec() -> ChipSpec:
    """This host's figures, measured in some seconds when `home` has none for it yet."""
    return host_spec(read("home"))


def xla(chip: Chip) -> Target:
    """`cpu:xla`, keeping compiled code under `home`."""
    from anychip.compilers.cache import Cache
    from anychip.compilers.xla import XlaTarget

    return XlaTarget(cache=Cache.under_home("xla"))


def native(chip: Chip) -> Target:
    """`cpu:native`, keeping repacked weights and code under `home`."""
    _need("llvmlite", "native", "cpu:native")
    from anychip.compilers.cache import Cache
    from anychip.compilers.native import NativeTarget

    return NativeTarget(packed=read("home") / "packed", cache=Cache.under_home("native"))


def iree(chip: Chip) -> Target:
    """`cpu:iree`, keeping compiled code under `home`."""
    from anychip.compilers.iree import host

    return host(chip)


def onnxruntime(chip: Chip) -> Target:
    """`cpu:onnxruntime`."""
    for package in ("onnx", "onnxruntime"):
        _need(package, "onnxruntime", "cpu:onnxruntime")
    from anychip.compilers.onnx_hosts import OrtTarget

    return OrtTarget(huge_pages=read("huge_pages"))


def openvino(chip: Chip) -> Target:
    """`cpu:openvino`."""
    for package in ("onnx", "openvino"):
        _need(package, "openvino", "cpu:openvino")
    from anychip.compilers.onnx_hosts import OpenVinoTarget

    return OpenVinoTarget(huge_pages=read("huge_pages"))


def auto(chip: Chip) -> Target:
    """`cpu:auto`, keeping its choices under `home`. Twins take no part: they are no compilers."""
    from functools import partial

    from anychip.compilers.auto import AutoTarget

    makers = {
        how: partial(make, chip)
        for how, make in chip.targets.items()
        if how not in ("auto", "twin")
    }
    ways = {
        "openvino-dynamic": ("f32", "auto"),
        "openvino-bf16": ("bf16", "default"),
        "openvino-dynamic-bf16": ("bf16", "auto"),
    }
    makers |= {name: partial(_openvino_in, *way) for name, way in ways.items()}
    makers = {how: makers[how] for how in (*STEADY, *makers) if how in makers}
    finest = {name: BF16_STEP for name, way in ways.items() if way[0] == "bf16"}
    return AutoTarget(makers, read("home") / "auto", finest)


STEADY = ("openvino", "openvino-dynamic", "onnxruntime", "xla", "native", "iree")
"""Among equals the earlier is taken: beside other work on both cores ONNX Runtime, whose threads do
equal parts and wait for one another, lost more than OpenVINO (PP-OCR's recogniser took 3.3 and 2.6
times as long as alone, seen once). What rounds comes last."""

BF16_STEP = 2.0**-9
"""bf16 keeps 8 bits of a number: half a step of the last is what rounding once may cost."""


def _openvino_in(precision: str, partitioner: str) -> Target:
    for package in ("onnx", "openvino"):
        _need(package, "openvino", "cpu:openvino")
    from anychip.compilers.onnx_hosts import OpenVinoTarget

    return OpenVinoTarget(
        precision=precision, partitioner=partitioner, huge_pages=read("huge_pages")
    )


def _need(package: str, extra: str, purpose: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise missing_extra(package, extra, purpose)


def twin(chip: Chip) -> Target:
    """`cpu:twin`, over the measured figures."""
    from anychip.twin import twin

    return twin(chip)
