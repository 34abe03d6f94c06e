"""What the closed form knows of a chip's family rather than of the chip: a few fitted constants.

Fitted on published figures, never on one row, and judged by `anychip validate`; docs/twins has
the table. A family with fewer than ten figures takes the value of one it resembles, and a wider
error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anychip.core import Fact


@dataclass(frozen=True, kw_only=True)
class FamilyModel:
    """`overlap`: how much of a kernel's shorter work (arithmetic beside memory) hides behind its
    longest: 1 is the ideal roofline, 0 means they take turns. `decode_error` and `prefill_error`:
    half-widths, as natural logarithms, of what is left unexplained in eight of ten figures."""

    overlap: Fact
    decode_error: float
    prefill_error: float


def _overlap(value: float, low: float, high: float, source: str) -> Fact:
    return Fact(value=value, low=low, high=high, source=source, confidence="medium")


_SIMT = _overlap(
    0.2, 0.0, 0.6, "fit: decode at batch 1-256 and prefill of 128-8192 tokens on A100, H100, MI300X"
)
_STATIC = _overlap(
    0.8, 0.4, 1.0, "assumed: a static schedule moves the next weights while it multiplies"
)

FAMILIES: Mapping[str, FamilyModel] = {
    "simt": FamilyModel(overlap=_SIMT, decode_error=0.2, prefill_error=0.4),
    "systolic": FamilyModel(overlap=_SIMT, decode_error=0.15, prefill_error=0.5),
    "lpu": FamilyModel(overlap=_STATIC, decode_error=0.3, prefill_error=0.5),
    "wafer": FamilyModel(overlap=_STATIC, decode_error=0.4, prefill_error=0.6),
    "dimc": FamilyModel(overlap=_STATIC, decode_error=0.5, prefill_error=0.6),
    "chiplet": FamilyModel(overlap=_SIMT, decode_error=0.35, prefill_error=0.5),
    "dataflow": FamilyModel(overlap=_STATIC, decode_error=0.5, prefill_error=0.7),
    "mesh": FamilyModel(overlap=_STATIC, decode_error=0.5, prefill_error=0.8),
    "soc": FamilyModel(overlap=_SIMT, decode_error=0.3, prefill_error=0.4),
    "cpu": FamilyModel(overlap=_SIMT, decode_error=0.4, prefill_error=0.5),
}
