"""Machine: a ChipSpec inside a SystemSpec as plain numbers, any of which can be turned.

Facts keep sources and ranges; equations want floats. `machine(spec, system, turned)` is where one
becomes the other, so that an interval is the same equation at another corner of the facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anychip.core import ChipSpec, Fact, InputError, LinkSpec, SystemSpec
from anychip.twin.family import FAMILIES

OVERLAP = "family.overlap"
"""The key of a family's overlap among facts."""
ACTIVE = "family.active_w"
"""The key of a family's share of power that a busy chip draws whatever it does."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """One level of memory of one chip."""

    name: str
    capacity_bytes: float
    bytes_per_s: float
    j_per_byte: float | None
    holds: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Link:
    """What one chip sends in one direction over all its links, and the time of one hop."""

    bytes_per_s: float
    hop_s: float
    topology: str
    j_per_byte: float | None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Rates are what programs reach: the datasheet's peak times the efficiency of its kind.

    `matmul_efficiency` is that of formats without one of their own; `peak_flops_per_s` keeps the
    peaks, for roofline floors. Levels run from the largest to the
    nearest. `scale_up_count` is how many chips `link` joins; beyond, `scale_out` does. `about`
    are the facts only this chip's kind has.
    """

    name: str
    family: str
    overlap: float
    active: float
    matmul_flops_per_s: Mapping[str, float]
    matmul_efficiency: float
    peak_flops_per_s: Mapping[str, float]
    vector_flops_per_s: float
    levels: tuple[Level, ...]
    peak_bytes_per_s: tuple[float, ...]
    per_kernel_s: float
    per_layer_s: float
    per_step_s: float
    link: Link | None
    scale_out: Link | None
    scale_up_count: int
    tdp_w: float | None
    idle_w: float | None
    mac_j: float | None
    system_w: float | None
    clock_hz: float | None
    about: Mapping[str, float]

    def detail(self, name: str) -> float:
        """A number of the chip's `about` table that its family's machine model needs."""
        if name not in self.about:
            raise InputError(
                f"{self.name} lacks about.{name}, which the {self.family} machine model needs; "
                "add it to the chip's spec.toml"
            )
        return self.about[name]

    @property
    def clock(self) -> float:
        """Cycles a second, for families whose machine model counts cycles."""
        if self.clock_hz is None:
            raise InputError(f"{self.name} lacks clock_hz, which its machine model needs")
        return self.clock_hz


def facts_of(spec: ChipSpec, system: SystemSpec | None = None) -> dict[str, Fact]:
    """Every Fact that a Machine is made of, by key; those of the system start with `system.`."""
    family = FAMILIES[spec.family]
    own = {**dict(spec.facts()), OVERLAP: family.overlap, ACTIVE: family.active}
    if system is not None:
        for name in ("link", "scale_out"):
            link: LinkSpec | None = getattr(system, name)
            if link is not None:
                own |= {f"system.{name}.{key}": fact for key, fact in _link_facts(link)}
        for name in ("system_w", "usd_per_hour"):
            fact: Fact | None = getattr(system, name)
            if fact is not None:
                own[f"system.{name}"] = fact
    return own


def machine(
    spec: ChipSpec, system: SystemSpec | None = None, turned: Mapping[str, float] | None = None
) -> Machine:
    """The Machine, with the facts named in `turned` (keys of `facts_of`) set to other values."""
    turned = turned or {}

    def number(key: str, fact: Fact) -> float:
        return turned.get(key, fact.value)

    def maybe(key: str, fact: Fact | None) -> float | None:
        return None if fact is None else number(key, fact)

    def linked(key: str, link: LinkSpec | None) -> Link | None:
        if link is None:
            return None
        return Link(
            bytes_per_s=number(f"{key}.bytes_per_s", link.bytes_per_s),
            hop_s=number(f"{key}.hop_s", link.hop_s),
            topology=link.topology,
            j_per_byte=maybe(f"{key}.j_per_byte", link.j_per_byte),
        )

    matmul = number("matmul_efficiency", spec.matmul_efficiency)
    memory = number("memory_efficiency", spec.memory_efficiency)
    peaks = {
        name: number(f"matmul_flops_per_s.{name}", fact)
        for name, fact in spec.matmul_flops_per_s.items()
    }
    reached = {
        name: number(f"format_efficiency.{name}", fact)
        for name, fact in dict(spec.format_efficiency).items()
    }
    bandwidths = tuple(
        number(f"memory.{level.name}.read_bytes_per_s", level.read_bytes_per_s)
        for level in spec.memory
    )
    own = linked("link", spec.link)
    inside = linked("system.link", system.link) if system and system.link else own
    outside = linked("system.scale_out", system.scale_out) if system else None
    largest = system.counts[-1] if system else 1
    return Machine(
        clock_hz=maybe("clock_hz", spec.clock_hz),
        about={key: number(f"about.{key}", fact) for key, fact in dict(spec.about).items()},
        name=spec.name,
        family=spec.family,
        overlap=number(OVERLAP, FAMILIES[spec.family].overlap),
        active=number(ACTIVE, FAMILIES[spec.family].active),
        matmul_flops_per_s={name: peak * reached.get(name, matmul) for name, peak in peaks.items()},
        matmul_efficiency=matmul,
        peak_flops_per_s=peaks,
        vector_flops_per_s=number("vector_flops_per_s", spec.vector_flops_per_s),
        levels=tuple(
            Level(
                name=level.name,
                capacity_bytes=number(f"memory.{level.name}.capacity_bytes", level.capacity_bytes),
                bytes_per_s=rate * memory,
                j_per_byte=maybe(f"memory.{level.name}.read_j_per_byte", level.read_j_per_byte),
                holds=level.holds,
            )
            for level, rate in zip(spec.memory, bandwidths, strict=True)
        ),
        peak_bytes_per_s=bandwidths,
        per_kernel_s=number("per_kernel_s", spec.per_kernel_s),
        per_layer_s=maybe("per_layer_s", spec.per_layer_s) or 0.0,
        per_step_s=number("per_step_s", spec.per_step_s),
        link=inside,
        scale_out=outside,
        scale_up_count=(system.scale_up_count if system else None) or largest,
        tdp_w=maybe("tdp_w", spec.tdp_w),
        idle_w=maybe("idle_w", spec.idle_w),
        mac_j=maybe("mac_j", spec.mac_j),
        system_w=maybe("system.system_w", system.system_w) if system else None,
    )


def _link_facts(link: LinkSpec) -> list[tuple[str, Fact]]:
    pairs = (
        ("bytes_per_s", link.bytes_per_s),
        ("hop_s", link.hop_s),
        ("j_per_byte", link.j_per_byte),
    )
    return [(key, fact) for key, fact in pairs if fact is not None]
