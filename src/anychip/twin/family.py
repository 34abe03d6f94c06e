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
    longest: 1 is the ideal roofline, 0 means they take turns."""

    overlap: Fact


def _overlap(value: float, low: float, high: float, source: str) -> Fact:
    return Fact(value=value, low=low, high=high, source=source, confidence="medium")


_SIMT = _overlap(
    0.2, 0.0, 0.6, "fit: decode at batch 1-256 and prefill of 128-8192 tokens on A100, H100, MI300X"
)
_STATIC = _overlap(
    0.8, 0.4, 1.0, "assumed: a static schedule moves the next weights while it multiplies"
)

FAMILIES: Mapping[str, FamilyModel] = {
    "simt": FamilyModel(overlap=_SIMT),
    "systolic": FamilyModel(overlap=_SIMT),
    "lpu": FamilyModel(overlap=_STATIC),
    "wafer": FamilyModel(overlap=_STATIC),
    "dimc": FamilyModel(overlap=_STATIC),
    "chiplet": FamilyModel(overlap=_SIMT),
    "dataflow": FamilyModel(overlap=_STATIC),
    "mesh": FamilyModel(overlap=_STATIC),
    "soc": FamilyModel(overlap=_SIMT),
    "cpu": FamilyModel(overlap=_SIMT),
}
