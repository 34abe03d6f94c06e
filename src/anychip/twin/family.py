"""What the closed form knows of a chip's family rather than of the chip: a few fitted constants.

Fitted on published figures, never on one row, and judged by `anychip validate`; docs/twins has
the table. A family with fewer than ten figures takes the value of one it resembles. How far off
each is: left_out.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anychip.core import Fact


@dataclass(frozen=True, kw_only=True)
class FamilyModel:
    """`overlap`: how much of a kernel's shorter work (arithmetic beside memory) hides behind its
    longest: 1 is the ideal roofline, 0 means they take turns. `active`: what a chip that works
    draws beside idling, whatever it works on (clocks, registers, issue), over TDP less idle."""

    overlap: Fact
    active: Fact


def _overlap(value: float, low: float, high: float, source: str) -> Fact:
    return Fact(value=value, low=low, high=high, source=source, confidence="medium")


_SIMT = _overlap(
    0.2, 0.0, 0.6, "fit: decode at batch 1-256 and prefill of 128-8192 tokens on A100, H100, MI300X"
)
_STATIC = _overlap(
    0.8, 0.4, 1.0, "assumed: a static schedule moves the next weights while it multiplies"
)

_ACTIVE = Fact(
    value=0.67,
    low=0.3,
    high=0.75,
    source="fit: MLPerf v5.1 power of 8 B200 in one server, rows EN05w-EN10w: Llama-3.1-8B, 2-70B "
    "and 3.1-405B draw 9.0-10.4 kW at the wall",
    confidence="low",
    note="one chip, all at large batches; low: assumed, for decode alone",
)
_UNKNOWN = Fact(
    value=0.0,
    low=0.0,
    high=0.5,
    source="assumed: no wall power of a busy chip of this family is published",
    confidence="low",
)

FAMILIES: Mapping[str, FamilyModel] = {
    "simt": FamilyModel(overlap=_SIMT, active=_ACTIVE),
    "systolic": FamilyModel(overlap=_SIMT, active=_UNKNOWN),
    "lpu": FamilyModel(overlap=_STATIC, active=_UNKNOWN),
    "wafer": FamilyModel(overlap=_STATIC, active=_UNKNOWN),
    "dimc": FamilyModel(overlap=_STATIC, active=_UNKNOWN),
    "chiplet": FamilyModel(overlap=_SIMT, active=_UNKNOWN),
    "dataflow": FamilyModel(overlap=_STATIC, active=_UNKNOWN),
    "mesh": FamilyModel(overlap=_STATIC, active=_UNKNOWN),
    "soc": FamilyModel(overlap=_SIMT, active=_UNKNOWN),
    "cpu": FamilyModel(overlap=_SIMT, active=_UNKNOWN),
}
