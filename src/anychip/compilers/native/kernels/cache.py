"""New keys or values into a KV cache, in place (the composite anychip.cache_update)."""

from __future__ import annotations

from dataclasses import dataclass

from anychip.compilers.native.ir import I32, I64, Function, Value
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels import number


@dataclass(frozen=True)
class CacheUpdate:
    """cache[batch, heads, slots, width] gets new f32[batch, heads, length, width] from slot
    start[batch] on, rounded to the cache's type. A unit is one row of one head.

    `strides` are those of `new` in elements, along batch, heads, length. A start that would run
    past the end is moved back, as StableHLO's dynamic_update_slice says; a ring takes start
    modulo slots (length 1 only).
    """

    batch: int
    heads: int
    slots: int
    width: int
    length: int
    strides: tuple[int, int, int]
    element: str
    ring: bool

    is_light, row_local, piece = False, False, 0
    operands = ("new", "start", "cache")

    @property
    def name(self) -> str:
        sizes = (self.batch, self.heads, self.slots, self.width, self.length, *self.strides)
        kind = "ring" if self.ring else "line"
        return f"cache_update_{kind}_{self.element}_{'_'.join(map(str, sizes))}"

    @property
    def units(self) -> int:
        return self.batch * self.heads * self.length

    def emit(self, f: Function, isa: Isa, first: Value, last: Value) -> None:
        size = number.SIZES[self.element]
        with f.loop(first, last) as unit:
            row, rest = unit % self.length, unit // self.length
            head, batch = rest % self.heads, rest // self.heads
            start = f.arguments["start"].at(batch * 4).load(I32).to(I64)
            slot = start % self.slots if self.ring else _clamped(f, start, self.slots - self.length)
            at = [p * (4 * s) for p, s in zip((batch, head, row), self.strides, strict=True)]
            new = f.arguments["new"].at(at[0]).at(at[1]).at(at[2])
            cache = f.arguments["cache"].at((rest * self.slots + slot + row) * (size * self.width))
            whole = self.width // 16 * 16
            for i in range(0, whole, 16):
                value = number.load(f, isa, new.at(4 * i), "f32", 16)
                number.store(f, isa, cache.at(size * i), value, self.element, 16)
            for i in range(whole, self.width):
                value = number.load(f, isa, new.at(4 * i), "f32", 1)
                number.store(f, isa, cache.at(size * i), value, self.element, 1)


def _clamped(f: Function, value: Value, most: int) -> Value:
    high = f.select(value > most, f.i64(most), value)
    return f.select(high < 0, f.i64(0), high)
