"""Serving stacks as the simulator knows them: how each fills a step, and what its host costs.

The figures are fitted by `tools/calibrate.py` on closed-loop points of H100 and H200 (NVIDIA
aiconfigurator 0.12.0, silicon_sample.csv): times and one factor a stack, the same for every chip,
model, shard and load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from anychip.core import Precision
from anychip.mapper.serving import Stack

STACKS: Mapping[str, Stack] = {
    "vllm": Stack(
        name="vllm",
        cache="bf16",
        held=0.5,
        host_s=0.00212,
        token_s=5.7e-07,
        prompt_slower=1.01,
        request_s=0.0273,
        eager_layer_s=0.000464,
        stream_s=0.000135,
    ),
    "trtllm": Stack(
        name="trtllm",
        overlaps=True,
        held=0.5,
        chunks=False,
        host_s=0.00041,
        token_s=1.3e-05,
        prompt_slower=1.02,
        request_s=0.0365,
        eager_layer_s=0.000133,
        stream_s=6.42e-05,
    ),
    "trtllm 1.0.0rc3": Stack(
        name="trtllm 1.0.0rc3",
        overlaps=True,
        chunks=False,
        held=0.5,
        reserved=1,
        host_s=0.000472,
        token_s=2.68e-05,
        prompt_slower=1.08,
        request_s=0.0222,
        eager_layer_s=0.000746,
        stream_s=0.000104,
    ),
    "sglang": Stack(
        name="sglang",
        host_s=0.00438,
        token_s=1.95e-05,
        prompt_slower=1.16,
        request_s=0.0076,
        eager_layer_s=0.000464,
        stream_s=6.31e-05,
    ),
}
"""By the name their backends have in published serving points, and its version where that one is
known apart. Step sizes are the stacks' own defaults on such chips (8,192 tokens); TensorRT-LLM
does not cut prompts by default. `cache` and `held`
follow from points whose cache is full: 70B in fp8 on two H100 streams 29 answers of 9,216 tokens
with vLLM (its default, `kv-cache-dtype auto`, is the model's bf16) and 50 on one H200 with
TensorRT-LLM, which only an 8-bit cache allows. TensorRT-LLM does a step's host work while the chip
works on the next ("Overlap Scheduler", on unless it is turned off:
nvidia.github.io/TensorRT-LLM/features/overlap-scheduler.html). Version 1.0.0rc3 leaves a place
unused: with 8 users each waits a seventh of an answer. SGLang's points were chosen to meet one time
per token, so its times are hard to tell apart."""

TUNED = Stack(name="tuned", sequences=2048, host_s=0.7e-3, token_s=1e-5)
"""A stack tuned for one benchmark (MLPerf's closed division, vendors' own throughput tables):
TensorRT-LLM's host, with prompts cut to fill steps and answers handed out in batches."""

OWN = Stack(
    name="anychip",
    step_tokens=256,
    sequences=64,
    is_padded=True,
    held=0.5,
    host_s=1.8e-5,
    token_s=3.58e-5,
)
"""This project's own token engine: its scheduler's rules and default limits, steps compiled for
powers of two of tokens, and what it takes of this kind of host (`bench/engine_host.py`)."""

ALSO = {"tensorrt-llm": "trtllm"}
"""Other names of stacks."""

SERVING_ERROR: Mapping[str, tuple[float, float, float]] = {
    "vllm": (0.14, 0.075, 0.07),
    "trtllm": (0.759, 0.129, 0.117),
    "trtllm 1.0.0rc3": (0.293, 0.094, 0.086),
    "sglang": (0.443, 0.261, 0.261),
}
"""Half-width (a logarithm) that holds eight of ten serving points of systems left out of the fit,
by stack: of times to first token, times per token, and rates (`bench/results/calibrate.json`)."""

TUNED_ERROR = {
    "ttft_s": 0.95,
    "tpot_s": 0.251,
    "user_tok_s": 0.251,
    "chip_tok_s": 0.231,
    "latency_s": 0.251,
}
"""The same for the tuned stack, which was fitted to none of the audited benchmarks and vendors'
tables it stands for: eight of ten of those are inside (`bench/results/left-out.json`). Of its times
to first token none is published; theirs is assumed. Of `OWN` nothing is published at all: it takes
the same."""


def serving_error(stack: Stack, quantity: str) -> float:
    """How far off a simulated server may be: the half-width of its 80 % interval, a logarithm."""
    if stack.name in (TUNED.name, OWN.name):
        return TUNED_ERROR[quantity]
    first, each, rate = SERVING_ERROR[stack.name]
    known = {"ttft_s": first, "tpot_s": each, "user_tok_s": each}
    return known.get(quantity, rate)


def serving_source(stack: Stack) -> str:
    """Where `serving_error` comes from, for an Estimate's provenance."""
    if stack.name == OWN.name:
        return "that of a tuned stack; nothing is published of this one"
    if stack.name == TUNED.name:
        return "audited benchmarks, to none of which the stack was fitted; tools/half_widths.py"
    return "published serving points of systems left out, tools/calibrate.py"


def with_cache(precision: Precision, stack: Stack) -> Precision:
    """The precision with the cache that the stack keeps."""
    if not stack.cache or stack.cache == precision.cache:
        return precision
    return replace(precision, name=f"{precision.name}, {stack.cache} cache", cache=stack.cache)
