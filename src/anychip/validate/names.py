"""What published names mean here: chips, models, precisions, and data sets' lengths.

A chip that is sold in several builds is the spec with a few facts changed, each with its source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from anychip.core import ChipSpec, Fact, unknown

MODELS = {
    r"llama-?2-70b(-hf)?|llama-70b": "llama-2-70b",
    r"(llama|codellama)-?2?-13b(-hf)?": "llama-2-13b",
    r"llama-?2-7b(-hf)?|llama-7b": "llama-2-7b",
    r"(meta-)?llama-?3(\.1)?-8b(-instruct)?": "llama-3.1-8b",
    r"(meta-)?llama-?3(\.1|\.3)?-70b(-instruct)?|deepseek-r1-distill-llama-70b": "llama-3.1-70b",
    r"llama-?3\.1-405b(-instruct)?": "llama-3.1-405b",
    r"llama-?3\.2-1b": "llama-3.2-1b",
    r"mixtral-8x7b(-v0\.1)?( decode)?": "mixtral-8x7b",
    r"mistral-7b": "mistral-7b",
    r"qwen3-8b": "qwen3-8b",
    r"qwen3-32b": "qwen3-32b",
    r"qwen3-235b-a22b": "qwen3-235b-a22b",
    r"gpt-oss-20b": "gpt-oss-20b",
    r"gpt-oss-120b": "gpt-oss-120b",
    r"gemma-?3-27b(-it)?": "gemma-3-27b",
    r"deepseek-(r1|v3).*": "deepseek-v3",
}
"""Published names → catalogue names of the same shape (fine-tunes have their base's shape)."""

PRECISIONS = {
    r"fp8|8-bit|not stated \(fp8 implied\)|bfp8/bfp4 mix.*": "fp8",
    r"fp16|fp16/bf16|bf16|weights bf16|f16.*": "bf16",
    r"int8|int8/fp16 mix": "int8",
    r"weights int8|q8_0.*": "int8-weights",
    r"int4.*|uint4|q4_k_m.*|q4_0|w4a16.*": "q4_0",
    r"fp4|nvfp4.*": "nvfp4",
    r"mxint8": "mxint8",
    r"mxint4": "mxint4",
    r"mxfp4": "mxfp4",
}
"""The nearest precision that is built. Tenstorrent's block formats count as fp8, as its chips'
specs do; 4-bit files as q4_0."""

NATIVE = {"dmatrix-corsair": {"fp8": "mxint8"}, "groq-lpu": {"fp8": "int8"}}
"""What a chip's "8-bit" is, where that is not fp8."""

GB = 1e9


@dataclass(frozen=True, eq=False)
class Build:
    """A chip of ours, with facts of another build of it: key of ChipSpec.facts → Fact."""

    chip: str
    changes: Mapping[str, Fact] = field(default_factory=dict[str, Fact])


def _of(chip: str, gb: float, tb_s: float, source: str, flops: float = 1.0) -> Build:
    facts = {
        "memory.hbm.capacity_bytes": Fact(value=gb * GB, source=source),
        "memory.hbm.read_bytes_per_s": Fact(value=tb_s * 1e12, source=source),
    }
    if flops != 1.0:
        facts["matmul_flops_per_s"] = Fact(value=flops, source=source)  # times the chip's own
    return Build(chip, facts)


CHIPS: Mapping[str, Build] = {
    r"nvidia a100-sxm-80gb( \(330w cap\))?|a100(_sxm)?": Build("a100"),
    r"nvidia a100 gpu": _of(
        "a100", 40, 1.555, "arXiv 2411.00136 (40 GB); recalled: NVIDIA A100 datasheet"
    ),
    r"nvidia h100(-sxm)?(-80gb)?( gpu)?|h100(_sxm)?": Build("h100"),
    r"nvidia h100-nvl-94gb": _of(
        "h100", 94, 3.9, "recalled: NVIDIA H100 NVL product brief, 835 Tflop/s bf16", 0.844
    ),
    r"nvidia h100-pcie-80gb": _of(
        "h100", 80, 2.0, "recalled: NVIDIA H100 datasheet, PCIe, 756 Tflop/s bf16", 0.764
    ),
    r"(virtualized )?nvidia h200(-sxm-141gb)?(-cts \(cts 1000w\))?|h200(_sxm)?": Build("h200"),
    r"nvidia h200-nvl-141gb": _of(
        "h200", 141, 4.8, "recalled: NVIDIA H200 NVL datasheet, 836 Tflop/s bf16", 0.845
    ),
    r"nvidia gh200 grace hopper superchip 144gb( \(preview\))?": _of(
        "h200", 144, 4.9, "recalled: NVIDIA GH200 datasheet, HBM3e"
    ),
    r"nvidia gh200 grace hopper superchip 96gb|nvidia gh200 gpu": _of(
        "h100", 96, 4.0, "recalled: NVIDIA GH200 datasheet, HBM3"
    ),
    r"nvidia b200(-sxm-180gb)?( \(preview\))?|b200(_sxm)?": Build("b200"),
    r"nvidia gb200|gb200(_sxm)?": Build("gb200"),
    r"nvidia l40s": Build("l40s"),
    r"nvidia l4": Build("l4"),
    r"amd (instinct )?mi300x.*": Build("mi300x"),
    r"amd instinct mi325x 256gb hbm3e": Build("mi325x"),
    r"amd instinct mi355x.*": Build("mi355x"),
    r"aws inferentia2": Build("inferentia2"),
    r"aws trainium1": Build("trainium1"),
    r"aws trainium2": Build("trainium2"),
    r"intel gaudi2( 96gb)?": Build("gaudi2"),
    r"intel gaudi3": Build("gaudi3"),
    r"sambanova sn40l": Build("sn40l"),
    r"groq lpu v1": Build("groq-lpu"),
    r"cerebras wse-3": Build("cerebras-wse3"),
    r"cerebras wse-2": Build("cerebras-wse2"),
    r"d-matrix corsair card": Build("dmatrix-corsair"),
    r"rebellions rebel-quad.*": Build("rebel-quad"),
    r"rebellions atom.*": Build("rebellions-atom"),
    r"tenstorrent wormhole (n300|\(quietbox.*|\(t3000\)|\(galaxy\))": Build("wormhole-n300"),
    r"tenstorrent blackhole (p150|\(quietbox\))": Build("blackhole-p150"),
    r"apple m1 max.*": Build("m1-max"),
    r"apple m2 ultra.*": Build("m2-ultra"),
    r"apple m3 max.*": Build("m3-max"),
    r"apple m3 ultra.*": Build("m3-ultra"),
    r"apple m4 max.*": Build("m4-max"),
    r"google tpu v4|tpu v4": Build("tpu-v4"),
    r"(google )?tpu v5e": Build("tpu-v5e"),
    r"(google )?tpu v5p": Build("tpu-v5p"),
    r"(google )?tpu v6e.*|(google )?trillium": Build("tpu-v6e"),
    r"(google )?tpu (v7x?|7x)|ironwood": Build("tpu-v7x"),
    r"cpu:intel\(r\) xeon\(r\) 6980p": Build("xeon-6980p-2s"),
}

LINKS = {
    r"nvidia a100 dgx nvlink3|nvidia a100 x4 nvlink3 fully connected": "a100",
    r"nvidia h100 dgx nvlink4": "h100",
}
"""Published names of boxes whose collectives were timed → our chip."""


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a data set's prompts and answers. `spread` is the half-width of the lengths
    relative to the mean, assumed."""

    prompt: int
    generate: int
    source: str
    spread: float = 0.5


DATASETS = {
    r"openorca \(max 1024\)": Lengths(294, 294, "recalled: MLPerf inference v4.0, llama2-70b"),
    r"openorca\+gsm8k\+mbxp.*": Lengths(
        430, 146, "answer: MLPerf inference v4.1, mixtral-8x7b; prompt: assumed"
    ),
    r"cnn-dailymail.*": Lengths(800, 128, "MLPerf inference v5.1, llama3.1-8b: mean ~0.8k"),
    r"longbench/ruler.*": Lengths(
        9400, 685, "prompt: MLPerf v5.1 mean ~9.4k; answer: recalled: 684.68 tokens"
    ),
    r"aa": Lengths(1000, 150, "Artificial Analysis: ~1k prompt, 100-200 output", 0.0),
}


def lookup(table: Mapping[str, object], text: str) -> object | None:
    """The value of the first pattern that matches all of `text`, whatever its case."""
    wanted = text.strip().lower()
    return next((v for pattern, v in table.items() if re.fullmatch(pattern, wanted)), None)


def rebuilt(spec: ChipSpec, build: Build) -> ChipSpec:
    """The spec with the build's facts in place of its own."""
    for key, fact in build.changes.items():
        first, _, rest = key.partition(".")
        if first == "matmul_flops_per_s":
            rates = {
                name: replace(own, value=own.value * fact.value, low=None, high=None)
                for name, own in spec.matmul_flops_per_s.items()
            }
            spec = replace(spec, matmul_flops_per_s=rates)
            continue
        level, _, name = rest.partition(".")
        if level not in [m.name for m in spec.memory]:
            raise unknown("memory level", level, [m.name for m in spec.memory])
        memory = tuple(replace(m, **{name: fact}) if m.name == level else m for m in spec.memory)
        spec = replace(spec, memory=memory)
    return spec
