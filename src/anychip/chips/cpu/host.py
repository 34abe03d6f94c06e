"""The ChipSpec of this host: measured once, kept as JSON, measured again when the host changed."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from anychip.chips.cpu.system import Host, busy_share, cpu_seconds, others_share, this_host
from anychip.compilers.cache import keep, locked_file
from anychip.core import ChipSpec, Fact, MemorySpec
from anychip.core.spec import Confidence

_POWERCAP = Path("/sys/class/powercap")
_BUSY = 0.1
"""Share of the CPUs taken by other programs from which a measurement is not trusted."""

Samples = Mapping[str, Sequence[float]]


def host_spec(
    home: Path,
    *,
    again: bool = False,
    host: Host | None = None,
    measure: Callable[[Host], tuple[Samples, float]] | None = None,
    busy: Callable[[], float] | None = None,
) -> ChipSpec:
    """The spec in `home`, measured first where there is none for this host (or `again`).

    A measurement taken while other programs kept the CPUs busy is marked so, and taken again once
    they are quiet. An unreadable file is replaced, and the spec's note says so. The last three
    arguments stand in for the real ones in tests.
    """
    host, measure, busy = host or this_host(), measure or _measure, busy or busy_share
    path = home / "host.json"
    # Held while measuring: two measurements at a time would disturb each other.
    with locked_file(path.with_suffix(".lock"), 120.0, "measuring this host"):
        record, note = _stored(path, host)
        if record is not None and not again:
            was_busy = record["busy"] > _BUSY
            if not was_busy or busy() > _BUSY:
                return _spec(record, host)
        samples, others = measure(host)
        record = {
            "fingerprint": host.fingerprint,
            "date": date.today().isoformat(),
            "busy": others,
            "note": note,
            "samples": samples,
        }
        if unkept := keep(path, json.dumps(record, indent=1), home):
            record["note"] = f"{note} {unkept}".strip()
        return _spec(record, host)


def _stored(path: Path, host: Host) -> tuple[dict[str, Any] | None, str]:
    """(the record for this host, what a new one must say of the file it replaces)."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["fingerprint"] != host.fingerprint:
            return None, ""
        _spec(record, host)
        return record, ""
    except FileNotFoundError:
        return None, ""
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return None, f"{path} could not be read ({type(error).__name__}) and was measured anew."


def _measure(host: Host) -> tuple[Samples, float]:
    """The samples, and the share of the CPUs that other programs took meanwhile."""
    from anychip.chips.cpu.measure import measure

    before = cpu_seconds()
    samples = measure(host.cache_bytes, host.memory_bytes, _POWERCAP)
    return samples, others_share(before, cpu_seconds())


def _spec(record: Mapping[str, Any], host: Host) -> ChipSpec:
    samples: Samples = record["samples"]
    is_busy = record["busy"] > _BUSY
    confidence: Confidence = "low" if is_busy else "high"
    where = f"measured on {host.machine}, {record['date']}, "

    def rate(names: Sequence[str], how: str, note: str = "") -> Fact:
        """The best seen: other programs only ever slow a run down. Low is the 10th percentile."""
        values = sorted(v for name in names for v in samples[name])
        return Fact(
            value=values[-1],
            low=values[len(values) // 10],
            high=values[-1],
            source=where + how,
            confidence=confidence,
            note=note,
        )

    def share(parts: Mapping[str, str], how: str) -> Fact:
        """Median of best-over-best ratios, each at most 1, with the extremes as range."""
        ratios = sorted(min(1.0, max(samples[a]) / max(samples[b])) for a, b in parts.items())
        middle = ratios[len(ratios) // 2]
        return Fact(
            value=middle,
            low=ratios[0],
            high=ratios[-1],
            source=where + how,
            confidence=confidence,
        )

    def reached(name: str, best_of: Sequence[str], how: str) -> Fact:
        """Median, 10th percentile and best of one benchmark over the best of several."""
        best = max(v for one in best_of for v in samples[one])
        ratios = sorted(v / best for v in samples[name])
        return Fact(
            value=ratios[len(ratios) // 2],
            low=ratios[len(ratios) // 10],
            high=ratios[-1],
            source=where + how,
            confidence=confidence,
        )

    def cost(names: Sequence[str], how: str) -> Fact:
        """Median of each one's least; the range runs to the slowest one's median."""
        least = sorted(min(samples[name]) for name in names)
        typical = max(sorted(samples[name])[len(samples[name]) // 2] for name in names)
        value = least[len(least) // 2]
        return Fact(
            value=value,
            low=least[0],
            high=max(value, typical),
            source=where + how,
            confidence=confidence,
        )

    def each(many: str, few: str, more: int, how: str) -> Fact:
        """What one of so many more costs, by the least of each; the range by the medians."""
        middle = [sorted(samples[name])[len(samples[name]) // 2] for name in (many, few)]
        value = max((min(samples[many]) - min(samples[few])) / more, 0.0)
        typical = max((middle[0] - middle[1]) / more, 0.0)
        return Fact(
            value=value,
            low=min(value, typical),
            high=max(value, typical),
            source=where + how,
            confidence=confidence,
        )

    def only(name: str, how: str) -> Fact | None:
        values = samples.get(name) or [0.0]
        if values[0] <= 0:
            return None
        return Fact(value=values[0], source=where + how, confidence="medium")

    reported = f"reported by {platform.system()} on {host.machine}"
    reads = ("read_bytes_per_s", "matvec_f32_bytes_per_s")
    formats = ("f32", "bf16", "i8")
    dots = {f"rows_64_{e}_flops_per_s": f"matmul_{e}_flops_per_s" for e in formats}
    busy_note = (
        f"Measured while other programs took {record['busy']:.0%} of the CPUs: expect better; "
        "measured again by itself once they are quiet."
        if is_busy
        else ""
    )
    return ChipSpec(
        name="cpu",
        title=f"This host ({host.machine})",
        vendor=host.vendor,
        family="cpu",
        note=" ".join(part for part in (record["note"], busy_note) if part),
        matmul_flops_per_s={
            e: rate(
                [f"matmul_{e}_flops_per_s"],
                "XLA dot of square matrices up to 2048, all threads",
                "" if e == "f32" else f"added up in {'f32' if e == 'bf16' else 'i32'}",
            )
            for e in formats
        },
        vector_flops_per_s=rate(
            ["vector_flops_per_s"], "XLA loop of 64 multiply-adds on 2^20 f32, all threads"
        ),
        memory=(
            MemorySpec(
                name="dram",
                capacity_bytes=Fact(value=float(host.memory_bytes), source=reported),
                read_bytes_per_s=rate(
                    reads, "XLA sum and matrix-vector product beyond cache size, all threads"
                ),
                read_j_per_byte=only("read_j_per_byte", "RAPL above idle during the same sum"),
            ),
            MemorySpec(
                name="llc",
                capacity_bytes=Fact(value=float(host.cache_bytes), source=reported),
                read_bytes_per_s=rate(
                    ["cache_read_bytes_per_s"], "XLA sum over half the last-level cache"
                ),
                holds=("activations",),
            ),
        ),
        matmul_efficiency=share(dots, "XLA dot of 64 rows with 2048x2048, against the large one"),
        memory_efficiency=reached(
            "matvec_f32_bytes_per_s", reads, "XLA matrix-vector product in f32, against the best"
        ),
        per_kernel_s=cost(
            ["kernel_small_s", "kernel_s"], "XLA chain of 64 matmuls of 16x16 and of 64x64"
        ),
        per_step_s=cost(["step_s"], "one call of an XLA program with 256 arguments"),
        tdp_w=only("tdp_w", "powercap long-term limit, all packages"),
        idle_w=only("idle_w", "RAPL over half a second of sleep"),
        mac_j=only("mac_j", "RAPL above idle during the f32 matmul"),
        about={
            "cores_count": Fact(value=float(host.cores), source=reported),
            "convolution_flops_per_s": rate(
                ["convolution_flops_per_s"], "XLA 3x3 convolution of 32x32x96, all threads"
            ),
            "fresh_write_bytes_per_s": rate(
                ["fresh_write_bytes_per_s"], "XLA fill of a new array of 64 MiB"
            ),
            "rows_64_flops_per_s": rate(
                ["rows_64_f32_flops_per_s"], "XLA dot of 64 rows with 2048x2048 in f32, all threads"
            ),
            "call_s": cost(["call_s"], "one call of an XLA program with two arguments"),
            "argument_s": each(
                "step_s", "call_s", 254, "XLA calls with 256 and with two arguments, one by one"
            ),
            "row_attention_flops_per_s": rate(
                ["row_attention_flops_per_s"],
                "XLA cached attention of one f32 row, 8 heads of 64 over 768 slots",
            ),
            "turn_bytes_per_s": rate(
                ["turn_bytes_per_s"], "XLA transpose of 512x512 f32 and an add, all threads"
            ),
            "transcendentals_per_s": rate(["tanh_per_s"], "XLA tanh of 2^20 f32, all threads"),
            "read_1_thread_bytes_per_s": rate(
                ["read_1_thread_bytes_per_s"], "XLA sum beyond cache size, one thread"
            ),
            "matvec_bf16_bytes_per_s": rate(
                ["matvec_bf16_bytes_per_s"], "XLA multiply and reduce of bf16 weights, all threads"
            ),
        },
    )
