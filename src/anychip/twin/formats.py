"""Which of a chip's number formats does a matmul, and what it costs where none is made for it.

A format the matrix unit has is native. Otherwise the nearest one that can hold the same numbers is
used ("emulated"), at last the vector unit in f32. A format that would lose bits is never chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """How a matmul is done: in `format`, at `slowdown` times its cost; `why` if emulated."""

    format: str
    slowdown: float = 1.0
    why: str = ""

    @property
    def is_native(self) -> bool:
        return not self.why


VECTOR = "vector"
"""The format name of a matmul done by the vector unit in f32."""

_F8 = ("f8E4M3FN", "f8E4M3", "f8E4M3FNUZ", "mxfp8", "f8E5M2")

_WIDER: Mapping[str, tuple[str, ...]] = {
    "f64": (),
    "f32": (),
    "tf32": ("f32",),
    "f16": ("tf32", "f32"),
    "bf16": ("tf32", "f32"),
    **{name: (*(f for f in _F8 if f != name), "bf16", "f16", "tf32", "f32") for name in _F8},
    "i8": ("bf16", "f16", "tf32", "f32"),
    "i4": ("i8", "bf16", "f16", "tf32", "f32"),
    "mxint8": ("bf16", "tf32", "f32", "f16"),
    "mxint4": ("mxint8", "i8", "bf16", "f16", "tf32", "f32"),
    "mxfp4": ("nvfp4", "mxfp8", "bf16", "f16", "tf32", "f32"),
    "nvfp4": ("bf16", "f16", "tf32", "f32"),
}
"""Formats that hold every product operand of another exactly (8 bits of bf16's significand hold an
i8, an f8 and, with its power-of-two scale, an mx block's element). f16 holds bf16's significand but
not its range; see `_NARROW`."""

_NARROW: Mapping[str, tuple[str, ...]] = {"bf16": ("f16",), "f32": (), "tf32": (), "f16": ()}

_PASSES = (("bf16", 6.0), ("f16", 3.0))
"""f32 from passes of a narrower unit: six of bf16 (Henry, Tang and Heinecke, "Leveraging the
bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", ARITH 2019), three of
f16 (Ootomo and Yokota, IJHPCA 2022)."""


def way(formats: tuple[str, ...], rates: Mapping[str, float], stored: str = "") -> Way:
    """How a unit with these rates (format → FLOP/s) does a matmul that accepts `formats`.

    Weights that are `stored` in another format than the multiply's are unpacked first.
    """
    chosen = _multiply(formats, rates)
    if not chosen.why and stored and chosen.format not in (stored, VECTOR):
        return Way(
            chosen.format, why=f"{stored} is unpacked to {chosen.format} before the multiply"
        )
    return chosen


def _multiply(formats: tuple[str, ...], rates: Mapping[str, float]) -> Way:
    if not formats:
        return Way(VECTOR)
    first = formats[0]
    if first in rates:
        return Way(first)
    for wanted in formats:
        wider = [f for f in _WIDER.get(wanted, ()) if f in rates]
        if wanted in rates:
            return Way(wanted, why=f"{first} is multiplied as {wanted}")
        if wider:
            best = max(wider, key=lambda f: rates[f])
            return Way(best, why=f"{first} is multiplied as {best}, which holds it exactly")
    last = formats[-1]
    for narrow in _NARROW.get(last, ()):
        if narrow in rates:
            return Way(narrow, why=f"{last} is multiplied as {narrow}: same speed, smaller range")
    if last in ("f32", "tf32"):
        for name, passes in _PASSES:
            if name in rates:
                return Way(name, passes, why=f"{last} takes {passes:g} passes of the {name} unit")
    return Way(VECTOR, why=f"no matrix format holds {last}; the vector unit does it in f32")
