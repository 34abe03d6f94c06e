"""Trace: what happened when, on which resource, whether measured, simulated or estimated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from anychip.core.errors import UsageError
from anychip.core.origin import Origin

TraceKind = Literal["measured", "simulated", "estimated"]


@dataclass(frozen=True, kw_only=True)
class Span:
    """One op on one resource, in seconds from the start of the trace.

    Counters are of this span alone: bytes moved, floating-point operations, joules. None means
    the source of the trace does not tell.
    """

    resource: str
    op: str
    start_s: float
    end_s: float
    origin: Origin = Origin()
    flops: float | None = None
    read_bytes: float | None = None
    written_bytes: float | None = None
    joules: float | None = None
    bound: str = ""  # what limits it: "compute", "memory", "link", "overhead", "" when unknown

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Trace:
    """Spans sorted by (start_s, resource, op). `target` is the `chip:how` that ran."""

    kind: TraceKind
    target: str
    spans: tuple[Span, ...]
    note: str = ""

    def __post_init__(self) -> None:
        for span in self.spans:
            if span.end_s < span.start_s:
                raise UsageError(f"span {span.op} on {span.resource} ends before it starts")
        ordered = sorted(self.spans, key=lambda s: (s.start_s, s.resource, s.op))
        object.__setattr__(self, "spans", tuple(ordered))

    @property
    def seconds(self) -> float:
        """From the first start to the last end; 0 for an empty trace."""
        return max((s.end_s for s in self.spans), default=0.0) - min(
            (s.start_s for s in self.spans), default=0.0
        )

    def to_perfetto(self) -> str:
        """Trace Event JSON: a thread a resource, and for resources named `place/unit` a process a
        place, in the order of first use; opens in ui.perfetto.dev and chrome://tracing."""
        resources = sorted({s.resource for s in self.spans})
        tids = {name: index + 1 for index, name in enumerate(resources)}
        places = list(dict.fromkeys(s.resource.rpartition("/")[0] for s in self.spans))
        pids = {name: index + 1 for index, name in enumerate(places)}
        events: list[dict[str, object]] = []
        for place, pid in pids.items():
            title = f"{place}, " if place else ""
            for kind, args in (
                ("process_name", {"name": f"{title}{self.target} ({self.kind})"}),
                ("process_sort_index", {"sort_index": pid}),
            ):
                events.append({"ph": "M", "pid": pid, "name": kind, "args": args})
        for name, tid in tids.items():
            place, _, unit = name.rpartition("/")
            where = {"ph": "M", "pid": pids[place], "tid": tid}
            events.append({**where, "name": "thread_name", "args": {"name": unit}})
        for span in self.spans:
            counters = {
                "flops": span.flops,
                "read_bytes": span.read_bytes,
                "written_bytes": span.written_bytes,
                "joules": span.joules,
                "bound": span.bound or None,
                "layer": span.origin.layer or None,
                "source": span.origin.source or None,
            }
            events.append(
                {
                    "ph": "X",
                    "pid": pids[span.resource.rpartition("/")[0]],
                    "tid": tids[span.resource],
                    "name": span.op,
                    "cat": self.kind,
                    "ts": span.start_s * 1e6,
                    "dur": span.seconds * 1e6,
                    "args": {k: v for k, v in counters.items() if v is not None},
                }
            )
        return json.dumps(
            {
                "traceEvents": events,
                "displayTimeUnit": "ns",
                "otherData": {"kind": self.kind, "target": self.target, "note": self.note},
            }
        )
