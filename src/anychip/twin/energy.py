"""Energy of a step: what its bytes and multiplies take, and what the chips draw while it lasts.

Dynamic energy is bytes x J/byte at each memory level and link, and multiply-adds x J/mac (constants
after Horowitz, "Computing's Energy Problem", ISSCC 2014, where a spec has none of its own). Static
power is `idle_w`. Chip power never exceeds `tdp_w`. A spec without J/byte or J/mac gets the span
between idle and TDP times how busy the busiest unit is. Around the chips, `system_w - tdp_w` more.
"""

from __future__ import annotations

import numpy as np

from anychip.twin.cost import StepCost, kernel_ways
from anychip.twin.lowered import Table
from anychip.twin.machine import Machine


def step_joules(
    table: Table, machine: Machine, cost: StepCost, seconds: float, steps: float = 1.0
) -> float | None:
    """Joules at the wall of all chips of one copy, over `seconds` in which `steps` steps are done.

    None when the spec tells no power at all.
    """
    chips = cost.shards.chips
    if machine.tdp_w is None and machine.idle_w is None:
        return None
    idle = machine.idle_w or 0.0
    dynamic = _dynamic_j(table, machine, cost)
    if dynamic is None:
        span = (machine.tdp_w or idle) - idle
        watts = idle + span * _busy(table, cost, seconds / steps)
    else:
        watts = idle + dynamic * steps / (seconds * chips)
    watts = min(watts, machine.tdp_w) if machine.tdp_w is not None else watts
    around = 0.0
    if machine.system_w is not None:
        around = max(0.0, machine.system_w - (machine.tdp_w or watts))
    return (watts + around) * seconds * chips


def _dynamic_j(table: Table, machine: Machine, cost: StepCost) -> float | None:
    """Dynamic joules of one step over all chips, None when the spec has no such constants."""
    level = machine.levels[cost.placement.level]
    if machine.mac_j is None or level.j_per_byte is None:
        return None
    nearest = next(
        (x.j_per_byte for x in reversed(machine.levels) if x.j_per_byte is not None), 0.0
    )
    part, counts = cost.portion, table.counts
    stored = float((part.weight_bytes + part.state_bytes) @ counts)
    passing = float(part.activation_bytes @ counts)
    macs = float((part.flops * _mac_weights(table, machine) + part.vector_flops) @ counts) / 2
    # One tensor rank's part of every layer; the stages together do each layer once.
    joules = stored * level.j_per_byte + passing * nearest + macs * machine.mac_j
    if machine.link is not None and machine.link.j_per_byte is not None:
        joules += cost.link_bytes * machine.link.j_per_byte
    return joules * cost.shards.tensor


def _mac_weights(table: Table, machine: Machine) -> np.ndarray:
    """Energy of each kernel's multiply-add over `mac_j`, which is for bf16 or, on a chip without
    it, for the fastest format: at full power, twice the rate is half the energy of each."""
    peaks = machine.peak_flops_per_s
    base = peaks.get("bf16") or max(peaks.values(), default=1.0)
    ways = kernel_ways(table, machine)
    return np.array([base / peaks.get(w.format, base) * w.slowdown for w in ways])


def _busy(table: Table, cost: StepCost, seconds: float) -> float:
    """The share of the time in which an average chip's matrix unit or memory works."""
    longest = float(np.maximum(cost.compute_s, cost.memory_s) @ table.counts)
    return min(1.0, longest / cost.shards.pipeline / seconds)
