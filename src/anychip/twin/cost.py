"""Time of a step on a Machine: the roofline of every kernel plus what no kernel hides.

Williams, Waterman and Patterson, "Roofline", CACM 2009: a kernel takes at least the longest of
its matrix arithmetic, its vector arithmetic, and its bytes at each memory level, each at the rate
programs reach. What is shorter hides behind it only as far as the family overlaps work
(family.py). Overheads are added: `per_kernel_s` a kernel, `per_layer_s` a layer, `per_step_s` a
step, collectives after kernels that need them, and one hop between pipeline stages. Nothing is
scheduled: kernels do not overlap one another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anychip.core import UsageError
from anychip.twin.collective import all_gather_s, all_reduce_s, all_to_all_s, send_s
from anychip.twin.formats import VECTOR, Way, way
from anychip.twin.lowered import Table
from anychip.twin.machine import Link, Machine
from anychip.twin.shard import ONE_CHIP, Placement, Portion, Shards, place, portion, share


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """One step of one model copy. Arrays are parallel to the table's kernels, per single run.

    `seconds` is from first kernel to last with one batch in flight. `stage_s` is the slowest
    pipeline stage: how often a step can be started when several batches are in flight.
    """

    seconds: float
    stage_s: float
    kernel_s: np.ndarray
    compute_s: np.ndarray
    vector_s: np.ndarray
    memory_s: np.ndarray
    link_s: np.ndarray
    overhead_s: float
    link_bytes: float
    portion: Portion
    placement: Placement
    shards: Shards

    def bound(self, index: int) -> str:
        """What limits a kernel: "compute", "vector", "memory", "link" or "overhead"."""
        parts = {
            "compute": self.compute_s[index],
            "vector": self.vector_s[index],
            "memory": self.memory_s[index],
            "link": self.link_s[index],
        }
        name, seconds = max(parts.items(), key=lambda item: item[1])
        return name if 2 * seconds >= self.kernel_s[index] else "overhead"


def step_cost(
    table: Table,
    machine: Machine,
    shards: Shards = ONE_CHIP,
    placement: Placement | None = None,
) -> StepCost:
    """The cost of running every kernel of `table` once on `shards.chips` chips like `machine`.

    `placement` says which memory holds weights and state; the table's own need decides without it.
    Raises UsageError when there are several chips and no link between them.
    """
    part = portion(table, shards)
    placement = placement or place(share(table, shards), machine)
    ways = kernel_ways(table, machine)
    compute = part.flops * np.array([_seconds_per_flop(one, machine) for one in ways])
    unpacked = np.array([not one.is_native for one in ways])
    vector = (
        part.vector_flops + np.where(unpacked, part.unpack_flops, 0.0)
    ) / machine.vector_flops_per_s
    memory = _memory_s(part, placement, machine)
    link_s, link_bytes = _link(table, machine, shards)
    longest = np.maximum(np.maximum(compute, vector), memory)
    exposed = (1.0 - machine.overlap) * (compute + vector + memory - longest)
    kernel = longest + exposed + machine.per_kernel_s + link_s
    busy = float(kernel @ table.counts) + machine.per_layer_s * table.layers
    hops = _hops(table, machine, shards)
    stage = busy / max(table.layers, 1) * -(-max(table.layers, 1) // shards.pipeline)
    return StepCost(
        seconds=busy + hops + machine.per_step_s,
        stage_s=(busy if shards.pipeline == 1 else min(stage, busy)) + machine.per_step_s,
        kernel_s=kernel,
        compute_s=compute,
        vector_s=vector,
        memory_s=memory,
        link_s=link_s,
        overhead_s=machine.per_kernel_s * float(table.counts.sum())
        + machine.per_layer_s * table.layers
        + machine.per_step_s
        + hops,
        link_bytes=link_bytes,
        portion=part,
        placement=placement,
        shards=shards,
    )


def kernel_ways(table: Table, machine: Machine) -> list[Way]:
    """How the chip does each kernel's matmul."""
    rates, known = machine.matmul_flops_per_s, dict[tuple[tuple[str, ...], str], Way]()
    for kernel in table.kernels:
        asked = (kernel.formats, kernel.stored)
        if asked not in known:
            known[asked] = way(*asked[:1], rates, asked[1])
    return [known[kernel.formats, kernel.stored] for kernel in table.kernels]


def _seconds_per_flop(one: Way, machine: Machine) -> float:
    rates = machine.matmul_flops_per_s
    return one.slowdown / (
        machine.vector_flops_per_s if one.format == VECTOR else rates[one.format]
    )


def _memory_s(part: Portion, placement: Placement, machine: Machine) -> np.ndarray:
    """Weights and state come from the level that holds them, activations from the nearest level
    that has room for what the kernel reads and writes; different levels work at the same time."""
    at = placement.level
    loads = np.zeros((len(machine.levels), len(part.flops)))
    loads[at] += part.weight_bytes + part.state_bytes
    left = np.ones(len(part.flops), bool)
    for index in reversed(range(len(machine.levels))):
        level = machine.levels[index]
        if "activations" not in level.holds and index != at:
            continue
        fits = left & ((part.activation_bytes <= level.capacity_bytes / 2) | (index <= at))
        loads[index] += np.where(fits, part.activation_bytes, 0.0)
        left &= ~fits
    rates = np.array([level.bytes_per_s for level in machine.levels])
    return (loads / rates[:, None]).max(axis=0)


def _between(machine: Machine, chips: int) -> Link:
    """The link that joins `chips` neighbours: scale-up as far as it goes, else scale-out."""
    link = machine.link if chips <= machine.scale_up_count else machine.scale_out or machine.link
    if link is None:
        raise UsageError(
            f"{machine.name} has no link between chips in its spec, so {chips} of them cannot "
            "share a model; add a [link] table to the chip or to its system"
        )
    return link


def _link(table: Table, machine: Machine, shards: Shards) -> tuple[np.ndarray, float]:
    """Seconds of each kernel's collective, and the bytes one chip sends in a step."""
    seconds = np.zeros(len(table.kernels))
    if shards.tensor == 1:
        return seconds, 0.0
    link = _between(machine, shards.tensor)
    sent = 0.0
    for index, kernel in enumerate(table.kernels):
        reduce = float(table.numbers["reduce_bytes"][index])
        gather = float(table.numbers["gather_bytes"][index])
        spread = all_reduce_s(reduce, shards.tensor, link)
        if kernel.experts and shards.expert > 1 and reduce:
            # Rows go to their experts and come back; the tokens' sums are then gathered again.
            rows = all_to_all_s(reduce * kernel.active / shards.tensor, shards.tensor, link)
            spread = min(spread, 2 * rows + all_gather_s(reduce, shards.tensor, link))
        seconds[index] = spread + all_gather_s(gather, shards.tensor, link)
        once = 2 * reduce + gather
        sent += once * (shards.tensor - 1) / shards.tensor * float(table.counts[index])
    return seconds, sent


def _hops(table: Table, machine: Machine, shards: Shards) -> float:
    """Seconds to hand the activations from stage to stage."""
    if shards.pipeline == 1:
        return 0.0
    across = float(table.numbers["reduce_bytes"].max(initial=0.0)) / shards.tensor
    inside = min(shards.pipeline, max(1, machine.scale_up_count // shards.tensor))
    outside = -(-shards.pipeline // inside) - 1
    near = _between(machine, min(2 * shards.tensor, machine.scale_up_count))
    far = machine.scale_out or near
    return (shards.pipeline - 1 - outside) * send_s(across, near) + outside * send_s(across, far)
