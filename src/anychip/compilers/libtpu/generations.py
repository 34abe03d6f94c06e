"""TPU generations as libtpu names them, and what one of its devices is of a chip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anychip.compilers.topology import Topology
from anychip.core import UsageError, unknown


@dataclass(frozen=True, kw_only=True)
class Generation:
    """`axes` is the torus' dimensions, `devices_per_chip` how many devices share a chip."""

    prefix: str
    axes: int
    devices_per_chip: int = 1
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])


GENERATIONS: Mapping[str, Generation] = {
    # Without "megacore", v4's two cores are two devices of half a chip each.
    "v4": Generation(prefix="v4", axes=3, arguments={"chip_config_name": "megacore"}),
    "v5e": Generation(prefix="v5e", axes=2),
    "v5p": Generation(prefix="v5p", axes=3),
    "v6e": Generation(prefix="v6e", axes=2),
    "v7x": Generation(prefix="tpu7x", axes=3, devices_per_chip=2),
}

_SLICES = {
    2: {1: "2x2", 2: "2x2", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"},
    3: {1: "2x2x1", 2: "2x2x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"},
}
"""Axes → chips → the smallest slice that has them."""


def topology(generation: str, devices: int, library: str) -> Topology:
    """The smallest slice with that many devices. Raises UsageError when there is none."""
    if generation not in GENERATIONS:
        raise unknown("TPU generation", generation, GENERATIONS)
    one = GENERATIONS[generation]
    chips = -(-devices // one.devices_per_chip)
    slices = _SLICES[one.axes]
    if chips not in slices:
        raise UsageError(
            f"no {one.prefix} slice of {devices} devices; ask for one of "
            f"{', '.join(str(n * one.devices_per_chip) for n in slices)}"
        )
    return Topology(
        platform="tpu",
        library=library,
        name=f"{one.prefix}:{slices[chips]}",
        arguments=dict(one.arguments),
    )
