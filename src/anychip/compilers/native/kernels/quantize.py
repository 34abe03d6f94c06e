"""Activations to 8 bits in groups of 32: what whole-number products multiply.

The record of a row of K numbers (K rounded up to 64, zeros behind): K signed bytes, then for each
group {f32 scale, f32 scale · Σq, i32 -8 Σq, i32 -128 Σq, i32 -32 Σq of its first half, i32
-32 Σq of its second half, 8 bytes of nothing}, where scale = max|x| / 127 and
q = x · (127 / max|x|) rounded, ties to even. So |x - scale q| is at most scale / 2 (1 + 2^-15).

Where tile registers multiply (`is_tiled`), sixteen rows lie together, 64 columns after 64 columns:
sixteen times 64 signed bytes, then for each of two groups sixteen f32 scales and sixteen f32
scale · Σq. What stands there for rows that are missing is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anychip.compilers.native.ir import F32V, I8, I32V, Function, Value, vector
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels.pointwise import Pointwise

GROUP, META_BYTES = 32, 32
BIAS_AT = {8: 8, 128: 12, 32: 16}
"""By what is subtracted from quants: where the sums of that stand."""


def depth64(depth: int) -> int:
    return -(-depth // 64) * 64


def record_bytes(depth: int) -> int:
    """Of one row, a multiple of 64."""
    size = depth64(depth) + depth64(depth) // GROUP * META_BYTES
    return -(-size // 64) * 64


TILED_TOKENS = 16
FEWEST_TILED = 9
"""From how many rows on tile registers are faster than vectors."""
TILED_BLOCK = TILED_TOKENS * (64 + 2 * 8)
"""Bytes of 64 columns of sixteen rows."""


def is_tiled(isa: Isa, tokens: int) -> bool:
    """Whether rows lie for tile registers."""
    return isa.has_tiles and tokens >= FEWEST_TILED


def records_bytes(tokens: int, depth: int) -> int:
    """Room for `tokens` rows, however they lie."""
    plain = tokens * record_bytes(depth)
    if tokens < FEWEST_TILED:
        return plain
    return max(plain, -(-tokens // TILED_TOKENS) * (depth64(depth) // 64) * TILED_BLOCK)


@dataclass(frozen=True)
class Quantize:
    """x f32[tokens, depth] (rows `stride` apart) → records. A unit is a row.

    Where x is `made` of other rows, these are read instead.
    """

    tokens: int
    depth: int
    stride: int
    made: Pointwise | None = None

    is_light, piece = True, 0

    @property
    def operands(self) -> tuple[str, ...]:
        return ("x", "out") if self.made is None else self.made.operands

    @property
    def row_local(self) -> bool:
        """Not where rows may lie side by side."""
        return self.tokens < FEWEST_TILED

    @property
    def name(self) -> str:
        made = f"_{self.made.name}" if self.made else ""
        return f"quantize_{self.tokens}x{self.depth}_{self.stride}{made}"

    @property
    def units(self) -> int:
        return self.tokens

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        tiled = is_tiled(isa, self.tokens)
        groups = depth64(self.depth) // GROUP
        with f.loop(first, last) as row:
            read = self._reader(f, isa, row)
            if tiled:
                out = f.arguments["out"].at(row // TILED_TOKENS * (groups // 2 * TILED_BLOCK))
                row = row % TILED_TOKENS
            else:
                out = f.arguments["out"].at(row * record_bytes(self.depth))
            with f.loop(0, self.depth // GROUP) as group:
                places = self._places(tiled, out, group, row)
                parts = [read(group * GROUP + 16 * i) for i in (0, 1)]
                self._group(f, tiled, parts, *places)
            for index in range(self.depth // GROUP, groups):
                codes, meta = self._places(tiled, out, f.i64(index), row)
                nothing = f.constant(I32V, 0)
                codes.store(nothing.take(range(8)), align=1)
                if tiled:
                    meta.store(f.f32(0.0))
                    meta.at(4 * TILED_TOKENS).store(f.f32(0.0))
                else:
                    meta.store(nothing.take(range(8)))

    def _reader(self, f: Function, isa: Isa, row: Value) -> Callable[[Value], Value]:
        """Sixteen numbers of a row."""
        if self.made is not None:
            made, bases = self.made, self.made.row(f, row)
            return lambda at: made.numbers_at(f, isa, bases, at)
        x = f.arguments["x"].at(row * (4 * self.stride))
        return lambda at: x.at(at * 4).load(F32V)

    def _places(self, tiled: bool, out: Value, group: Value, row: Value) -> tuple[Value, Value]:
        """Where a group's bytes begin, and its scales."""
        if not tiled:
            return out.at(group * GROUP), out.at(depth64(self.depth)).at(group * META_BYTES)
        block = out.at(group // 2 * TILED_BLOCK)
        codes = block.at(row * 64).at(group % 2 * GROUP)
        return codes, block.at(TILED_TOKENS * 64).at(group % 2 * (8 * TILED_TOKENS)).at(row * 4)

    def _group(self, f: Function, tiled: bool, parts: list[Value], out: Value, meta: Value) -> None:
        low, high = parts
        most = f.largest(f.larger(f.magnitude(low), f.magnitude(high)))
        scale = most / 127.0
        inverse = f.constant(most.type, 127.0) / most
        inverse = f.select(most > 0.0, inverse, f.f32(0.0)).splat()
        codes = [f.rounded(part * inverse).to(I32V) for part in (low, high)]
        for index, code in enumerate(codes):
            out.at(16 * index).store(code.to(vector(I8)), align=16)
        meta.store(scale)
        if tiled:
            total = f.total(codes[0] + codes[1])
            meta.at(4 * TILED_TOKENS).store(scale * total.to(scale.type))
            return
        halves = [f.total(code) for code in codes]
        total = halves[0] + halves[1]
        meta.at(4).store(scale * total.to(scale.type))
        meta.at(8).store(total * -8)
        meta.at(12).store(total * -128)
        meta.at(16).store(halves[0] * -32)
        meta.at(20).store(halves[1] * -32)
