"""Baseline: a five-parameter roofline of a GPU server, to stand beside what the twins say.

It sees a model as sizes, a chip as two peaks, and a load as three numbers. A twin that is not
closer to published figures than this has not earned its complexity. It knows no serving stack and
no queue: the time to first token is one prompt alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anychip.twin.calibrate import Knob
from anychip.twin.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the baseline sees of a dense language model: bytes of a weight and of a cache entry."""

    parameters: float
    layers: int
    hidden: int
    cache_width: int  # numbers a token leaves in the cache of one layer, keys and values
    weight_bytes: float
    cache_bytes: float


@dataclass(frozen=True, kw_only=True)
class Load:
    """`users` requests in flight on `chips` chips that share one copy of the model."""

    prompt: int
    answer: int
    users: int
    chips: int


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Datasheet rates of one chip: the memory's, the matrix unit's in the format used, the link's
    in one direction."""

    bytes_per_s: float
    flops_per_s: float
    link_bytes_per_s: float


KNOBS: Mapping[str, Knob] = {
    "memory_efficiency": Knob(start=0.7, low=0.2, high=1.0),
    "matmul_efficiency": Knob(start=0.5, low=0.1, high=1.0),
    "all_reduce_s": Knob(start=1e-5, low=1e-6, high=1e-4),
    "per_layer_s": Knob(start=2e-5, low=1e-6, high=3e-4),
    "per_step_s": Knob(start=1e-3, low=1e-5, high=2e-2),
}
"""The five. `all_reduce_s` is what a small all-reduce takes; its bytes come at the link's rate."""


def peaks(machine: Machine, matmul: str) -> Peaks:
    """Peaks of a machine's largest memory, of a format of its matrix unit, and of its link."""
    return Peaks(
        bytes_per_s=machine.peak_bytes_per_s[0],
        flops_per_s=machine.peak_flops_per_s[matmul],
        link_bytes_per_s=machine.link.bytes_per_s if machine.link else float("inf"),
    )


def tpot_s(values: Mapping[str, float], sizes: Sizes, chip: Peaks, load: Load) -> float:
    """Mean seconds per token after the first: a decode step at mid-answer, and the share of the
    others' prompts that falls into each step (`users x t_prefill / answer`)."""
    context = load.prompt + load.answer / 2
    cache = load.users * context * sizes.layers * sizes.cache_width * sizes.cache_bytes
    read = (sizes.parameters * sizes.weight_bytes + cache) / load.chips
    step = max(
        read / (chip.bytes_per_s * values["memory_efficiency"]),
        _matmul_s(values, sizes, chip, load, load.users),
    )
    step += _layers_s(values, sizes, chip, load, load.users) + values["per_step_s"]
    return step + load.users * _prefill_s(values, sizes, chip, load) / load.answer


def ttft_s(values: Mapping[str, float], sizes: Sizes, chip: Peaks, load: Load) -> float:
    """Seconds to the first token of a prompt alone."""
    return _prefill_s(values, sizes, chip, load) + values["per_step_s"]


def chip_tok_s(values: Mapping[str, float], sizes: Sizes, chip: Peaks, load: Load) -> float:
    """Answer tokens a second and chip."""
    whole = ttft_s(values, sizes, chip, load) + (load.answer - 1) * tpot_s(
        values, sizes, chip, load
    )
    return load.users * load.answer / whole / load.chips


def _prefill_s(values: Mapping[str, float], sizes: Sizes, chip: Peaks, load: Load) -> float:
    linear = _matmul_s(values, sizes, chip, load, load.prompt)
    # Scores and their use: 2 matmuls of 2 flops, half of them masked.
    pairs = 2.0 * load.prompt**2 * sizes.layers * sizes.hidden / load.chips
    attention = pairs / (chip.flops_per_s * values["matmul_efficiency"])
    return linear + attention + _layers_s(values, sizes, chip, load, load.prompt)


def _matmul_s(
    values: Mapping[str, float], sizes: Sizes, chip: Peaks, load: Load, tokens: float
) -> float:
    flops = 2.0 * sizes.parameters * tokens / load.chips
    return flops / (chip.flops_per_s * values["matmul_efficiency"])


def _layers_s(
    values: Mapping[str, float], sizes: Sizes, chip: Peaks, load: Load, tokens: float
) -> float:
    """What each layer costs beside arithmetic and memory: its overhead and two all-reduces."""
    exchange = 0.0
    if load.chips > 1:
        size = tokens * sizes.hidden * 2
        around = 2 * (load.chips - 1) / load.chips * size / chip.link_bytes_per_s
        exchange = 2 * (values["all_reduce_s"] + around)
    return sizes.layers * (values["per_layer_s"] + exchange)
