"""The roofline of a compiled GPU program: each kernel at the chip's peaks, one after another.

Launches and tile effects are left out, which is too fast; every array between kernels goes through
main memory, which is too slow where L2 would hold it. XLA's own cost model is not used: it judges
tile sizes that nobody tuned here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

from anychip.compilers import hlo
from anychip.compilers.hlo import Computation, HloModule, Instruction
from anychip.compilers.hlo_bytes import FREE, moved
from anychip.core import ChipSpec, Origin, Span

_FORMATS = {
    "bf16": ("bf16",),
    "f16": ("f16", "bf16"),
    "f32": ("tf32", "f32"),  # XLA's default precision of f32 products is TF32
    "s8": ("i8",),
    "u8": ("i8",),
    "f8e4m3fn": ("f8E4M3FN",),
    "f8e5m2": ("f8E5M2",),
}
"""HLO's element type → formats of ChipSpec.matmul_flops_per_s, the first known one counts."""

_MOVES = frozenset({"copy", "transpose", "broadcast", "reshape", "concatenate", "iota", "convert"})


def roofline(
    program: HloModule, spec: ChipSpec, origins: Mapping[str, Origin]
) -> tuple[tuple[Span, ...], str]:
    """Spans of one run, and a note that says what they are."""
    spans: list[Span] = []
    said: Counter[str] = Counter()
    _run(program, program.entry, spec, origins, spans, 1, said)
    note = (
        f"{len(spans)} kernels at the roofline: bytes over the spec's bandwidth or operations over "
        "its peak, whichever is longer; no launches, no L2; XLA has autotuned nothing"
    )
    for text, count in said.items():
        note += f"; {count} {text}"
    return tuple(spans), note


def _run(
    program: HloModule,
    at: Computation,
    spec: ChipSpec,
    origins: Mapping[str, Origin],
    spans: list[Span],
    times: int,
    said: Counter[str],
) -> None:
    for one in at.instructions.values():
        called = one.called
        if one.opcode in FREE or one.opcode.endswith("-done"):
            continue
        if one.opcode == "while":
            trips = hlo.trip_count(program, at, one)
            if trips is None:
                said["loops of unknown length, counted once"] += 1
            inner = times * (1 if trips is None else trips)
            _run(program, program.computations[called["body"]], spec, origins, spans, inner, said)
        elif one.opcode == "conditional":
            said["branches, all counted"] += 1
            for role, name in called.items():
                if role.startswith("branch"):
                    _run(program, program.computations[name], spec, origins, spans, times, said)
        elif one.opcode == "call":
            body = program.computations[called["to_apply"]]
            _run(program, body, spec, origins, spans, times, said)
        elif one.opcode == "async-start" and "calls" in called:
            _run(program, program.computations[called["calls"]], spec, origins, spans, times, said)
        else:
            _kernel(program, at, one, spec, origins, spans, times, said)


def _kernel(
    program: HloModule,
    at: Computation,
    one: Instruction,
    spec: ChipSpec,
    origins: Mapping[str, Origin],
    spans: list[Span],
    times: int,
    said: Counter[str],
) -> None:
    read, written = (times * n for n in moved(program, at, one))
    products, vector = _operations(program, at, one, said)
    memory_s = (read + written) / spec.main_memory.read_bytes_per_s.value
    compute_s = times * vector / spec.vector_flops_per_s.value
    for element, flops in products.items():
        compute_s += times * flops / _peak(spec, element)
    start = spans[-1].end_s if spans else 0.0
    spans.append(
        Span(
            resource="gpu",
            op=one.name,
            start_s=start,
            end_s=start + max(memory_s, compute_s),
            origin=origins.get(one.name, Origin()),
            flops=times * (vector + sum(products.values())),
            read_bytes=read,
            written_bytes=written,
            bound="memory" if memory_s >= compute_s else "compute",
        )
    )


def _peak(spec: ChipSpec, element: str) -> float:
    for name in _FORMATS.get(element, ()):
        if name in spec.matmul_flops_per_s:
            return spec.matmul_flops_per_s[name].value
    return spec.vector_flops_per_s.value


def _operations(
    program: HloModule, at: Computation, one: Instruction, said: Counter[str]
) -> tuple[Counter[str], int]:
    """(operations of matrix products by element type, operations of the vector units)."""
    products: Counter[str] = Counter()
    body = program.computations.get(one.called.get("calls", "")) if one.opcode == "fusion" else None
    if body is not None:
        vector = 0
        for inner in body.instructions.values():
            more, count = _operations(program, body, inner, said)
            products += more
            vector += count
        return products, vector
    size = max((math.prod(a.shape) for a in one.arrays), default=0)
    if one.opcode == "dot" or (one.opcode == "custom-call" and "contracting" in one.tail):
        left = at.instructions[one.operands[0]].arrays[0]
        dims = re.search(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([\d",]*)', one.tail)
        summed = [int(d) for d in re.findall(r"\d+", dims[1])] if dims else []
        products[left.element] += 2 * size * math.prod(left.shape[d] for d in summed)
        return products, 0
    if one.opcode == "convolution" or "__cudnn$conv" in one.tail:
        kernel = at.instructions[one.operands[1]].arrays[0]
        left = at.instructions[one.operands[0]].arrays[0]
        labels = re.search(r"dim_labels=\w+_(\w+)->", one.tail)
        outputs = kernel.shape[labels[1].index("o")] if labels else 1
        products[left.element] += 2 * one_size(one) * math.prod(kernel.shape) // max(outputs, 1)
        return products, 0
    if one.opcode == "custom-call":
        said["library calls counted by their bytes alone"] += 1
        return products, 0
    if one.opcode in FREE or one.opcode in _MOVES:
        return products, 0
    if one.opcode in ("reduce", "reduce-window"):
        operand = at.instructions[one.operands[0]].arrays
        return products, max((math.prod(a.shape) for a in operand), default=0)
    return products, size


def one_size(one: Instruction) -> int:
    """Elements of the first result: a library call's second is its workspace."""
    return math.prod(one.arrays[0].shape) if one.arrays else 0
