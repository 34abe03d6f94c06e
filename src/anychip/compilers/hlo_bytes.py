"""What one HLO instruction moves between the chip and its main memory.

Arrays in memories on the chip are free, views cost nothing, and a fusion that reads a slice of an
operand, or updates part of one in place, moves that part only.
"""

from __future__ import annotations

from anychip.compilers.hlo import Computation, HloModule, Instruction

FREE = frozenset(
    {
        *("parameter", "bitcast", "tuple", "get-tuple-element", "constant", "after-all"),
        *("partition-id", "replica-id", "opt-barrier", "add-dependency"),
    }
)
"""Instructions that do nothing when the program runs."""

_PARTS = frozenset({"dynamic-slice", "slice", "gather"})
_THROUGH = frozenset({"bitcast", "reshape", "copy", "convert", "transpose"})


def moved(program: HloModule, at: Computation, one: Instruction) -> tuple[int, int]:
    """(bytes read, bytes written) of one execution."""
    if one.opcode in FREE or one.opcode.endswith("-done"):
        return 0, 0
    if one.opcode in ("copy-start", "slice-start", "async-start"):
        return _transfer(at, one)
    body = program.computations.get(one.called.get("calls", "")) if one.opcode == "fusion" else None
    read = 0
    for index, name in enumerate(one.operands):
        whole = _off_chip(at.instructions[name]) if name in at.instructions else 0
        if not whole:
            continue
        if body is None:
            part = _part(one, index)
        else:
            part = _read_inside(program, body, index)
        read += whole if part is None else min(whole, part)
    return read, _written(program, at, one, body)


def _off_chip(one: Instruction) -> int:
    return sum(a.nbytes for a in one.arrays if a.space == 0)


def _transfer(at: Computation, one: Instruction) -> tuple[int, int]:
    """An asynchronous copy: its type lists destination and source, in either order."""
    moving = sum(a.nbytes for name in one.operands for a in at.instructions[name].arrays)
    held = [a for a in one.arrays if a.element != "u32" and a.shape]
    if one.opcode != "copy-start" and len(held) > 1:
        moving = held[-1].nbytes
    from_memory = any(_off_chip(at.instructions[name]) for name in one.operands)
    to_memory = sum(a.space == 0 for a in held) > sum(
        a.space == 0 for name in one.operands for a in at.instructions[name].arrays
    )
    return moving if from_memory else 0, moving if to_memory else 0


def _part(one: Instruction, index: int) -> int | None:
    """Bytes read of an operand by an instruction that may not read all of it."""
    if one.opcode in _PARTS and index == 0:
        return sum(a.nbytes for a in one.arrays)
    if one.opcode in ("dynamic-update-slice", "scatter") and index == 0:
        return 0
    return None


def _read_inside(program: HloModule, body: Computation, index: int) -> int | None:
    """Bytes a fusion reads of one operand; None for all of it."""
    total = 0
    queue = [body.parameters[index].name]
    while queue:
        name = queue.pop()
        for user in body.users.get(name, ()):
            if user.opcode in _THROUGH and not user.is_root:
                queue.append(user.name)
                continue
            places = [i for i, operand in enumerate(user.operands) if operand == name]
            inner = program.computations.get(user.called.get("calls", ""))
            for place in places:
                part = _read_inside(program, inner, place) if inner else _part(user, place)
                if part is None:
                    return None
                total += part
    return total


def _written(
    program: HloModule, at: Computation, one: Instruction, body: Computation | None
) -> int:
    updated = _update(program, at, one) if body is None else _update(program, body, body.root)
    whole = _off_chip(one)
    return whole if updated is None else min(whole, updated)


def _update(program: HloModule, at: Computation, root: Instruction) -> int | None:
    """Bytes an in-place update writes; None when the result is written whole."""
    if root.opcode == "dynamic-update-slice":
        return sum(a.nbytes for a in at.instructions[root.operands[1]].arrays)
    if root.opcode == "fusion":
        inner = program.computations[root.called["calls"]]
        return _update(program, inner, inner.root)
    if root.opcode == "bitcast":
        return _update(program, at, at.instructions[root.operands[0]])
    return None
