"""Arithmetic: which format a chip multiplies in, how it accumulates and flushes, from its spec.

Rules only; `rounding` knows the formats and `numerics` applies them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from anychip.core import DTYPES, ChipSpec, UsageError, dtype, unknown

SPREAD = 16
"""Roundings grow like the square root of their number when they are independent (Higham and Mary,
SIAM J. Sci. Comput. 41(5), 2019), and residual streams damp them: SmolLM2's 271 products in a row
cost 2 (f16) to 8 (mxint8) unit roundoffs at its logits (docs/diff.md); one layer of large gain a
few."""

NARROW_BITS = 8
"""Floats of so few bits are multiplied as the program has them: every wider unit holds their
products exactly."""


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """A chip's arithmetic. `multiply` and `accumulate` are as in NumericsSpec, `native` are the
    matrix unit's own formats. `sources` says where each rule is from."""

    chip: str
    native: tuple[str, ...]
    multiply: Mapping[str, str]
    accumulate: Mapping[str, str]
    accumulate_count: int
    flush: bool
    saturate: bool
    sources: Mapping[str, str]

    def format_of(self, element: str) -> str:
        """The format in which products of floats of this type are multiplied; "" as they are."""
        if dtype(element).bits <= NARROW_BITS:
            return ""
        if element in self.multiply:
            return self.multiply[element]
        if element in self.native:
            return element
        return self.multiply["default"]

    def accumulator_of(self, format: str) -> str:
        """The accumulator of products in this format."""
        return self.accumulate.get(format, self.accumulate["default"])

    def multiplying_in(self, format: str) -> Arithmetic:
        """The same chip when told to multiply all wider floats in `format`."""
        from anychip.twin.rounding import float_format, known_formats

        if format not in known_formats() and float_format(format) is None:
            raise unknown("number format", format, (*known_formats(), "e8mN"))
        return replace(
            self,
            multiply={"default": format, **dict.fromkeys(("f64", "f32", "f16", "bf16"), format)},
        )

    @property
    def tolerance(self) -> float:
        """How far a result may lie from exact arithmetic, ‖Δ‖ / ‖result‖, and still be what these
        formats do: SPREAD unit roundoffs of the coarser of f32's and bf16's products. At least
        what two orders of summation differ by, at most a half, beyond which nothing is shown."""
        worst = max(unit_roundoff(self.format_of(name)) for name in ("f32", "bf16"))
        return min(0.5, max(1e-3, SPREAD * worst))

    def describe(self) -> str:
        """One line for people: what an f32 and a bf16 product become."""
        ways = {name: self.format_of(name) for name in ("f32", "bf16")}
        parts = [f"{name} products in {way}" for name, way in ways.items() if way != name]
        sums = self.accumulator_of(ways["f32"])
        extra = ["subnormal operands flushed"] if self.flush else []
        return ", ".join(
            [*(parts or ["f32 and bf16 products as they are"]), f"sums in {sums}", *extra]
        )


def recast(formats: tuple[str, ...], own: Arithmetic) -> tuple[str, ...]:
    """The formats of a matmul (twin.lowered.Kernel) as the chip's arithmetic does them."""
    return tuple(
        (own.format_of(f) or f) if f in DTYPES and DTYPES[f].kind == "float" else f for f in formats
    )


def unit_roundoff(name: str) -> float:
    """Half a step at 1 (of a block or a scaled row: at its largest number)."""
    from anychip.twin.rounding import BLOCKS, SCALED, float_format

    if name in ("f32", "f64"):
        return 2.0**-24
    if name in SCALED:
        return 2.0 ** -int(name[1:])
    element = BLOCKS[name].element if name in BLOCKS else name
    if element.startswith("int"):
        return 2.0 ** -(int(element[3:]) - 1)
    kind = float_format(element)
    assert kind is not None
    return 2.0 ** -(kind.mantissa + 1)


def arithmetic(spec: ChipSpec) -> Arithmetic:
    """A chip's arithmetic: what its spec says, and assumptions, named as such, for the rest.

    Assumed where nothing is said: a float type the matrix unit lacks is multiplied in its widest
    float of 16 bits or more, in the finest of its block formats where it has no such float; sums
    are f32; subnormals stay; operands too large saturate.
    """
    said = spec.numerics
    multiply = {} if said is None else {k: r.value for k, r in said.multiply.items()}
    accumulate = {} if said is None else {k: r.value for k, r in said.accumulate.items()}
    sources = {}
    if said is not None:
        sources = {f"multiply.{k}": r.source for k, r in said.multiply.items()}
        sources |= {f"accumulate.{k}": r.source for k, r in said.accumulate.items()}
        for name in ("subnormals", "overflow", "accumulate_count"):
            if (rule := getattr(said, name)) is not None:
                sources[name] = rule.source
    native = tuple(spec.matmul_flops_per_s)
    if "default" not in multiply:
        multiply["default"] = _widest(spec)
        sources["multiply.default"] = "assumed: the most exact format of the matrix unit"
    if "default" not in accumulate:
        accumulate["default"] = "f32"
        sources["accumulate.default"] = "assumed"
    count = said.accumulate_count if said else None
    return Arithmetic(
        chip=spec.name,
        native=native,
        multiply=multiply,
        accumulate=accumulate,
        accumulate_count=int(count.value) if count else 1,
        flush=bool(said and said.subnormals and said.subnormals.value == "flush"),
        saturate=not (said and said.overflow and said.overflow.value == "own"),
        sources=sources,
    )


_FINEST = ("f32", "tf32", "f16", "cb16", "bf16", "mxint16", "mxint8", "mxfp8", "f8E4M3FN", "i8")


def _widest(spec: ChipSpec) -> str:
    for name in _FINEST:
        if name in spec.matmul_flops_per_s:
            return name
    raise UsageError(
        f"{spec.name} multiplies only in {list(spec.matmul_flops_per_s)}; say in its spec's "
        "[numerics.multiply] which format a float product takes"
    )
