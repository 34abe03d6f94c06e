"""Shards: how many chips share one copy of a model, and in which way.

`tensor` chips divide every matmul and the KV heads, `pipeline` stages divide the layers, and of the
tensor chips `expert` groups divide the experts of a mixture (the chips inside a group divide each
expert). Chips = tensor x pipeline. Data parallelism is another copy, not a shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from anychip.core import UsageError
from anychip.twin.lowered import Table
from anychip.twin.machine import Level, Machine

RESERVE = 0.10
"""Share of each memory kept for the runtime, code and fragmentation (vLLM's default
`--gpu-memory-utilization 0.9`)."""


@dataclass(frozen=True)
class Shards:
    """A division of one model copy over chips."""

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1

    def __post_init__(self) -> None:
        if min(self.tensor, self.pipeline, self.expert) < 1 or self.tensor % self.expert:
            raise UsageError(
                f"shards must be at least 1 and expert must divide tensor, got "
                f"tensor={self.tensor} pipeline={self.pipeline} expert={self.expert}"
            )

    @property
    def chips(self) -> int:
        return self.tensor * self.pipeline

    def __str__(self) -> str:
        parts = [("tp", self.tensor), ("pp", self.pipeline), ("ep", self.expert)]
        return " ".join(f"{name}{ways}" for name, ways in parts if ways > 1) or "1 chip"


ONE_CHIP = Shards()


@dataclass(frozen=True, kw_only=True)
class Share:
    """What the busiest chip stores: bytes of weights, of state, and of activations in flight."""

    weight_bytes: float
    state_bytes: float
    activation_bytes: float

    @property
    def total_bytes(self) -> float:
        return self.weight_bytes + self.state_bytes + self.activation_bytes


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which memory level holds weights and state, what they take, and what there is."""

    level: int
    share: Share
    capacity_bytes: float

    @property
    def fits(self) -> bool:
        return self.share.total_bytes <= self.capacity_bytes


def share(table: Table, shards: Shards) -> Share:
    """What each chip stores. Stages hold whole layers, so the fullest has the rounded-up number."""
    layers = max(table.layers, 1)
    stage = 1.0 if shards.pipeline == 1 else -(-layers // shards.pipeline) / layers
    stage = max(stage, 1.0 / shards.pipeline)
    divided = table.weight_bytes - table.replicated_weight_bytes
    splits = table.traits.state_splits.max(initial=1.0)
    state = table.state_bytes / min(shards.tensor, splits)
    widest = table.numbers["read_bytes"] + table.numbers["written_bytes"]
    return Share(
        weight_bytes=(divided / shards.tensor + table.replicated_weight_bytes) * stage,
        state_bytes=state * stage,
        activation_bytes=float(widest.max(initial=0.0)),
    )


def place(part: Share, machine: Machine) -> Placement:
    """The nearest memory level that may hold weights and has room, else the largest that may."""
    levels = [i for i, level in enumerate(machine.levels) if "weights" in level.holds]
    placements = [
        Placement(level=i, share=part, capacity_bytes=_usable(machine, machine.levels[i]))
        for i in reversed(levels)
    ]
    return next((p for p in placements if p.fits), placements[-1])


def _usable(machine: Machine, level: Level) -> float:
    if machine.family == "lpu":  # a static schedule has no runtime, allocator or fragments
        return level.capacity_bytes
    return level.capacity_bytes * (1.0 - RESERVE)


def shardings(chips: int, layers: int, *, experts: int = 0) -> Iterator[Shards]:
    """Every division of `chips` worth trying: tensor x pipeline, no more stages than layers, and
    for a mixture of experts those with whole experts a group."""
    for pipeline in range(1, min(chips, max(layers, 1)) + 1):
        if chips % pipeline:
            continue
        tensor = chips // pipeline
        yield Shards(tensor, pipeline)
        if experts and tensor > 1:
            widest = max(d for d in range(1, tensor + 1) if tensor % d == 0 and experts % d == 0)
            if widest > 1:
                yield Shards(tensor, pipeline, widest)


@dataclass(frozen=True, kw_only=True)
class Portion:
    """What one chip does of each kernel: arrays parallel to the table's kernels."""

    flops: np.ndarray
    vector_flops: np.ndarray
    unpack_flops: np.ndarray
    weight_bytes: np.ndarray
    state_bytes: np.ndarray
    activation_bytes: np.ndarray


def portion(table: Table, shards: Shards) -> Portion:
    """The busiest chip's part of every kernel. Of a mixture's experts only those that some token is
    expected to choose are read."""
    number = table.numbers
    traits = table.traits
    ways = np.where(traits.is_split, shards.tensor, 1)
    state_ways = np.where(traits.is_split, np.minimum(traits.state_splits, shards.tensor), 1)
    busiest, read = _expert_load(table, shards)
    transcendental = number["transcendentals"] * TRANSCENDENTAL_FLOPS
    return Portion(
        flops=number["flops"] / ways * busiest,
        vector_flops=(number["vector_flops"] + transcendental) / ways,
        unpack_flops=number["unpack_flops"] * read / ways,
        weight_bytes=number["weight_bytes"] * read / ways,
        state_bytes=(number["state_read_bytes"] + number["state_written_bytes"]) / state_ways,
        activation_bytes=(number["read_bytes"] + number["written_bytes"]) / ways,
    )


TRANSCENDENTAL_FLOPS = 16
"""One exp or tanh in vector operations: NVIDIA's "CUDA C++ Programming Guide", table of arithmetic
throughput, compute capability 9.0: 16 special functions a cycle beside 256 f32 operations."""


def _expert_load(table: Table, shards: Shards) -> tuple[np.ndarray, np.ndarray]:
    """For each kernel: the busiest chip's rows over the mean, and the share of weights it reads.

    A token misses a given expert of E with probability 1 - k/E, so T tokens touch
    E (1 - (1 - k/E)^T) of them; expert parallelism divides those, but not below one a chip. A part
    of a token chooses as a whole one does.
    """
    experts, active = table.traits.experts, table.traits.active
    grouped = table.traits.is_grouped
    if not grouped.any():
        return np.ones(len(grouped)), np.ones(len(grouped))
    tokens = np.maximum(table.numbers["rows"] / active, 1.0)
    held = experts / shards.expert
    miss = np.clip(1.0 - active / experts, 1e-300, 1.0)
    touched = held * (1.0 - np.exp(tokens * np.log(miss)))
    worst = np.minimum(np.maximum(touched, 1.0), held)
    busiest = np.where(grouped, worst / touched, 1.0)
    return np.maximum(busiest, 1.0), np.where(grouped, worst / held, 1.0)
