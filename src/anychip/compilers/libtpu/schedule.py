"""The estimated Trace of a program libtpu compiled: its own schedule, replayed against HBM.

An op takes the longer of its cycles (the static schedule of the compiler's low-level code, else the
compiler's estimate) and its HBM traffic. Asynchronous copies queue at HBM while the core goes on;
HBM serves one request after another, so no program beats the bytes it moves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from anychip.compilers import hlo
from anychip.compilers.hlo import Computation, HloModule, Instruction
from anychip.compilers.hlo_bytes import FREE, moved
from anychip.core import Origin, Span

_LLO = re.compile(r'"bundle_analysis_data":\{"estimated_cycles":"(\d+)"')
_WINDOW = re.compile(r'"estimated_cycles":"(\d+)"')
_NEXT_RUN = "cross_program_prefetch_index"
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Clockwork:
    """The figures the schedule is replayed with, per device: from the chip's spec.

    `collective_s(kind, bytes, chips)` is the link model.
    """

    clock_hz: float
    hbm_bytes_per_s: float
    collective_s: Callable[[str, float, int], float]


@dataclass
class _State:
    """Two resources and what is under way. Times in seconds from the start."""

    core_s: float = 0.0
    hbm_s: float = 0.0
    link_s: float = 0.0
    ready_s: dict[str, float] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    costed: Counter[str] = field(default_factory=Counter)
    next_run_bytes: int = 0


def replay(
    program: HloModule, clockwork: Clockwork, origins: Mapping[str, Origin]
) -> tuple[tuple[Span, ...], str]:
    """Spans of one run, and a note that says how each was costed."""
    state = _State()
    _run(program, program.entry, clockwork, origins, state, 1)
    if state.next_run_bytes:
        start = max(state.hbm_s, state.core_s - state.next_run_bytes / clockwork.hbm_bytes_per_s)
        end = start + state.next_run_bytes / clockwork.hbm_bytes_per_s
        state.spans.append(
            Span(
                resource="hbm",
                op="prefetch for the next run",
                start_s=start,
                end_s=end,
                read_bytes=state.next_run_bytes,
                bound="memory",
            )
        )
    return tuple(state.spans), _note(state)


def _note(state: _State) -> str:
    parts = {
        "llo": "by the static schedule of the compiler's low-level code (LLO)",
        "hlo": "by the compiler's HLO estimate",
        "bytes": "by HBM bytes alone",
        "copy": "asynchronous copies by bytes",
        "link": "collectives by the link model",
        "unknown loop": "loops of unknown length, counted once",
        "branch": "branches, the longest taken",
        "nothing": "without any figure, counted as 0",
    }
    said = ", ".join(
        f"{state.costed[key]} {text}" for key, text in parts.items() if state.costed[key]
    )
    note = f"ops costed: {said}; each also by its HBM bytes over the spec's bandwidth"
    if state.next_run_bytes:
        note += (
            f"; {state.next_run_bytes / 1e6:.3g} MB of arguments are prefetched while the previous "
            "run ends, as libtpu does, so this trace shows the steady state"
        )
    return note


def _run(
    program: HloModule,
    at: Computation,
    clockwork: Clockwork,
    origins: Mapping[str, Origin],
    state: _State,
    times: int,
) -> None:
    for one in at.instructions.values():
        called = one.called
        if one.opcode == "while":
            trips = hlo.trip_count(program, at, one)
            if trips is None:
                state.costed["unknown loop"] += 1
            inner = times * (1 if trips is None else trips)
            for role in ("condition", "body"):
                _run(program, program.computations[called[role]], clockwork, origins, state, inner)
        elif one.opcode == "conditional":
            _longest(program, one, clockwork, origins, state, times)
        elif one.opcode == "call":
            body = program.computations[called["to_apply"]]
            _run(program, body, clockwork, origins, state, times)
        else:
            _step(program, at, one, clockwork, origins, state, times)


def _longest(
    program: HloModule,
    one: Instruction,
    clockwork: Clockwork,
    origins: Mapping[str, Origin],
    state: _State,
    times: int,
) -> None:
    """Replay every branch by itself, then the longest for good."""
    state.costed["branch"] += 1
    branches = [program.computations[n] for r, n in one.called.items() if r.startswith("branch")]
    seconds: list[float] = []
    for branch in branches:
        alone = _State()
        _run(program, branch, clockwork, origins, alone, times)
        seconds.append(max(alone.core_s, alone.hbm_s))
    if branches:
        _run(
            program,
            branches[seconds.index(max(seconds))],
            clockwork,
            origins,
            state,
            times,
        )


def _step(
    program: HloModule,
    at: Computation,
    one: Instruction,
    clockwork: Clockwork,
    origins: Mapping[str, Origin],
    state: _State,
    times: int,
) -> None:
    if one.opcode in FREE or 'custom_call_target="ConcatBitcast"' in one.tail:
        return
    base = one.opcode.removesuffix("-start").removesuffix("-done")
    origin = origins.get(one.name, Origin())
    if one.opcode.endswith("-done"):
        started = state.ready_s.pop(one.operands[0], 0.0) if one.operands else 0.0
        state.core_s = max(state.core_s, started)
        return
    if base in COLLECTIVES:
        _collective(at, one, base, clockwork, origin, state, times)
        return
    read, written = (times * n for n in moved(program, at, one))
    traffic_s = (read + written) / clockwork.hbm_bytes_per_s
    if one.opcode.endswith("-start"):
        if _NEXT_RUN in one.tail:
            state.next_run_bytes += read
            return
        state.costed["copy"] += 1
        start = max(state.core_s, state.hbm_s)
        state.hbm_s = start + traffic_s
        state.ready_s[one.name] = state.hbm_s
        _span(state, "hbm", one, origin, start, state.hbm_s, read, written, "memory")
        return
    cycles = _cycles(program, one, read + written, state)
    busy_s = times * cycles / clockwork.clock_hz
    start, memory_end = state.core_s, 0.0
    if traffic_s:
        memory_end = max(start, state.hbm_s) + traffic_s
        state.hbm_s = memory_end
    state.core_s = max(start + busy_s, memory_end)
    bound = "memory" if memory_end > start + busy_s else "compute"
    if state.core_s > start:
        _span(state, "core", one, origin, start, state.core_s, read, written, bound)


def _cycles(program: HloModule, one: Instruction, traffic: int, state: _State) -> int:
    """Cycles of one execution, and a mark of where they are from.

    Without the static schedule, an op that streams from HBM and multiplies no matrices is costed
    by its bytes: the compiler's estimate is two to three times too long for those.
    """
    if found := _LLO.search(one.tail):
        state.costed["llo"] += 1
        return int(found[1])
    estimate = _WINDOW.search(one.tail)
    if estimate and (not traffic or _multiplies(program, one)):
        state.costed["hlo"] += 1
        return int(estimate[1])
    state.costed["bytes" if traffic else "nothing"] += 1
    return 0


def _multiplies(program: HloModule, one: Instruction) -> bool:
    if one.opcode in ("convolution", "dot"):
        return True
    body = program.computations.get(one.called.get("calls", ""))
    return body is not None and any(_multiplies(program, i) for i in body.instructions.values())


def _collective(
    at: Computation,
    one: Instruction,
    kind: str,
    clockwork: Clockwork,
    origin: Origin,
    state: _State,
    times: int,
) -> None:
    """On the link. A synchronous one holds the core."""
    state.costed["link"] += 1
    inputs = sum(a.nbytes for name in one.operands for a in at.instructions[name].arrays)
    chips = group_size(one.tail)
    size = inputs * chips if kind == "all-gather" else inputs
    seconds = times * clockwork.collective_s(kind, size, chips)
    start = max(state.core_s, state.link_s)
    state.link_s = start + seconds
    if one.opcode.endswith("-start"):
        state.ready_s[one.name] = state.link_s
    else:
        state.core_s = state.link_s
    _span(state, "link", one, origin, start, state.link_s, inputs, inputs, "link")


def group_size(tail: str) -> int:
    """Devices in each group of a collective; 2 for a permute, which has pairs."""
    if shape := re.search(r"replica_groups=\[(\d+),(\d+)\]", tail):
        return int(shape[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", tail):
        return len(listed[1].split(","))
    return 2


def _span(
    state: _State,
    resource: str,
    one: Instruction,
    origin: Origin,
    start_s: float,
    end_s: float,
    read: int,
    written: int,
    bound: str,
) -> None:
    state.spans.append(
        Span(
            resource=resource,
            op=one.name,
            start_s=start_s,
            end_s=end_s,
            origin=origin,
            read_bytes=read,
            written_bytes=written,
            bound=bound,
        )
    )
