"""How far the closed form is off on chips left out, by family: the intervals' own part.

`tools/half_widths.py` derives these from the rows of `anychip validate -f json`. The score of a
figure is what its interval lacks when only the facts' ranges make it: the root of its squared
logarithmic error less the squared spread of the facts. The half-width is the score that eight of
ten figures stay below (split conformal prediction, calibrate.half_width); coverage is counted with
each chip left out in turn. Families with fewer than eight figures share one half-width, of all
their figures, unless their own is larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LeftOut:
    """`half_width` is a logarithm; `figures` it comes from, of `family` or of "rare" families."""

    half_width: float
    figures: int
    family: str

    @property
    def evidence(self) -> str:
        """Where it comes from, as a phrase of an Estimate's provenance."""
        whose = "families with few of them" if self.family == "rare" else self.family
        return f"own error of {self.figures} published figures of {whose}, tools/half_widths.py"


DECODE: Mapping[str, LeftOut] = {
    "chiplet": LeftOut(0.609, 15, "rare"),
    "dataflow": LeftOut(0.52, 13, "dataflow"),
    "lpu": LeftOut(0.609, 15, "rare"),
    "mesh": LeftOut(0.943, 5, "mesh"),
    "simt": LeftOut(0.176, 141, "simt"),
    "soc": LeftOut(0.0, 9, "soc"),
    "systolic": LeftOut(0.0, 160, "systolic"),
    "wafer": LeftOut(0.676, 3, "wafer"),
}
"""Of step times, and of what follows from them: tokens a second, requests, joules, dollars."""

PREFILL: Mapping[str, LeftOut] = {
    "dataflow": LeftOut(0.682, 12, "rare"),
    "mesh": LeftOut(0.796, 4, "mesh"),
    "simt": LeftOut(0.374, 59, "simt"),
    "soc": LeftOut(0.682, 12, "rare"),
    "systolic": LeftOut(0.739, 76, "systolic"),
}
"""Of times to first token."""

RARE = {"decode": 0.609, "prefill": 0.682}
"""Of families that no figure is published of."""
FIGURES = {"decode": 15, "prefill": 12}


def left_out(family: str, quantity: str) -> LeftOut:
    """The closed form's own error for a quantity of a chip of this family."""
    phase = "prefill" if quantity.startswith("ttft") else "decode"
    known = (PREFILL if phase == "prefill" else DECODE).get(family)
    return known or LeftOut(RARE[phase], FIGURES[phase], "rare")


WHOLE_STEPS: Mapping[str, tuple[int, float, float]] = {
    "simt": (185, 0.216, 0.474),
    "systolic": (146, 0.593, 0.792),
}
"""Of machine models that were fitted on single ops only: published whole steps each was held
against, and the absolute relative error that half and nine tenths of them are within
(`bench/results/whole-steps.json`)."""
