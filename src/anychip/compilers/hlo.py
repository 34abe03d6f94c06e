"""Optimised HLO text as data: computations, instructions, and the bytes each array takes.

Reads what XLA prints for a scheduled module; keeps every attribute as text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16,
    "s32": 32, "u32": 32, "s64": 64, "u64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64,
    "c64": 64, "c128": 128, "f8e4m3": 8, "f8e4m3fn": 8, "f8e5m2": 8, "f8e4m3b11fnuz": 8,
    "f8e4m3fnuz": 8, "f8e5m2fnuz": 8, "f8e3m4": 8, "f8e8m0fnu": 8, "f4e2m1fn": 4, "token": 0,
}  # fmt: skip
"""Bits an element takes in memory, by HLO's name of its type."""

_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_TILE = re.compile(r"T\(([\d,*]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_HEAD = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|select|scatter)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_NAMED = re.compile(r"%([\w.\-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True)
class Array:
    """One array type. `space` is 0 for the chip's main memory, else a memory on the chip."""

    element: str
    shape: tuple[int, ...]
    nbytes: int
    space: int = 0


@dataclass(frozen=True)
class Instruction:
    """One instruction. `tail` is its attributes and metadata as printed."""

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    inside: str
    tail: str
    is_root: bool = False

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its result, in order."""
        return arrays(self.type)

    @property
    def op_name(self) -> str:
        found = _OP_NAME.search(self.tail)
        return found[1] if found else ""

    @property
    def called(self) -> Mapping[str, str]:
        """Role (calls, body, condition, to_apply, branch 0, …) → computation."""
        named = dict(_CALLED.findall(self.tail))
        if branches := _BRANCHES.search(self.tail):
            named |= {f"branch {i}": n for i, n in enumerate(_NAMED.findall(branches[1]))}
        return named


@dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order they are printed: the schedule, where there is one."""

    name: str
    instructions: Mapping[str, Instruction] = field(repr=False)

    @property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.is_root)

    @cached_property
    def parameters(self) -> Mapping[int, Instruction]:
        """Parameter number → its instruction."""
        return {int(i.inside): i for i in self.instructions.values() if i.opcode == "parameter"}

    @cached_property
    def users(self) -> Mapping[str, tuple[Instruction, ...]]:
        found: dict[str, list[Instruction]] = {}
        for one in self.instructions.values():
            for operand in dict.fromkeys(one.operands):
                found.setdefault(operand, []).append(one)
        return {name: tuple(users) for name, users in found.items()}


@dataclass(frozen=True)
class HloModule:
    """The computations of one program by name; `entry` is where it starts."""

    computations: Mapping[str, Computation]
    entry: Computation

    def instructions(self) -> Iterator[Instruction]:
        for computation in self.computations.values():
            yield from computation.instructions.values()


def trip_count(program: HloModule, at: Computation, loop: Instruction) -> int | None:
    """How often a while loop in `at` runs: as XLA notes, else when it counts up to a constant."""
    if noted := re.search(r'known_trip_count"?:\{"n":"?(\d+)', loop.tail):
        return int(noted[1])
    test = program.computations[loop.called["condition"]]
    body = program.computations[loop.called["body"]]
    if test.root.opcode != "compare" or "direction=LT" not in test.root.tail:
        return None
    counter, limit = (test.instructions[name] for name in test.root.operands)
    place = re.search(r"index=(\d+)", counter.tail)
    if counter.opcode != "get-tuple-element" or not place or body.root.opcode != "tuple":
        return None
    index = int(place[1])
    carried = at.instructions[loop.operands[0]]
    if carried.opcode != "tuple":
        return None
    start = _constant(at, at.instructions[carried.operands[index]])
    step = body.instructions[body.root.operands[index]]
    if step.opcode != "add":
        return None
    before, by = (body.instructions[name] for name in step.operands)
    steps_by_one = _constant(body, by) == 1 and f"index={index}" in before.tail.split(", ")[1:2]
    stop = _constant(test, limit)
    if start is None or stop is None or not steps_by_one:
        return None
    return max(0, stop - start)


def _constant(at: Computation, one: Instruction) -> int | None:
    """The value of an integer constant, seen through copies."""
    while one.opcode in ("copy", "bitcast"):
        one = at.instructions[one.operands[0]]
    is_number = one.opcode == "constant" and re.fullmatch(r"-?\d+", one.inside)
    return int(one.inside) if is_number else None


def parse(text: str) -> HloModule:
    """Read the text of an HLO module."""
    computations: dict[str, Computation] = {}
    entry: Computation | None = None
    name, is_entry, body = "", False, dict[str, Instruction]()
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY ")) and line.endswith("{"):
            is_entry = line.startswith("ENTRY ")
            name = line.removeprefix("ENTRY ").lstrip("%").split()[0]
            body = {}
        elif line.startswith("}") and name:
            computations[name] = Computation(name, body)
            entry = computations[name] if is_entry else entry
            name = ""
        elif name and (one := _instruction(line)):
            body[one.name] = one
    assert entry is not None, "XLA printed no ENTRY computation"
    return HloModule(computations, entry)


def arrays(type_text: str) -> tuple[Array, ...]:
    """The arrays of a type's text, those inside tuples too."""
    return tuple(
        _array(element, dims, layout or "") for element, dims, layout in _ARRAY.findall(type_text)
    )


def _array(element: str, dims: str, layout: str) -> Array:
    shape = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
    order, _, tiling = layout.partition(":")
    space = _SPACE.search(tiling)
    physical = list(shape)
    minor_to_major = [int(i) for i in order.split(",") if i]
    if len(minor_to_major) == len(shape):
        physical = [shape[i] for i in reversed(minor_to_major)]
    if tile := _TILE.search(tiling):  # the first tile pads; those after it only reorder inside
        sizes = [int(t) for t in tile[1].split(",") if t.isdigit()]
        physical = [1] * (len(sizes) - len(physical)) + physical
        for at, size in enumerate(sizes, len(physical) - len(sizes)):
            physical[at] = -(-physical[at] // size) * size
    bits = math.prod(physical) * BITS.get(element, 0)
    return Array(element, shape, -(-bits // 8), int(space[1]) if space else 0)


def _instruction(line: str) -> Instruction | None:
    head = _HEAD.match(line)
    if not head:
        return None
    rest = line[head.end() :]
    end = _close(rest, 0) if rest.startswith("(") else rest.find(" ")
    opcode = _OPCODE.match(rest, end)
    if not opcode:
        return None
    close = _close(rest, opcode.end() - 1)
    inside = rest[opcode.end() : close - 1]
    return Instruction(
        name=head[2],
        opcode=opcode[1],
        type=rest[:end],
        operands=tuple(_NAMED.findall(inside)),
        inside=inside,
        tail=rest[close:],
        is_root=bool(head[1]),
    )


def _close(text: str, start: int) -> int:
    """The index after the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index + 1
    return len(text)
