"""Seconds of a collective by HLO's name on a chip's link, for compilers that leave it uncosted."""

from __future__ import annotations

from anychip.core import LinkSpec, UsageError
from anychip.twin.collective import all_gather_s, all_reduce_s, all_to_all_s, send_s
from anychip.twin.machine import Link


def exchange_s(kind: str, size: float, chips: int, spec: LinkSpec) -> float:
    """`size` is the whole value in bytes: gathered, before it is scattered, or summed up.

    Raises UsageError for a kind that is not one of HLO's collectives.
    """
    link = Link(
        bytes_per_s=spec.bytes_per_s.value,
        hop_s=spec.hop_s.value,
        topology=spec.topology,
        j_per_byte=None,
    )
    if kind == "all-reduce":
        return all_reduce_s(size, chips, link)
    if kind in ("all-gather", "reduce-scatter"):
        return all_gather_s(size, chips, link)
    if kind == "all-to-all":
        return all_to_all_s(size, chips, link)
    if kind == "collective-permute":
        return send_s(size, link)
    raise UsageError(f"{kind!r} is no collective of HLO")
