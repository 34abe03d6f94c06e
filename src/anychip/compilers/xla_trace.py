"""One profiled run on XLA:CPU as spans: each op of the optimised HLO and its place in the model."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anychip.compilers.xla_input import origin_of
from anychip.core import Origin, Span

_CONTAINERS = frozenset({"while", "conditional", "call"})


@dataclass(frozen=True)
class HloOp:
    """One instruction of the optimised HLO."""

    name: str
    opcode: str
    operands: tuple[str, ...]
    op_name: str


_LINE = re.compile(
    r"^\s*(?:ROOT )?%(?P<name>[\w.\-]+) = .*?\s(?P<opcode>[a-z][a-z0-9\-]*)\((?P<rest>.*)$"
)
_OP_NAME = re.compile(r'op_name="([^"]*)"')


def hlo_ops(text: str) -> dict[str, HloOp]:
    """The instructions of an HLO module's text, by name."""
    ops: dict[str, HloOp] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            named = _OP_NAME.search(match["rest"])
            operands = tuple(re.findall(r"%([\w.\-]+)", match["rest"].partition(")")[0]))
            op_name = named[1] if named else ""
            ops[match["name"]] = HloOp(match["name"], match["opcode"], operands, op_name)
    return ops


def hlo_origins(ops: Mapping[str, HloOp], table: tuple[str, ...]) -> dict[str, Origin]:
    """Each instruction's origin.

    XLA drops the name of some it rewrites; those take that of what they feed, else of what feeds
    them.
    """
    found = {name: origin_of(op.op_name, table) for name, op in ops.items()}
    known = {name for name, origin in found.items() if origin != Origin()}
    users: dict[str, list[str]] = {}
    for name, op in ops.items():
        for operand in op.operands:
            users.setdefault(operand, []).append(name)
    for _ in range(4):  # a chain of rewritten ops is short
        for name, op in ops.items():
            near = [n for n in (*users.get(name, ()), *op.operands) if n in known]
            if name not in known and near:
                found[name] = found[near[0]]
        known = {name for name, origin in found.items() if origin != Origin()}
    return found


def profile(
    run: Callable[[], Any], hlo: str, table: tuple[str, ...], module_name: str
) -> tuple[tuple[Span, ...], str]:
    """Run once under JAX's profiler; `run` must return when the work is done.

    Returns the spans, in seconds from the start of the run, and a note on what they cover. When
    the profiler gives no ops, the one span is the whole run and the note says so.
    """
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 2  # 1 leaves out the ops
    with tempfile.TemporaryDirectory(prefix="anychip-trace-") as folder:
        try:
            jax.profiler.start_trace(folder, profiler_options=options)
        except RuntimeError as error:  # one profile at a time in a process
            wall_s = _timed(run)
            return _whole(module_name, wall_s), f"whole run only: {error}"
        try:
            wall_s = _timed(run)
        finally:
            jax.profiler.stop_trace()
        files = list(Path(folder).rglob("*.xplane.pb"))
        raw = list(_ops(jax.profiler.ProfileData.from_file(str(files[0])))) if files else []
    ops = hlo_ops(hlo)
    raw = [one for one in raw if one.op in ops]
    if not raw:
        return _whole(module_name, wall_s), "whole run only: the profiler recorded no ops"
    spans = _spans(raw, ops, hlo_origins(ops, table))
    return spans, _note(spans, wall_s)


def profile_stored(
    code: bytes, arguments: Sequence[Any], hlo: str, table: tuple[str, ...], module_name: str
) -> tuple[tuple[Span, ...], str]:
    """`profile` of a serialised executable on numpy arguments, after a run to warm up."""
    import jax

    from anychip.compilers import pjrt

    at = pjrt.client(None)
    pjrt.load_lapack()
    loaded = pjrt.deserialize(at, code)

    def placed() -> list[Any]:
        return [pjrt.put(at, one, copy=True) for one in arguments]

    jax.block_until_ready(pjrt.execute(loaded, placed()))
    ready = placed()
    return profile(
        lambda: jax.block_until_ready(pjrt.execute(loaded, ready)), hlo, table, module_name
    )


def _timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _whole(name: str, wall_s: float) -> tuple[Span, ...]:
    return (Span(resource="cpu", op=name, start_s=0.0, end_s=wall_s),)


def _note(spans: tuple[Span, ...], wall_s: float) -> str:
    covered = covered_seconds(spans)
    return (
        f"{len(spans)} ops; some op was running for {covered * 1e3:.3g} ms of the "
        f"{wall_s * 1e3:.3g} ms that this profiled run took; an op that XLA splits over threads "
        "lasts until its last part"
    )


def covered_seconds(spans: tuple[Span, ...]) -> float:
    """Time during which at least one span runs."""
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda s: s.start_s):
        total += max(0.0, span.end_s - max(span.start_s, until))
        until = max(until, span.end_s)
    return total


@dataclass(frozen=True)
class _Op:
    """One execution of an HLO op as recorded, in nanoseconds."""

    op: str
    start_ns: float
    end_ns: float


def _ops(data: Any) -> Iterator[_Op]:
    """XLA marks an op's start with an event, and its end with another that names the first's id.

    The two may be on different threads: an op ends where its last part does.
    """
    started: dict[int, _Op] = {}
    ended: dict[int, float] = {}
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    end_ns = event.start_ns + event.duration_ns
                    identity = stats.get("_p", -1 - len(started))
                    started[identity] = _Op(str(stats["hlo_op"]), event.start_ns, end_ns)
                elif "_c" in stats and event.name.startswith("end: "):
                    ended[stats["_c"]] = event.start_ns
    for identity, one in started.items():
        yield _Op(one.op, one.start_ns, max(one.end_ns, ended.get(identity, one.end_ns)))


def _spans(
    raw: list[_Op], ops: Mapping[str, HloOp], origins: Mapping[str, Origin]
) -> tuple[Span, ...]:
    """Leaf ops on as few lanes as run at once. (XLA's worker threads are interchangeable.)"""
    raw = sorted(raw, key=lambda o: (o.start_ns, -o.end_ns))
    lanes: list[float] = []
    spans: list[Span] = []
    for one, following in zip(raw, [*raw[1:], None], strict=True):
        holds = following is not None and following.end_ns <= one.end_ns
        if holds and ops[one.op].opcode in _CONTAINERS:
            continue  # its body's ops are spans themselves
        lane = next((i for i, free in enumerate(lanes) if free <= one.start_ns), len(lanes))
        lanes[lane : lane + 1] = [one.end_ns]
        spans.append(
            Span(
                resource=f"cpu lane {lane}",
                op=one.op,
                start_s=(one.start_ns - raw[0].start_ns) * 1e-9,
                end_s=(one.end_ns - raw[0].start_ns) * 1e-9,
                origin=origins[one.op],
            )
        )
    return tuple(spans)
