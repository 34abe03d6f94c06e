"""Work: what an op asks of a chip, whatever the chip. Counts only; no time, no rates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Additive counts of one op, or of many.

    `flops` counts each arithmetic operation on one element as 1 and a multiply-add as 2, whatever
    the element type (integer operations too). `transcendentals` counts exp, log, tanh, sqrt,
    divide-free power and the like, one per element; they are not in `flops`. `read_bytes` and
    `written_bytes` are the bytes an op alone would move from and to memory: every operand read
    once in full and every result written once, except where the op touches only a part
    (gather, slices, in-place updates), and nothing for ops that only rename data (reshape).
    """

    flops: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    transcendentals: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
            self.transcendentals + other.transcendentals,
        )

    def __mul__(self, count: int) -> Work:
        """The same op `count` times."""
        return Work(
            self.flops * count,
            self.read_bytes * count,
            self.written_bytes * count,
            self.transcendentals * count,
        )

    @property
    def moved_bytes(self) -> int:
        """Bytes read plus bytes written."""
        return self.read_bytes + self.written_bytes
