"""What it costs to combine a value over chips: the alpha-beta model, best algorithm by size.

alpha is a hop (`hop_s`), beta a byte (`1 / bytes_per_s`). Formulas: Thakur, Rabenseifner and Gropp,
"Optimization of Collective Communication Operations in MPICH", IJHPCA 2005, section 4; direct
(one-shot, two-shot) forms need every chip to reach every other in one hop, so a switch.
"""

from __future__ import annotations

import math

from anychip.twin.machine import Link


def all_reduce_s(size: float, chips: int, link: Link) -> float:
    """Seconds until all `chips` hold the sum of their `size` bytes."""
    if chips < 2 or size <= 0:
        return 0.0
    alpha, beta = link.hop_s, 1.0 / link.bytes_per_s
    others = chips - 1
    ring = 2 * others * alpha + 2 * others / chips * size * beta
    if link.topology in ("switch", "dragonfly"):
        reach = _reach(link.topology, chips)
        one_shot = reach * alpha + others * size * beta
        two_shot = 2 * reach * alpha + 2 * others / chips * size * beta
        tree = 2 * math.ceil(math.log2(chips)) * alpha + 2 * size * beta
        return min(ring, one_shot, two_shot, tree)
    # Rings along each axis at once: bandwidth as the ring, latency as twice the way across.
    across = 2 * _reach(link.topology, chips) * alpha + 2 * others / chips * size * beta
    return min(ring, across)


def all_gather_s(size: float, chips: int, link: Link) -> float:
    """Seconds until all `chips` hold all of `size` bytes, of which each has its share."""
    if chips < 2 or size <= 0:
        return 0.0
    others = chips - 1
    ring_hops = others
    hops = min(ring_hops, _reach(link.topology, chips))
    return hops * link.hop_s + others / chips * size / link.bytes_per_s


def all_to_all_s(size: float, chips: int, link: Link) -> float:
    """Seconds until every chip has sent each other chip its part of `size` bytes (a chip's whole).

    On a torus or mesh the bytes travel on average half the way across, so they take that many
    links' bandwidth; on a switch, one.
    """
    if chips < 2 or size <= 0:
        return 0.0
    reach = _reach(link.topology, chips)
    load = 1.0 if link.topology in ("switch", "dragonfly") else max(1.0, reach / 2)
    return reach * link.hop_s + load * (chips - 1) / chips * size / link.bytes_per_s


def send_s(size: float, link: Link) -> float:
    """Seconds to send `size` bytes to a neighbour."""
    return link.hop_s + size / link.bytes_per_s


def _reach(topology: str, chips: int) -> int:
    """Hops between the two chips farthest apart."""
    if topology == "switch":
        return 1
    if topology == "dragonfly":  # within a group of eight, then one global hop and one more inside
        return 1 if chips <= 8 else 3
    if topology == "ring":
        return math.ceil(chips / 2)
    if topology == "mesh":
        return 2 * (math.ceil(math.sqrt(chips)) - 1) or 1
    axes = 3 if topology == "torus3d" else 2
    side = math.ceil(chips ** (1 / axes) - 1e-9)
    return max(1, axes * (side // 2))
