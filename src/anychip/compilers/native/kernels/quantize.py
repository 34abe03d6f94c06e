"""Activations to 8 bits in groups of 32: what whole-number products multiply.

The record of a row of K numbers (K rounded up to 64, zeros behind): K signed bytes, then for each
group {f32 scale, f32 scale · Σq, i32 -8 Σq, i32 -128 Σq}, where scale = max|x| / 127 and
q = x · (127 / max|x|) rounded, ties to even. So |x - scale q| is at most scale / 2 (1 + 2^-15).
"""

from __future__ import annotations

from dataclasses import dataclass

from anychip.compilers.native.ir import F32V, I8, I32V, Function, Value, vector
from anychip.compilers.native.isa import Isa

GROUP, META_BYTES = 32, 16


def depth64(depth: int) -> int:
    return -(-depth // 64) * 64


def record_bytes(depth: int) -> int:
    """Of one row, a multiple of 64."""
    size = depth64(depth) + depth64(depth) // GROUP * META_BYTES
    return -(-size // 64) * 64


@dataclass(frozen=True)
class Quantize:
    """x f32[tokens, depth] (rows `stride` apart) → records. A unit is a row."""

    tokens: int
    depth: int
    stride: int

    is_light = row_local = True
    operands = ("x", "out")

    @property
    def name(self) -> str:
        return f"quantize_{self.tokens}x{self.depth}_{self.stride}"

    @property
    def units(self) -> int:
        return self.tokens

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        with f.loop(first, last) as row:
            x = f.arguments["x"].at(row * (4 * self.stride))
            out = f.arguments["out"].at(row * record_bytes(self.depth))
            with f.loop(0, self.depth // GROUP) as group:
                self._group(f, x.at(group * (4 * GROUP)), out, group)
            for group in range(self.depth // GROUP, depth64(self.depth) // GROUP):
                nothing = f.constant(I32V, 0)
                out.at(group * GROUP).store(nothing.take(range(8)), align=1)
                out.at(depth64(self.depth) + group * META_BYTES).store(nothing.take(range(4)))

    def _group(self, f: Function, x: Value, out: Value, group: Value) -> None:
        low, high = x.load(F32V), x.at(64).load(F32V)
        most = f.largest(f.larger(f.magnitude(low), f.magnitude(high)))
        scale = most / 127.0
        inverse = f.constant(most.type, 127.0) / most
        inverse = f.select(most > 0.0, inverse, f.f32(0.0)).splat()
        codes = [f.rounded(part * inverse).to(I32V) for part in (low, high)]
        for index, code in enumerate(codes):
            where = out.at(group * GROUP).at(16 * index)
            where.store(code.to(vector(I8)), align=16)
        total = f.total(codes[0] + codes[1])
        meta = out.at(depth64(self.depth)).at(group * META_BYTES)
        meta.store(scale)
        meta.at(4).store(scale * total.to(scale.type))
        meta.at(8).store(total * -8)
        meta.at(12).store(total * -128)
