"""Energy of a step by source: arithmetic, memory, links, a chip busy or idle, the server around.

Arithmetic is multiply-adds x J/mac, memory and links bytes x J/byte (constants after Horowitz,
"Computing's Energy Problem", ISSCC 2014, where a spec has none of its own). A chip that works draws
`active` of the span between idle and TDP besides, whatever it works on (family.py, fitted on wall
power); an idle one `idle_w`. Beyond `tdp_w` a chip is slowed until it draws that, so all but idling
is scaled down. A spec without J/byte or J/mac gets the span between idle and TDP times how busy the
busiest unit is. Around the chips, a server draws `system_w - tdp_w` for each.
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
    parts = joules_by_source(table, machine, cost, seconds, steps)
    return None if parts is None else sum(parts.values())


def joules_by_source(
    table: Table, machine: Machine, cost: StepCost, seconds: float, steps: float = 1.0
) -> dict[str, float] | None:
    """What `step_joules` adds up: "compute", a memory level's name, "links", "active", "idle" and
    "server", or "busy" in place of the first ones where a spec has no constants for them."""
    chips = cost.shards.chips
    if machine.tdp_w is None and machine.idle_w is None:
        return None
    idle = machine.idle_w or 0.0
    span = max((machine.tdp_w or idle) - idle, 0.0)
    parts = _dynamic_j(table, machine, cost)
    if parts is None:
        working = {"busy": span * _busy(table, cost, seconds / steps) * seconds * chips}
    else:
        share = min(1.0, cost.stage_s * steps / seconds)
        working = {name: joules * steps for name, joules in parts.items()}
        working["active"] = machine.active * span * share * seconds * chips
    total, most = sum(working.values()), span * seconds * chips
    if machine.tdp_w is not None and total > most:
        working = {name: joules * most / total for name, joules in working.items()}
    made = {**working, "idle": idle * seconds * chips}
    if machine.system_w is not None:
        own = machine.tdp_w or sum(made.values()) / seconds / chips
        made["server"] = max(0.0, machine.system_w - own) * seconds * chips
    return made


def _dynamic_j(table: Table, machine: Machine, cost: StepCost) -> dict[str, float] | None:
    """Joules of one step over all chips that its work takes, by source; None when the spec has no
    such constants."""
    level = machine.levels[cost.placement.level]
    if machine.mac_j is None or level.j_per_byte is None:
        return None
    nearest = next((x for x in reversed(machine.levels) if x.j_per_byte is not None), level)
    part, counts = cost.portion, table.counts
    stored = float((part.weight_bytes + part.state_bytes) @ counts)
    passing = float(part.activation_bytes @ counts)
    macs = float((part.flops * _mac_weights(table, machine) + part.vector_flops) @ counts) / 2
    # One tensor rank's part of every layer; the stages together do each layer once.
    ranks = cost.shards.tensor
    joules = {
        "compute": macs * machine.mac_j * ranks,
        level.name: stored * level.j_per_byte * ranks,
    }
    passed = passing * (nearest.j_per_byte or 0.0) * ranks
    joules[nearest.name] = joules.get(nearest.name, 0.0) + passed
    if machine.link is not None and machine.link.j_per_byte is not None:
        joules["links"] = cost.link_bytes * machine.link.j_per_byte * ranks
    return joules


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
